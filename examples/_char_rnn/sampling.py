"""The text that the model of `char_rnn.py` writes."""

import argparse
import functools

import jax
from _char_rnn.checkpoints import restore
from _char_rnn.model import make_model
from _char_rnn.options import parser
from _char_rnn.text import encode

import seqjax as sj


def make_writer(model: sj.Model, vocabulary: str, options):
    @functools.partial(jax.jit, static_argnames="length")
    def generate(params, prompt, key, length):
        how = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
        return sj.generate(model, params, prompt, length, key=key, **how)[1]

    def write(params, key, length: int, prime: str = "") -> str:
        # A text with nothing before it begins a new line.
        prompt = encode(prime or ("\n" if "\n" in vocabulary else vocabulary[0]), vocabulary)
        if (prompt < 0).any():
            strange = "".join(sorted(set(prime) - set(vocabulary)))
            parser.error(f"--prime: expected characters of the text learned, got {strange!r}")
        # One device is enough, whatever the parameters lie on.
        written = generate(jax.device_get(params), prompt, key, length).tolist()
        if -1 in written:
            parser.error("the model has no finite logits: no character can be drawn")
        return "".join(vocabulary[i] for i in written)

    return write


def write_sample(options, checkpoints):
    notes = restore(checkpoints, "notes")
    vocabulary, trained = notes["vocabulary"], argparse.Namespace(**notes["options"])
    model = make_model(len(vocabulary), trained)
    params = restore(checkpoints, "params", jax.eval_shape(model.init, jax.random.key(0)))
    write = make_writer(model, vocabulary, options)
    text = write(params, jax.random.key(options.seed), options.sample, options.prime)
    print(options.prime + text)
