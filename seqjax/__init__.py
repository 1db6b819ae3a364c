"""seqjax: functional sequence modeling in JAX, with hand-written backpropagation through time."""

from seqjax import interop, testing, train
from seqjax._static import static_partial
from seqjax.compose.bidirectional import bidirectional
from seqjax.compose.branches import branches
from seqjax.compose.feedback import feedback
from seqjax.compose.residual import residual
from seqjax.compose.stack import stack
from seqjax.compose.trajectory import trajectory
from seqjax.compose.zoneout import zoneout
from seqjax.decoding.beam_search import beam_search
from seqjax.decoding.generate import generate
from seqjax.decoding.sample import sample
from seqjax.engine.adjoint import BPTT, Adjoint
from seqjax.engine.autodiff import Autodiff
from seqjax.engine.model import Model
from seqjax.engine.unroll import unroll
from seqjax.models.cell import Cell
from seqjax.models.conv_lstm import conv_lstm
from seqjax.models.dense import dense
from seqjax.models.dropout import DropoutState, dropout
from seqjax.models.elman import elman
from seqjax.models.embed import embed
from seqjax.models.from_step import from_step
from seqjax.models.gru import gru
from seqjax.models.jordan import JordanState, jordan
from seqjax.models.lru import lru
from seqjax.models.lstm import LSTMState, lstm
from seqjax.models.memory import MemoryState, memory
from seqjax.models.min_gru import min_gru
from seqjax.models.min_lstm import min_lstm
from seqjax.models.narx import NARXState, narx
from seqjax.models.narx_ahead import predict_ahead
from seqjax.models.narx_open_loop import teacher_force, warm_start
from seqjax.models.norms import layer_norm, rms_norm
from seqjax.models.rg_lru import rg_lru
from seqjax.models.rnn import rnn
from seqjax.models.s5 import s5
from seqjax.models.slstm import SLSTMState, slstm
from seqjax.models.tdnn import tdnn
from seqjax.models.weight_drop import weight_drop
from seqjax.ops.matmul import matmul
from seqjax.storage.exporting import export
from seqjax.storage.saving import load, save

__all__ = [
    "BPTT",
    "Adjoint",
    "Autodiff",
    "Cell",
    "DropoutState",
    "JordanState",
    "LSTMState",
    "MemoryState",
    "Model",
    "NARXState",
    "SLSTMState",
    "beam_search",
    "bidirectional",
    "branches",
    "conv_lstm",
    "dense",
    "dropout",
    "elman",
    "embed",
    "export",
    "feedback",
    "from_step",
    "generate",
    "gru",
    "interop",
    "jordan",
    "layer_norm",
    "load",
    "lru",
    "lstm",
    "matmul",
    "memory",
    "min_gru",
    "min_lstm",
    "narx",
    "predict_ahead",
    "residual",
    "rg_lru",
    "rms_norm",
    "rnn",
    "s5",
    "sample",
    "save",
    "slstm",
    "stack",
    "static_partial",
    "tdnn",
    "teacher_force",
    "testing",
    "train",
    "trajectory",
    "unroll",
    "warm_start",
    "weight_drop",
    "zoneout",
]
__version__ = "0.1.0"
