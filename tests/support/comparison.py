"""`assert_close` compares trees: which leaf is off, from which step on, by how much."""

import jax
import jax.numpy as jnp
import numpy as np


def is_float(leaf) -> bool:
    """Whether a leaf has derivatives: floating or complex."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def floats(tree):
    """The floating and complex leaves."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def assert_close(ours, theirs, rtol, *, nonzero=False):
    """Two trees are equal: numbers to `rtol` of the largest one of their leaf, all else to the bit.

    Args:
      ours: a tree of arrays.
      theirs: another one of the same structure and shapes.
      rtol: the error allowed, relative to the largest element of each leaf of `theirs`; 0 for
        equality. An infinity is equal to itself, NaN to nothing.
      nonzero: whether a leaf of `theirs` that is zero, with which nothing is compared, is an error.
    """
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
    problems = []
    for (path, a), b in leaves:
        name = jax.tree_util.keystr(path) or "the array"
        a, b = _as_numpy(a), _as_numpy(b)
        assert a.shape == b.shape, f"{name}: shape {a.shape}, expected {b.shape}"
        if nonzero:
            assert np.abs(b).max() > 0, f"{name}: zero, nothing is compared"
        problem = _difference(a, b, rtol)
        if problem:
            problems.append(f"{name}: {problem}")
    assert not problems, "\n".join(problems)


def _as_numpy(leaf):
    if leaf.dtype == jax.dtypes.float0:
        return np.zeros(leaf.shape, bool)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    # NumPy has no rules for bfloat16 and its kind.
    return array if array.dtype.kind in "biufc" else array.astype(np.float64)


def _difference(a, b, rtol) -> str | None:
    """What is off, in words: where in the leaf, from which step of its first axis on."""
    if not a.size:
        return None
    error = _errors(a, b) if b.dtype.kind in "fc" else (a != b).astype(float)
    off = error > rtol
    if not off.any():
        return None
    worst = np.unravel_index(np.argmax(error), error.shape)
    where = f"element {[int(n) for n in worst]}"
    if a.ndim:
        steps = np.flatnonzero(off.reshape(len(off), -1).any(axis=1))
        where += f", off at steps {steps[0]} to {steps[-1]} of the first axis ({len(off)} steps)"
    return f"{where}: {a[worst]}, expected {b[worst]}; error {error[worst]:.1e}, allowed {rtol:.1e}"


def _errors(a, b):
    """Relative to the largest finite element of b; of what is not finite, 0 if equal, else inf."""
    scale = np.abs(b, where=np.isfinite(b), out=np.zeros(b.shape)).max(initial=1e-30)
    off = a != b
    error = np.abs(np.subtract(a, b, where=off, out=np.zeros_like(b))) / scale
    return np.where(np.isfinite(error), error, np.inf)


def relative_error(ours, theirs) -> float:
    """The largest error of any floating leaf, relative to its largest element; NaN is inf.

    For what has to differ, and for programs that print it; else `assert_close`.
    """
    worst = 0.0
    for a, b in zip(floats(ours), floats(theirs), strict=True):
        assert a.shape == b.shape
        if a.size:
            worst = max(worst, float(_errors(_as_numpy(a), _as_numpy(b)).max()))
    return worst
