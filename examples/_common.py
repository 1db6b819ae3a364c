"""What the examples share: numbers within bounds as options, a console, a folder to write to."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)


def number(kind: type, low: float, high: float = math.inf) -> Callable:
    """The `type` of an option: a number within bounds, or an error that names them."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:
            noun = "an integer" if kind is int else "a number"
            bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected {noun} {bounds}, got {text!r}")
        return value

    return parse


def make_folder(parser: argparse.ArgumentParser, path: str) -> Path:
    """The folder that `--out` names."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: expected a folder, got {path} ({error.strerror})")
    return Path(path)
