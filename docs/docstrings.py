"""Makes Markdown of what the docstrings write in plain text, for mkdocstrings."""

import re
from typing import Any

import griffe

# An example, from its first prompt to the empty line after it.
DOCTEST = re.compile(r"^>>> .*(?:\n.*\S.*)*", re.M)
# "A cell with params {…: …}", whose colon would be taken for the end of a type.
SENTENCE = re.compile(r"^Returns:\n  (?=An? )", re.M)
SECTION = re.compile(r"[Nn]otes, sections? (\d)")
SECTIONS = {  # the headings of notes.md
    "1": "1-finite-response",
    "2": "2-infinite-response",
    "3": "3-the-state-space-model",
    "4": "4-training",
    "5": "5-two-directions",
    "6": "6-characters",
}


def link(match: re.Match) -> str:
    return f"[{match[0]}][{SECTIONS[match[1]]}]"


class Docstrings(griffe.Extension):
    """Doctests become blocks of code, sections of the notes links, and results have a type."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            text = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = SECTION.sub(link, text)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        for parameter in func.parameters:
            if str(parameter.default) == "_BPTT":  # the one that all calls share
                parameter.default = "BPTT()"
        if func.docstring:
            typed = f"Returns:\n  {func.returns}: "
            func.docstring.value = SENTENCE.sub(lambda _: typed, func.docstring.value)
