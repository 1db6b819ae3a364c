"""The options of `long_memory.py`. Their defaults are at the top of the script."""

import argparse

from _common import number
from _long_memory.systems import SYSTEMS

parser = argparse.ArgumentParser(
    description="Compares how well recurrent systems remember, and shows why.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option, size, length = parser.add_argument, number(int, 1), number(int, 2)
option("--problems", nargs="+", choices=("adding", "copy"))
option("--systems", nargs="+", choices=tuple(SYSTEMS))
option("--adding-length", type=length, metavar="T", help="published: 600")
option("--copy-length", type=length, metavar="T", help="published: 1000")
option("--hidden-size", type=size, metavar="H")
option("--batch-size", type=size, metavar="N", help="new series in every update")
option("--updates", type=size, metavar="N", help="for each system and problem")
option("--learning-rate", type=number(float, 1e-9), help="it decays to 0")
option("--seed", type=number(int, 0), help="of parameters and training series")
option("--out", metavar="DIR", help="for the figure")
