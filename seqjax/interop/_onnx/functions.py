"""Functions that ONNX has as operators, or as activations of its recurrent ones, and JAX's."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax._static import static_partial

__all__ = [
    "ACTIVATIONS",
    "ALONG",
    "DEFAULTS",
    "MADE",
    "function_of",
    "is_symmetric",
    "operator_of",
    "short",
]


# What has numbers of its own in ONNX, α and β, which are bound in front of x.
def affine(alpha: float, beta: float, x: jax.Array) -> jax.Array:
    return alpha * x + beta


def scaled_tanh(alpha: float, beta: float, x: jax.Array) -> jax.Array:
    return alpha * jnp.tanh(beta * x)


def hard_sigmoid(alpha: float, beta: float, x: jax.Array) -> jax.Array:
    return jnp.clip(alpha * x + beta, 0.0, 1.0)


def leaky_relu(alpha: float, x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, alpha)


def elu(alpha: float, x: jax.Array) -> jax.Array:
    return jax.nn.elu(x, alpha)


def thresholded_relu(alpha: float, x: jax.Array) -> jax.Array:
    return jnp.where(x > alpha, x, 0.0)


# The operators, and the defaults of α and β. Those of cells are named alike, in any case.
DEFAULTS: dict[str, tuple[float, ...]] = {
    "Affine": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01,),
    "Elu": (1.0,),
    "ThresholdedRelu": (1.0,),
}
MADE: dict[str, Callable] = {
    "Affine": affine,
    "ScaledTanh": scaled_tanh,
    "HardSigmoid": hard_sigmoid,
    "LeakyRelu": leaky_relu,
    "Elu": elu,
    "ThresholdedRelu": thresholded_relu,
}
PLAIN: dict[str, Callable] = {
    "Relu": jax.nn.relu,
    "Tanh": jnp.tanh,
    "Sigmoid": jax.nn.sigmoid,
    "Softsign": jax.nn.soft_sign,
    "Softplus": jax.nn.softplus,
    "HardSwish": jax.nn.hard_swish,
    "Softmax": jax.nn.softmax,
    "LogSoftmax": jax.nn.log_softmax,
    "Exp": jnp.exp,
    "Log": jnp.log,
    "Sqrt": jnp.sqrt,
    "Abs": jnp.abs,
    "Neg": jnp.negative,
    "Sin": jnp.sin,
    "Cos": jnp.cos,
}
ALONG = ("Softmax", "LogSoftmax")  # along one axis; all others are elementwise
ONLY_IN_CELLS = ("Affine", "ScaledTanh")
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", *DEFAULTS)


def short(value: Any) -> float:
    """The shortest decimal that is this float32, as attributes of ONNX are: 0.01, not 0.00999…"""
    return float(str(np.float32(value)))


# Functions of JAX that are one of these.
NAMED: dict[tuple[str, tuple[float, ...]], Callable] = {
    ("LeakyRelu", (0.01,)): jax.nn.leaky_relu,
    ("Elu", (1.0,)): jax.nn.elu,
    ("HardSigmoid", (short(1 / 6), 0.5)): jax.nn.hard_sigmoid,
    **{(name, ()): function for name, function in PLAIN.items()},
}


def function_of(name: str, numbers: tuple[float, ...]) -> Callable | None:
    """The function of an operator; the same numbers make an equal one. None if it is not known."""
    named = NAMED.get((name, numbers))
    return static_partial(MADE[name], *numbers) if named is None and name in MADE else named


def operator_of(function: Any, *, in_cell: bool) -> tuple[str, Mapping[str, float]] | None:
    """The operator that a function is, and its numbers; None if ONNX has no such thing."""
    made = {made: name for name, made in MADE.items()}
    bound = made.get(getattr(function, "func", function), ""), getattr(function, "args", ())
    name, numbers = next((key for key, named in NAMED.items() if named == function), bound)
    has = name in ACTIVATIONS if in_cell else name and name not in ONLY_IN_CELLS
    return (name, dict(zip(("alpha", "beta"), numbers, strict=False))) if has else None


def is_symmetric(function: Callable) -> bool:
    """Whether 1 - f(x) = f(-x)."""
    operator = operator_of(function, in_cell=True) or ("", {})
    return operator[0] == "Sigmoid" or (operator[0] == "HardSigmoid" and operator[1]["beta"] == 0.5)
