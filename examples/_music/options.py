"""The options of `music.py`. Their defaults are at the top of the script."""

import argparse

from _common import number

parser = argparse.ArgumentParser(
    description="Trains stacked LSTMs on polyphonic music, and writes a piece with them.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option, size = parser.add_argument, number(int, 1)
option("--data", metavar="FILE", help="an .npz file of piano rolls; made-up music if not given")
option("--hidden-size", type=size, help="units of each LSTM layer")
option("--layers", type=size, help="LSTM layers")
option("--dropout", type=number(float, 0, 0.99), help="after each layer, in training")
option("--batch-size", type=size, help="pieces in one update")
option("--span", type=size, help="steps of a piece in one update, at most")
option("--steps", type=size, help="updates, in total")
option("--learning-rate", type=number(float, 1e-9), help="peak: it warms up and decays to 0")
option("--seed", type=number(int, 0), help="of parameters, batches and what is written")
option("--eval-every", type=size, help="updates between validations")
option("--length", type=size, help="steps to write")
option("--opening", type=size, help="steps of a test piece that it begins with")
option("--voices", type=number(int, 1, 88), help="keys in each step that is written")
option("--temperature", type=number(float, 1e-3), help="below 1: what is likely is likelier")
option("--tempo", type=number(float, 1, 10_000), help="of the MIDI file, in steps per minute")
option("--out", metavar="DIR", help="for the figure and the MIDI file")
