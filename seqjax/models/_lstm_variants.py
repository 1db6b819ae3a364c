"""What the options of `lstm` put in the place of its parts, or around them.

`z` are the `Gates` of lstm.py, `h_prev` is an `LSTMState`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from seqjax._types import Key, Preactivate, PreactivateVJP, Project, PyTree
from seqjax.models._layer_norm import normalize, normalize_vjp
from seqjax.models._parts import Part
from seqjax.models._recurrent_dropout import dropped
from seqjax.ops.matmul import matmul

# Coupled gates: c(t) = σ(f) c(t-1) + (1 - σ(f)) tanh(g). There is no i.


def coupled_update(
    rate: float, gate: Callable, activation: Callable, z: Any, c_prev: jax.Array
) -> jax.Array:
    g = dropped(rate, z.kept, activation(z.g))
    return g + gate(z.f) * (c_prev - g)


def coupled_update_vjp(
    rate: float, z: Any, c_prev: jax.Array, dc: jax.Array
) -> tuple[dict, jax.Array]:
    f, g = sigmoid(z.f), jnp.tanh(z.g)
    d_f = dc * ((c_prev - dropped(rate, z.kept, g)) * (f * (1 - f)))
    d_g = dc * dropped(rate, z.kept, (1 - f) * (1 - g * g))
    return {"i": None, "f": d_f, "g": d_g}, dc * f


COUPLED_UPDATE = Part(coupled_update, coupled_update_vjp)

# Peepholes: w_i c(t-1) is added to i, w_f c(t-1) to f, w_o c(t) to o. The last needs c(t), which
# `activate` makes without parameters: w_o comes to it beside o, as a pre-activation of its own. It
# does so from `project` on, so that its gradient is pooled as that of a bias.


def add_peepholes(hidden_size: int, number: int, key: Key, params: dict, bound: float) -> dict:
    """The diagonals w_i, w_f, w_o side by side; of coupled gates w_f and w_o."""
    shape, dtype = (number * hidden_size,), params["kernel"].dtype
    return params | {"peepholes": jax.random.uniform(key, shape, dtype, -bound, bound)}


def peephole_project(project: Project, params: PyTree, x: jax.Array) -> PyTree:
    u: Any = project(params, x)
    return u._replace(beside_o=_peepholes(params, u)[-1:])


def peephole_preactivate(preactivate: Preactivate, params: PyTree, h_prev: Any, u: Any) -> PyTree:
    z: Any = preactivate(params, h_prev, u)
    *w_i, w_f, _ = _peepholes(params, u)
    i = z.i + w_i[0] * h_prev.c if w_i else None
    return z._replace(i=i, f=z.f + w_f * h_prev.c)


def peephole_preactivate_vjp(
    rule: PreactivateVJP, params: PyTree, h_prev: Any, u: Any, z: Any, dz: Any
) -> PyTree:
    *w_i, w_f, _ = _peepholes(params, u)
    dc = dz.f * w_f + dz.i * w_i[0] if w_i else dz.f * w_f
    return rule(params, h_prev, u, z, dz)._replace(c=dc)  # nothing else reads c(t-1)


def _peepholes(params: PyTree, u: Any) -> tuple[jax.Array, ...]:
    """(w_i, w_f, w_o); without i (w_f, w_o)."""
    return tuple(jnp.split(params["peepholes"], 2 if u.i is None else 3))


def peephole_output(gate: Callable, activation: Callable, z: Any, c: jax.Array) -> jax.Array:
    (w_o,) = z.beside_o
    return gate(z.o + w_o * c) * activation(c)


def peephole_output_vjp(z: Any, c: jax.Array, dh: jax.Array) -> tuple[dict, jax.Array]:
    (w_o,) = z.beside_o
    o, tanh_c = sigmoid(z.o + w_o * c), jnp.tanh(c)
    to_o = tanh_c * (o * (1 - o))
    dz = {"o": dh * to_o, "beside_o": (dh * (to_o * c),)}
    return dz, dh * (o * (1 - tanh_c * tanh_c) + to_o * w_o)


PEEPHOLES = Part(peephole_preactivate, peephole_preactivate_vjp)
PEEPHOLE_OUTPUT = Part(peephole_output, peephole_output_vjp)

# Layer normalization: h(t) = σ(o) tanh(s LN(c(t)) + b), with s and b beside o as w_o is above.


def add_cell_norm(hidden_size: int, key: Key, params: dict, bound: float) -> dict:
    ones = jnp.ones(hidden_size, params["kernel"].dtype)
    return params | {"cell_scale": ones, "cell_bias": jnp.zeros_like(ones)}


def cell_norm_project(project: Project, params: PyTree, x: jax.Array) -> PyTree:
    u: Any = project(params, x)
    return u._replace(beside_o=(params["cell_scale"], params["cell_bias"]))


def normed_output(gate: Callable, activation: Callable, z: Any, c: jax.Array) -> jax.Array:
    scale, bias = z.beside_o
    return gate(z.o) * activation(scale * normalize(c) + bias)


def normed_output_vjp(z: Any, c: jax.Array, dh: jax.Array) -> tuple[dict, jax.Array]:
    scale, bias = z.beside_o
    o, normal = sigmoid(z.o), normalize(c)
    tanh_c = jnp.tanh(scale * normal + bias)
    d_bias = dh * (o * (1 - tanh_c * tanh_c))
    dz = {"o": dh * (tanh_c * (o * (1 - o))), "beside_o": (d_bias * normal, d_bias)}
    return dz, normalize_vjp(c, d_bias * scale)


NORMED_OUTPUT = Part(normed_output, normed_output_vjp)

# Projection: y(t) = h(t) W_p, and the gates read y(t-1). Nothing that has parameters comes after
# `activate`, so the state keeps h, and W_p stands in front of W11 and in `readout`.


def add_projection(
    hidden_size: int, projection_size: int, key: Key, params: dict, bound: float
) -> dict:
    shape, dtype = (hidden_size, projection_size), params["kernel"].dtype
    return params | {"projection": jax.random.uniform(key, shape, dtype, -bound, bound)}


def projected_readout(params: PyTree, h: Any) -> jax.Array:
    return matmul(h.h, params["projection"])


def projected_preactivate(
    preactivate: Preactivate, params: PyTree, h_prev: Any, u: PyTree
) -> PyTree:
    return preactivate(params, h_prev._replace(h=projected_readout(params, h_prev)), u)


def projected_preactivate_vjp(
    rule: PreactivateVJP, params: PyTree, h_prev: Any, u: PyTree, z: Any, dz: Any
) -> PyTree:
    y_prev = h_prev._replace(h=projected_readout(params, h_prev))
    dh_prev = rule(params, y_prev, u, z, dz)
    return dh_prev._replace(h=matmul(dh_prev.h, params["projection"].T))


PROJECTION = Part(projected_preactivate, projected_preactivate_vjp)
