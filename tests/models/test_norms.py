"""Layer and root mean square norms: the papers' equations, and half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import normal

import seqjax as sj

F, T = 5, 4


def layer_norm(x, scale, bias, eps):
    mean = sum(x) / len(x)
    variance = sum((a - mean) ** 2 for a in x) / len(x)
    return [
        g * (a - mean) / (variance + eps) ** 0.5 + b for g, a, b in zip(scale, x, bias, strict=True)
    ]


def rms_norm(x, scale, eps):
    mean_square = sum(a**2 for a in x) / len(x)
    return [g * a / (mean_square + eps) ** 0.5 for g, a in zip(scale, x, strict=True)]


NORMS = {"layer_norm": (sj.layer_norm, layer_norm, 1e-5), "rms_norm": (sj.rms_norm, rms_norm, 1e-6)}
every_norm = pytest.mark.parametrize("name", NORMS)


@every_norm
@pytest.mark.parametrize("eps", [None, 0.3])
@pytest.mark.parametrize("scale", [1.0, 1e-3])  # where eps counts
def test_it_is_the_equation(name, eps, scale):
    make, by_hand, default = NORMS[name]
    model = make(F, dtype=jnp.float64) if eps is None else make(F, eps=eps, dtype=jnp.float64)
    params = normal(model.init(jax.random.key(0)), 1)
    xs = scale * np.random.default_rng(0).standard_normal((T, F))
    given = {key: np.asarray(value) for key, value in params.items()}
    expected = [by_hand(x, **given, eps=eps or default) for x in xs]
    state, ys = sj.unroll(model, params, xs)
    assert state == ()
    assert_close(ys, np.array(expected), 1e-13)


def test_initial_values_and_sizes():
    params = sj.layer_norm(F).init(jax.random.key(0))
    np.testing.assert_array_equal(params["scale"], np.ones(F))
    np.testing.assert_array_equal(params["bias"], np.zeros(F))
    assert list(sj.rms_norm(F).init(jax.random.key(0))) == ["scale"]
    assert sj.rms_norm(F).receptive_field == sj.layer_norm(F).receptive_field == 1
    assert sj.rms_norm(F) != sj.layer_norm(F)


@every_norm
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_is_the_float32_one_rounded_once(name, dtype):
    """Also of numbers whose squares float16 does not hold, and far from their mean."""
    model = NORMS[name][0](F, dtype=dtype)
    wide = model.astype(jnp.float32)
    params = normal(model.init(jax.random.key(0)), 1)
    xs = jnp.asarray(1000 + 500 * np.random.default_rng(0).standard_normal((T, F)), dtype)
    as_wide = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    expected = sj.unroll(wide, as_wide(params), as_wide(xs))[1].astype(dtype)
    np.testing.assert_array_equal(sj.unroll(model, params, xs)[1], expected)


@every_norm
def test_of_equal_numbers_it_has_a_gradient(name):
    model = NORMS[name][0](F, dtype=jnp.float64)
    params = model.init(jax.random.key(0))
    for x in (jnp.zeros((1, F)), jnp.ones((1, F))):
        gradient = jax.grad(lambda p, x: sj.unroll(model, p, x)[1].sum(), (0, 1))(params, x)
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))
    sj.testing.check_cell(model, draws=1, steps=3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: sj.layer_norm(0), ValueError, "size: expected an integer of at least 1, got 0"),
        (lambda: sj.rms_norm(3, eps=0), ValueError, "eps: expected a number above 0, got 0"),
        (lambda: sj.rms_norm(3, eps=None), TypeError, "eps: expected a number, got None"),
        (lambda: sj.layer_norm(3).init(0), TypeError, "key: expected a JAX random key"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
