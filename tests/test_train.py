"""The compiled training step and the masked mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj


@pytest.fixture(autouse=True)
def _optax_promotes():
    """Optimizers of optax mix dtypes; seqjax itself does not."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def echo_problem():
    """Inputs of -1 and 1, to be put out again three steps later: a task that needs memory."""
    xs = np.sign(np.random.default_rng(0).standard_normal((16, 20, 1)))
    return jnp.asarray(xs[:, 3:]), jnp.asarray(xs[:, :-3])


def test_a_model_learns_to_remember():
    model = sj.stack(sj.gru(1, 12, dtype=jnp.float64), sj.dense(12, 1, dtype=jnp.float64))
    xs, targets = echo_problem()

    def loss(params, xs, targets):
        ys = jax.vmap(lambda xs: model.unroll(params, xs)[1])(xs)
        return jnp.mean((ys - targets)[:, 3:] ** 2)  # the first three were never put in

    optimizer = optax.adam(2e-2)
    step = sj.train.make_step(loss, optimizer)
    params = model.init(jax.random.key(0))
    opt_state = optimizer.init(params)
    losses = []
    for _ in range(300):
        params, opt_state, report = step(params, opt_state, xs, targets)
        losses.append(float(report.loss))
    assert losses[0] > 0.8  # guessing gives 1
    assert losses[-1] < 0.05


def test_step_reports_before_the_update_and_hands_aux_on():
    def loss(w, x):
        return jnp.sum((w - x) ** 2), {"seen": x}

    optimizer = optax.sgd(0.25)
    step = sj.train.make_step(loss, optimizer, has_aux=True)
    w, x = jnp.array([3.0, 4.0]), jnp.zeros(2)
    new, _, report = step(w, optimizer.init(w), x)
    np.testing.assert_allclose(new, [1.5, 2.0])
    assert float(report.loss) == 25
    assert float(report.grad_norm) == 10
    np.testing.assert_array_equal(report.aux["seen"], x)


def test_step_errors():
    with pytest.raises(TypeError, match=r"optimizer: expected an optax\.GradientTransformation"):
        sj.train.make_step(lambda p: p, 0.1)
    with pytest.raises(TypeError, match="loss: expected a function"):
        sj.train.make_step(0, optax.sgd(1))
    optimizer = optax.sgd(1)
    step = sj.train.make_step(lambda p: p, optimizer)
    with pytest.raises(ValueError, match=r"loss: expected a scalar, got float64\[2\]"):
        step(jnp.ones(2), optimizer.init(jnp.ones(2)))


def test_masked_mean():
    values = jnp.array([[1.0, 2.0, jnp.nan], [4.0, jnp.inf, jnp.nan]])
    mask = jnp.array([[True, True, False], [True, False, False]])
    value, grad = jax.value_and_grad(sj.train.masked_mean)(values, mask)
    np.testing.assert_allclose(value, 7 / 3)
    np.testing.assert_allclose(grad, np.array(mask) / 3)
    nothing = jax.value_and_grad(sj.train.masked_mean)(values, jnp.zeros_like(mask))
    assert float(nothing[0]) == 0
    np.testing.assert_array_equal(nothing[1], 0)
    half = sj.train.masked_mean(jnp.ones(3, jnp.bfloat16), jnp.ones(3, bool))
    assert half.dtype == jnp.bfloat16


def test_masked_mean_errors():
    with pytest.raises(ValueError, match=r"mask: expected bool\[3\], got bool\[1\]"):
        sj.train.masked_mean(jnp.ones(3), jnp.ones(1, bool))
    with pytest.raises(TypeError, match=r"mask: expected bool\[3\], got float64\[3\]"):
        sj.train.masked_mean(jnp.ones(3), jnp.ones(3))
    with pytest.raises(TypeError, match="values: expected a floating dtype"):
        sj.train.masked_mean(jnp.ones(3, int), jnp.ones(3, bool))
