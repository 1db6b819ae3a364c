"""Dropout of recurrent weights, outside of the model."""

from collections.abc import Sequence
from typing import Any

import jax

from seqjax import _checks
from seqjax._types import Key, PyTree
from seqjax.models._dropped import drop

__all__ = ["weight_drop"]


def weight_drop(
    params: PyTree,
    key: Key | None,
    rate: float,
    *,
    names: Sequence[str] = ("recurrent_kernel",),
) -> PyTree:
    """Parameters with elements of the recurrent kernels zero at random, and the others scaled.

    One draw for a whole series: all steps of `sj.unroll` read the same weights. Under `jax.vmap`
    over series it is made outside, once for the batch, so that their matmuls stay one.

    Args:
      params: of any model.
      key: a random key; None for evaluation, which leaves everything as it is.
      rate: the probability of zero, in [0, 1).
      names: of the parameters to drop, wherever they stand in the tree.

    Returns:
      The tree with those leaves dropped; each is drawn from a key of its own.

    Raises:
      TypeError, ValueError: a rate out of its range; a name that no parameter has.

    References:
      Merity et al. 2018, Regularizing and optimizing LSTM language models, arXiv:1708.02182;
      Wan et al. 2013 (DropConnect).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.lstm(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> def loss(params, key, xs):
    ...     return sj.unroll(cell, sj.weight_drop(params, key, 0.5), xs)[1].sum()
    >>> grads = jax.grad(loss)(params, jax.random.key(1), jnp.ones((10, 3)))
    >>> bool((grads["recurrent_kernel"] == 0).any()), bool((grads["kernel"] == 0).any())
    (True, False)
    """
    rate = _checks.rate("rate", rate)
    wanted = _checks.instance("names", names, (tuple, list), "a tuple of strings")
    for name in wanted:
        _checks.instance("names", name, str, "a tuple of strings")
    found = jax.tree_util.tree_leaves_with_path(params)
    known = {_name(path) for path, _ in found}
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        there = sorted(name for name in known if isinstance(name, str))
        expected = f"some of the names of these parameters, {', '.join(there) or 'which have none'}"
        given = ", ".join(map(repr, missing)) or "none"
        raise ValueError(_checks.mismatch("names", expected, given))
    if key is None:
        return params
    base = _checks.key("key", key)
    numbers = iter(range(len(found)))

    def dropped(path: Any, leaf: jax.Array) -> jax.Array:
        number = next(numbers)
        if _name(path) not in wanted:
            return leaf
        return drop(rate, base, number, leaf)

    return jax.tree_util.tree_map_with_path(dropped, params)


def _name(path: Any) -> Any:
    """The last key on the way to a leaf."""
    return getattr(path[-1], "key", getattr(path[-1], "name", None)) if path else None
