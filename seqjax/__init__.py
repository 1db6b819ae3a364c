"""seqjax: functional sequence modelling in JAX, with gradients through time by hand."""

from seqjax import testing, train
from seqjax.adjoint import BPTT, Adjoint, Autodiff
from seqjax.cell import Cell
from seqjax.cells.dense import dense
from seqjax.cells.gru import gru
from seqjax.cells.lstm import LSTMState, lstm
from seqjax.cells.own import cell
from seqjax.cells.rnn import rnn
from seqjax.compose import stack
from seqjax.generate import generate, sample
from seqjax.rows import matmul
from seqjax.unroll import Model, unroll

__all__ = [
    "BPTT",
    "Adjoint",
    "Autodiff",
    "Cell",
    "LSTMState",
    "Model",
    "cell",
    "dense",
    "generate",
    "gru",
    "lstm",
    "matmul",
    "rnn",
    "sample",
    "stack",
    "testing",
    "train",
    "unroll",
]
__version__ = "0.1.0"
