"""Which layer a model is: its kind and options, found out by making it again."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.engine.per_model import params_spec
from seqjax.interop._layout import Sizes
from seqjax.models._parts import bound, pointwise_functions
from seqjax.models.cell import Cell
from seqjax.models.dense import Dense, dense
from seqjax.models.embed import Embed, embed
from seqjax.models.gru import gru
from seqjax.models.lstm import lstm
from seqjax.models.norms import LayerNorm, RMSNorm, layer_norm, rms_norm
from seqjax.models.rnn import rnn

__all__ = ["kind_of", "make"]

FACTORIES: dict[str, Callable[..., Model]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "dense": dense,
    "embed": embed,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
}
DEFAULTS = {
    "reset_after": True,
    "layer_norm": False,
    "peepholes": False,
    "coupled": False,
    "gate_activation": jax.nn.sigmoid,
    "activation": jnp.tanh,
    "recurrent_dropout": 0.0,
}
# What a step computes in evaluation; how the parameters are drawn at first is not in it.
FUNCTIONS = (
    "project",
    "preactivate",
    "activate",
    "readout",
    "coefficients",
    "feedthrough",
    "draw",
    "initial_state",
)


def make(kind: str, sizes: Sizes, options: Mapping[str, Any], use_bias: bool, dtype: Any) -> Model:
    """The model of a layer that was read."""
    named = dict(options) | {"dtype": dtype}
    if kind in ("layer_norm", "rms_norm"):
        return FACTORIES[kind](sizes["H"], **named)
    if kind == "lstm" and named.pop("projection", False):
        named["projection_size"] = sizes["R"]
    if kind != "embed":
        named["use_bias"] = use_bias
    return FACTORIES[kind](sizes["I"], sizes["H"], **named)


def kind_of(model: Model) -> tuple[str, dict[str, Any]] | None:
    """("gru", {"reset_after": False}), say: options of the defaults are left out.

    None of a model that is none of these kinds.
    """
    if isinstance(model, Dense):
        return "dense", {} if model.activation is None else {"activation": model.activation}
    if isinstance(model, Embed):
        return "embed", {}
    if isinstance(model, (LayerNorm, RMSNorm)):
        return "layer_norm" if isinstance(model, LayerNorm) else "rms_norm", {"eps": model.eps}
    if not isinstance(model, Cell):
        return None
    params = params_spec(model)
    if not isinstance(params, dict) or not {"kernel", "recurrent_kernel"} <= {*params}:
        return None
    for kind, sizes, options in _candidates(model, params):
        call = {"dtype": model.dtype, "use_bias": "bias" in params, **options}
        if "initial_state" in params:
            call["learn_initial_state"] = options["learn_initial_state"] = True
        made = FACTORIES[kind](*sizes, **call)
        if all(getattr(made, name) == getattr(model, name) for name in FUNCTIONS):
            told = {name: value for name, value in options.items() if value != DEFAULTS.get(name)}
            told.pop("recurrent_dropout", None)  # in training alone
            if told.pop("projection_size", None) is not None:
                told["projection"] = True
            return kind, told
    return None


def _candidates(
    cell: Cell, params: Mapping[str, PyTree]
) -> Iterator[tuple[str, tuple[int, int], dict[str, Any]]]:
    """The calls of the factories that could have made a cell of such parameters."""
    inputs, columns = params["kernel"].shape
    values = [*bound(cell.activate)]
    options = DEFAULTS | pointwise_functions(cell.activate, cell.preactivate)
    options["layer_norm"] = "kernel_scale" in params
    options["recurrent_dropout"] = next((v for v in values if isinstance(v, float)), 0.0)
    names = ("layer_norm", "recurrent_dropout", "gate_activation", "activation")
    shared = {name: options[name] for name in names}
    if columns % 3 == 0:
        for after in (True,) if options["layer_norm"] else (True, False):
            yield "gru", (inputs, columns // 3), {"reset_after": after, **shared}
    shared["peepholes"] = "peepholes" in params
    if "projection" in params:
        shared["projection_size"] = params["projection"].shape[1]
    for coupled, gates in ((False, 4), (True, 3)):
        if columns % gates == 0:
            yield "lstm", (inputs, columns // gates), {"coupled": coupled, **shared}
    for value in values:
        if callable(value):
            yield "rnn", (inputs, columns), {"activation": value}
