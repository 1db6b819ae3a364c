"""A guard against forward mode, for functions that have reverse-mode derivatives only.

JAX's own refusal comes from deep inside and names nothing that the caller wrote. It also comes
late: under `jit` or inside a loop, when the program is lowered. So does this one, but in words.
"""

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from seqjax._types import PyTree
from seqjax.ops._jax import Primitive, ad, batching, mlir

__all__ = ["reverse_mode_only"]


@jax.custom_jvp
def reverse_mode_only(tree: PyTree) -> PyTree:
    """The identity; a TypeError where forward mode asks for the value of its tangent."""
    return tree


def _jvp(primals: tuple, tangents: tuple) -> tuple:
    known = lambda t: isinstance(t, SymbolicZero) or t.dtype == jax.dtypes.float0
    return primals[0], jax.tree.map(lambda t: t if known(t) else _tangent.bind(t), tangents[0])


reverse_mode_only.defjvp(_jvp, symbolic_zeros=True)


def _refuse(*_: Any, **__: Any) -> Any:
    raise TypeError(
        "adjoint: BPTT has no forward-mode derivative (jvp, jacfwd, linearize); "
        "pass adjoint=sj.Autodiff()"
    )


# Reverse mode transposes a tangent without ever computing it.
_tangent = Primitive("reverse_mode_tangent")
_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda t: t)
mlir.register_lowering(_tangent, _refuse)
ad.deflinear2(_tangent, lambda cotangent, t: [cotangent])
batching.primitive_batchers[_tangent] = lambda operands, axes: (
    _tangent.bind(*operands),
    axes[0],
)
