"""The table of ONNX: its operators that are layers, their inputs, and the layouts of these."""

from typing import Any

from seqjax.interop._format import Format
from seqjax.interop._layout import Block, Layout

__all__ = ["FUNCTIONS", "INPUTS", "ONNX", "POINTWISE"]


def _recurrent(kind: str, gates: str, *more: Block, **options: Any) -> Layout:
    free = ("learn_initial_state", "activation", *(("gate_activation",) if kind != "rnn" else ()))
    blocks = (
        Block("W", ("kernel",), gates, transposed=True),
        Block("R", ("recurrent_kernel",), gates, transposed=True),
        Block("B", ("bias", "recurrent_bias"), gates),
    )
    # With coupled gates ONNX keeps i, and f is 1 - σ(i) = σ(-i).
    opposite = "f" if options.get("coupled") else ""
    return Layout(kind, (*blocks, *more), options=options, free=free, opposite=opposite)


LAYOUTS = (
    _recurrent("lstm", "iofg"),
    _recurrent("lstm", "iofg", Block("P", ("peepholes",), "iof"), peepholes=True),
    _recurrent("lstm", "fog", coupled=True),
    _recurrent("lstm", "fog", Block("P", ("peepholes",), "fo"), coupled=True, peepholes=True),
    _recurrent("gru", "zrn"),
    _recurrent("gru", "zrn", reset_after=False),
    _recurrent("rnn", "h"),
    Layout("dense", (Block("W", ("kernel",), "y"), Block("B", ("bias",), "y"))),
    Layout("embed", (Block("W", ("kernel",), "y"),)),
    Layout("layer_norm", (Block("W", ("scale",), "y"), Block("B", ("bias",), "y")), free=("eps",)),
)
ONNX = Format("ONNX", "/", LAYOUTS, merges=("concat",))
# The inputs of nodes that are layers, in their order; X is the series.
INPUTS = {
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "Gemm": ("X", "W", "B"),
    "MatMul": ("X", "W"),
    "Gather": ("W", "X"),
    "LayerNormalization": ("X", "W", "B"),
}
POINTWISE = ("Gemm", "MatMul", "Gather", "LayerNormalization")
FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
