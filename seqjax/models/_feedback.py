"""What the networks with output feedback share: one hidden layer, and a layer of outputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from seqjax import _checks
from seqjax._types import Key, PyTree
from seqjax.ops.matmul import matmul


class Layers(NamedTuple):
    """Pre-activations of a step: of the hidden layer, [H], and of the outputs, [O]."""

    hidden: jax.Array
    output: jax.Array


def init(
    key: Key,
    input_shape: tuple[int, ...],
    feedback_shape: tuple[int, ...],
    output_size: int,
    dtype: Any,
) -> dict[str, jax.Array]:
    """U(±1/√fan-in); the last axis of both shapes is H."""
    *fan, hidden_size = feedback_shape
    bound = (math.prod(input_shape[:-1]) + math.prod(fan)) ** -0.5
    shapes = {
        "kernel": (input_shape, bound),
        "recurrent_kernel": (feedback_shape, bound),
        "bias": ((hidden_size,), bound),
        "output_kernel": ((hidden_size, output_size), hidden_size**-0.5),
        "output_bias": ((output_size,), hidden_size**-0.5),
    }
    keys = _checks.keys(key, len(shapes))
    return {
        name: jax.random.uniform(k, shape, dtype, -bound, bound)
        for k, (name, (shape, bound)) in zip(keys, shapes.items(), strict=True)
    }


def layers(activation: Callable, params: PyTree, hidden: jax.Array) -> Layers:
    """The output layer above a hidden pre-activation."""
    output = matmul(activation(hidden), params["output_kernel"], params["output_bias"])
    return Layers(hidden, output)


def layers_vjp(activation: Callable, params: PyTree, z: Layers, dz: Layers) -> jax.Array:
    """The cotangent of the hidden layer: what comes through the output layer, and dz.hidden."""
    d_activated = matmul(dz.output, params["output_kernel"].T)
    return dz.hidden + jax.vjp(activation, z.hidden)[1](d_activated)[0]
