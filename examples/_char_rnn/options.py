"""The options of `char_rnn.py`. Their defaults are at the top of the script."""

import argparse
from pathlib import Path

from _common import number

parser = argparse.ArgumentParser(
    description="Trains a character-level LSTM language model, and writes text with it.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option, size, rate = parser.add_argument, number(int, 1), number(float, 1e-9)
option("--data", metavar="FILE", help="a text in UTF-8; Python's standard library if not given")
option("--val-fraction", type=number(float, 0.001, 0.5), help="the text's end")
option("--embedding-size", type=size, help="numbers that stand for a character")
option("--hidden-size", type=size, help="units of each LSTM layer")
option("--layers", type=size, help="LSTM layers")
option("--batch-size", type=size, help="parallel streams")
option("--seq-length", type=size, help="characters of a stream in one update")
option("--steps", type=size, help="updates, in total")
option("--learning-rate", type=rate, help="peak: it warms up and decays to 0")
option("--grad-clip", type=rate, help="largest norm of the gradient")
option("--seed", type=number(int, 0), help="of parameters and samples")
option("--eval-every", type=size, help="updates between validations, with a sample")
option("--devices", type=size, metavar="N", help="to train on; all by default, a CPU's cores")
option("--out", metavar="DIR", help="for checkpoint and figures")
task = parser.add_mutually_exclusive_group().add_argument
task("--resume", action="store_true", help="continue from the checkpoint in --out")
task("--overwrite", action="store_true", help="start anew, over the checkpoint in --out")
task("--sample", type=size, metavar="N", help="write N characters with the checkpoint in --out")
option("--prime", default="", metavar="TEXT", help="what the sample begins with")
option("--temperature", type=number(float, 0), help="0 takes the most likely character")
option("--top-k", type=size, metavar="K", help="sample among the K most likely characters")
option("--top-p", type=number(float, 1e-6, 1.0), metavar="P", help="sample from this nucleus")

# What a checkpoint remembers of the options; --resume may change those of the second line.
SIZES = ("embedding_size", "hidden_size", "layers", "batch_size", "seq_length")
FIXED = ("data", "val_fraction", *SIZES, "seed")
REMEMBERED = (*FIXED, "steps", "learning_rate", "grad_clip", "eval_every")


def parse(argv, remembered: dict | None = None) -> argparse.Namespace:
    """The options of a command line, which override those that a checkpoint remembers."""
    remembered = remembered or {}
    options = parser.parse_args(argv, argparse.Namespace(**remembered))
    options.data = options.data and str(Path(options.data).resolve())
    for name in FIXED if remembered else ():
        if getattr(options, name) != remembered[name]:
            parser.error(f"--{name.replace('_', '-')}: expected {remembered[name]}, which the "
                         f"checkpoint has, got {getattr(options, name)}")  # fmt: skip
    return options
