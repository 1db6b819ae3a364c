"""What the networks with output feedback share: a hidden layer, and a layer of outputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._types import Key, PyTree
from seqjax.models._initial import Array, Initializers, draw_all
from seqjax.ops.matmul import matmul


class Layers(NamedTuple):
    """Pre-activations of a step: of the hidden layer, [H], and of the outputs, [O]."""

    hidden: jax.Array
    output: jax.Array


def init(
    key: Key,
    input_shape: tuple[int, ...],
    feedback_shape: tuple[int, ...],
    output_shape: tuple[int, int],
    inits: Initializers,
    dtype: Any,
) -> dict[str, jax.Array]:
    """U(±1/√fan-in) by default; the last axis of the first two shapes is H."""
    *fan, hidden_size = feedback_shape
    bound = (math.prod(input_shape[:-1]) + math.prod(fan)) ** -0.5
    output_bound = output_shape[0] ** -0.5
    arrays = {
        "kernel": Array(input_shape, bound, "kernel_init"),
        "recurrent_kernel": Array(feedback_shape, bound, "recurrent_init"),
        "bias": Array((hidden_size,), bound, "bias_init"),
        "output_kernel": Array(output_shape, output_bound, "kernel_init"),
        "output_bias": Array(output_shape[1:], output_bound, "bias_init"),
    }
    return draw_all(_checks.keys(key, len(arrays)), arrays, inits, dtype)


def layers(activation: Callable, params: PyTree, hidden: jax.Array) -> Layers:
    """The output layer above a hidden pre-activation."""
    output = matmul(activation(hidden), params["output_kernel"], params["output_bias"])
    return Layers(hidden, output)


def layers_vjp(activation: Callable, params: PyTree, z: Layers, dz: Layers) -> jax.Array:
    """The cotangent of the hidden layer: what comes through the output layer, and dz.hidden."""
    d_activated = matmul(dz.output, params["output_kernel"].T)
    return dz.hidden + jax.vjp(activation, z.hidden)[1](d_activated)[0]


def output(activation: Callable | None, z: Layers) -> jax.Array:
    """The outputs g(z.output); g is the identity if None."""
    return z.output if activation is None else activation(z.output)


def output_vjp(activation: Callable | None, z: Layers, dy: jax.Array) -> Layers:
    """The cotangent of the pre-activations: of the outputs alone."""
    dz = dy if activation is None else jax.vjp(activation, z.output)[1](dy)[0]
    return Layers(jnp.zeros_like(z.hidden), dz)
