"""Caches whose entries live as long as the model."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.ops._jax import is_staged

__all__ = ["compiled", "params_spec"]

# Weak: what a model closes over may be large.
_SPECS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_COMPILED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def params_spec(model: Any) -> PyTree:
    """The shapes and dtypes of a model's parameters."""
    # The default dtype of a user's own `init` depends on this.
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]  # made at run time
    known = _SPECS.setdefault(model, {})
    if x64 not in known:
        returned = "the params that init returns"
        init = lambda: _checks.arrays(returned, model.init(jax.random.key(0)))
        known[x64] = jax.eval_shape(init)
    return known[x64]


def compiled(function: Callable, model: Any, static: tuple[str, ...], operands: PyTree) -> Callable:
    """`function(model, …)` for these operands, compiled once if nothing around it is.

    JAX would compile the loops of a call outside `jit` anew each time. Inside, where an operand
    is staged, this is `function` as it is.
    """
    if any(map(is_staged, jax.tree.leaves(operands))):
        return partial(function, model)
    lasting, made_of = model, ()
    if model.passing:  # the model inside lives longer
        lasting, *others = vars(model).values()
        made_of = (type(model), *others)
    known = _COMPILED.setdefault(lasting, {})
    if (function, *made_of) not in known:
        itself = weakref.ref(lasting)

        def run(*args: Any, **options: Any) -> Any:
            model = made_of[0](itself(), *made_of[1:]) if made_of else itself()
            return function(model, *args, **options)

        known[function, *made_of] = jax.jit(run, static_argnames=static)
    return known[function, *made_of]
