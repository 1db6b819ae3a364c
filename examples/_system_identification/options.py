"""The options of `system_identification.py`. Their defaults are at the top of the script."""

import argparse

from _common import number
from _system_identification.systems import systems

parser = argparse.ArgumentParser(
    description="Identifies a dynamic system with every kind of model.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option, size = parser.add_argument, number(int, 1)
option("--data", metavar="FILE", help="a CSV file with a header (may be .gz); simulated if absent")
option("--inputs", nargs="+", metavar="COLUMN", help="by name; the file's first one if absent")
option("--outputs", nargs="+", metavar="COLUMN", help="by name; the file's second one if absent")
option("--length", type=size, help="steps to simulate")
option("--noise", type=number(float, 0), help="in standard deviations of the output")
option("--models", nargs="+", choices=systems(1, 1, 1))
option("--hidden-size", type=size)
option("--updates", type=size, help="for each model")
option("--batch-size", type=size, help="windows of the record in an update")
option("--span", type=size, help="scored steps of a window")
option("--learning-rate", type=number(float, 1e-9), help="it decays to 0")
option("--seed", type=number(int, 0))
option("--out", metavar="DIR", help="for the figure")
