"""What the tests of every framework ask: the same outputs, and round trips to the bit."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from support.comparison import assert_close

import seqjax as sj

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
XS = np.random.default_rng(0).standard_normal((7, 3))


def filled(arrays, seed=0):
    """Random numbers in the place of arrays, biases of zeros too, in their dtypes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.uniform(-0.7, 0.7, a.shape).astype(a.dtype), arrays)


def assert_same_outputs(pair, xs, outputs):
    """`outputs` are the original's; those of what was read, for all steps and by `step`."""
    model, params = pair
    outputs = np.asarray(outputs)
    _, ys = sj.unroll(model, params, jnp.asarray(xs))
    assert ys.dtype == outputs.dtype
    assert_close(np.asarray(ys), outputs, TOLERANCE[outputs.dtype.name], nonzero=True)


def assert_equal(ours, theirs):
    """Trees of arrays that are equal to the bit, dtypes too."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(np.uint8) if a.ndim else a, b.view(np.uint8))


@contextlib.contextmanager
def rules_of_others():
    """JAX's own rules of promotion, which other libraries need."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
