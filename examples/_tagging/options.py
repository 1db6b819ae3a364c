"""The options of `tagging.py`. Their defaults are at the top of the script."""

import argparse

from _common import number

parser = argparse.ArgumentParser(
    description="Tags source code with a forward-only and a bidirectional GRU, then with CTC.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option, size = parser.add_argument, number(int, 1)
option(
    "--data", metavar="PATH", help="a Python file or a folder; the standard library if not given"
)
option("--hidden-size", type=size, help="units of the forward-only net")
option("--batch-size", type=size, help="lines in one update")
option("--updates", type=size, help="of each of the four trainings")
option("--seed", type=number(int, 0), help="of parameters and batches")
option("--out", metavar="DIR", help="for the figure")
