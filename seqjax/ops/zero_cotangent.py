"""The identity with a derivative of zero: where no gradient crosses a step."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax._types import PyTree
from seqjax.ops._jax import Primitive, ad, batching, mlir, zero_tangent

__all__ = ["PRIMITIVE", "zero_cotangent"]

PRIMITIVE = Primitive("zero_cotangent")


def zero_cotangent(value: PyTree, *, again: bool = False) -> PyTree:
    """The identity, with a derivative of zero.

    Not `lax.stop_gradient`: that would cut the derivative of a *gradient* too, and second
    order would silently be wrong.

    Args:
      value: a pytree.
      again: whether the function that reads the result may apply `zero_cotangent` itself. The
        derivative is then an array of zeros; a symbolic zero would be lost to the next order.
    """
    return jax.tree.map(lambda a: PRIMITIVE.bind(a, again=again), value)


def _batch(operands: Any, axes: Any, again: bool) -> Any:
    return PRIMITIVE.bind(*operands, again=again), axes[0]


def _jvp(primals: Any, tangents: Any, again: bool) -> Any:
    (a,) = primals  # itself, not cut once more: whoever differentiates this sees the identity
    return a, jnp.zeros_like(a) if again else zero_tangent(a)


PRIMITIVE.def_impl(lambda a, again: a)
PRIMITIVE.def_abstract_eval(lambda a, again: a)
mlir.register_lowering(PRIMITIVE, lambda ctx, a, again: [a])
batching.primitive_batchers[PRIMITIVE] = _batch
ad.primitive_jvps[PRIMITIVE] = _jvp
