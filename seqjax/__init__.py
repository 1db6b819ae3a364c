"""seqjax: functional sequence modelling in JAX, with gradients through time by hand."""

from seqjax import testing, train
from seqjax.adjoint import BPTT, Adjoint, Autodiff
from seqjax.cell import Cell
from seqjax.cells.dense import dense
from seqjax.cells.elman import elman
from seqjax.cells.gru import gru
from seqjax.cells.jordan import JordanState, jordan
from seqjax.cells.lstm import LSTMState, lstm
from seqjax.cells.memory import MemoryState, memory
from seqjax.cells.own import cell
from seqjax.cells.rnn import rnn
from seqjax.compose import bidirectional, stack
from seqjax.generate import generate, sample
from seqjax.narx import NARXState, narx
from seqjax.rows import matmul
from seqjax.tdnn import tdnn
from seqjax.teacher_force import teacher_force, warm_start
from seqjax.unroll import Model, unroll

__all__ = [
    "BPTT",
    "Adjoint",
    "Autodiff",
    "Cell",
    "JordanState",
    "LSTMState",
    "MemoryState",
    "Model",
    "NARXState",
    "bidirectional",
    "cell",
    "dense",
    "elman",
    "generate",
    "gru",
    "jordan",
    "lstm",
    "matmul",
    "memory",
    "narx",
    "rnn",
    "sample",
    "stack",
    "tdnn",
    "teacher_force",
    "testing",
    "train",
    "unroll",
    "warm_start",
]
__version__ = "0.1.0"
