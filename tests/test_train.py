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
        ys = jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(xs)
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_norm_of_the_gradient_holds_in_half_precision(dtype):
    """100 entries of 300, whose squares are past float16, and of 1e-4, whose squares are 0."""
    optimizer = optax.sgd(1.0)
    step = sj.train.make_step(lambda w, g: jnp.sum(w["a"] * g), optimizer)
    for value in (300, 1e-4):
        g = jnp.full(100, value, dtype)
        w = {"a": jnp.zeros(100, dtype), "b": jnp.zeros((2, 3), jnp.bfloat16)}
        norm = step(w, optimizer.init(w), g)[2].grad_norm
        np.testing.assert_allclose(norm, 10 * float(g[0]), rtol=1e-6)
        assert norm.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)


def test_the_norm_of_complex_gradients_and_of_none():
    optimizer = optax.sgd(1.0)
    step = sj.train.make_step(lambda w: jnp.sum(jnp.abs(w["a"]) ** 2), optimizer)
    w = {"a": jnp.array([3j, 4], jnp.complex64)}
    assert step(w, optimizer.init(w))[2].grad_norm == 10
    step = sj.train.make_step(lambda w: jnp.ones(()), optimizer)
    assert step({}, optimizer.init({}))[2].grad_norm == 0


def square(w, x):
    return jnp.sum((w - x) ** 2)


@pytest.mark.parametrize(
    ("loss", "options", "kind", "message"),
    [
        (0, {}, TypeError, "loss: expected a function"),
        (lambda w, x: w, {}, ValueError, r"loss: expected a scalar, got float64\[2\]"),
        (lambda w, x: (0.0, w), {}, ValueError, r"loss: .* got a tuple of 2; for .* set has_aux"),
        (lambda w, x: 1.0, {}, ValueError, r"loss: expected a scalar, got float 1\.0"),
        (lambda w, x: jnp.sum(x) > 0, {}, TypeError, r"loss: .* floating scalar, got bool\[\]"),
        (square, {"has_aux": True}, TypeError, r"loss: .* pair \(scalar, aux\).* got float64\[\]"),
        (
            lambda w, x: (square(w, x), 1, 2),
            {"has_aux": True},
            TypeError,
            "loss: expected a pair",
        ),
        (lambda w, x: w, {"has_aux": True}, TypeError, "loss: expected a pair"),
        (square, {"has_aux": 1}, TypeError, "has_aux: expected True or False"),
    ],
)
def test_step_errors(loss, options, kind, message):
    w, optimizer = jnp.ones(2), optax.sgd(1)
    with pytest.raises(kind, match=message):
        sj.train.make_step(loss, optimizer, **options)(w, optimizer.init(w), jnp.zeros(2))


@pytest.mark.parametrize(
    ("optimizer", "got"),
    [
        (0.1, r"float 0\.1"),
        (None, "None"),
        (optax.adam, "function"),
        (optax.MultiSteps, "the class MultiSteps"),
        (sj.gru(2, 3), "Cell"),
    ],
)
def test_what_is_no_optimizer(optimizer, got):
    with pytest.raises(TypeError, match=f"optimizer: .* functions init and update, got .*{got}"):
        sj.train.make_step(square, optimizer)


def test_errors_of_what_a_step_is_given():
    optimizer = optax.adam(1.0)
    step = sj.train.make_step(lambda w, x: square(w["a"], x), optimizer)
    w, x = {"a": jnp.ones(2)}, jnp.zeros(2)
    opt_state = optimizer.init(w)
    new, new_state, _ = step(w, opt_state, x)
    with pytest.raises(ValueError, match=r"params\['a'\]: expected what the last step returned"):
        step(w, new_state, x)
    with pytest.raises(ValueError, match=r"opt_state.*: expected what the last step returned"):
        step(new, opt_state, x)
    step(new, new_state, x)
    whole = {"a": jnp.ones(2), "n": jnp.ones(3, int)}
    with pytest.raises(TypeError, match=r"params\['n'\]: .* floating array, got int64\[3\]"):
        step(whole, optimizer.init(whole), x)


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "value"), [((512, 128), 1), ((100, 100), 10), ((300, 300), 3)])
def test_masked_mean_in_half_precision(dtype, shape, value):
    """The count, the sum, or both are past 65,504, where float16 ends."""
    values, mask = jnp.full(shape, value, dtype), jnp.ones(shape, bool)
    mean, grad = jax.value_and_grad(sj.train.masked_mean)(values, mask)
    assert mean.dtype == grad.dtype == dtype
    assert mean == value
    np.testing.assert_allclose(grad.astype(float), 1 / mask.size, rtol=1e-2)
    half = mask.at[: shape[0] // 2].set(False)
    mean, grad = jax.value_and_grad(sj.train.masked_mean)(values, half)
    assert mean == value
    np.testing.assert_allclose(grad.astype(float), half / half.sum(), rtol=1e-2)


def test_a_missing_target_is_filled_before_the_loss():
    ys, mask = jnp.array([3.0, 2.0, 5.0]), jnp.array([True, True, False])
    targets = jnp.array([1.0, 2.0, jnp.nan])
    loss = lambda w, targets: sj.train.masked_mean((w * ys - targets) ** 2, mask)
    value, grad = jax.value_and_grad(loss)(1.0, targets)
    assert value == 2
    assert np.isnan(grad)  # as documented
    value, grad = jax.value_and_grad(loss)(1.0, jnp.where(mask, targets, 0))
    assert (value, grad) == (2, 6)


def test_masked_mean_errors():
    with pytest.raises(ValueError, match=r"mask: expected bool\[3\], got bool\[1\]"):
        sj.train.masked_mean(jnp.ones(3), jnp.ones(1, bool))
    with pytest.raises(TypeError, match=r"mask: expected bool\[3\], got float64\[3\]"):
        sj.train.masked_mean(jnp.ones(3), jnp.ones(3))
    with pytest.raises(TypeError, match="values: expected a floating dtype"):
        sj.train.masked_mean(jnp.ones(3, int), jnp.ones(3, bool))


def test_errors_of_data_parallel():
    device = jax.devices()[0]
    with pytest.raises(TypeError, match=r"^devices: expected a list of JAX devices"):
        sj.train.data_parallel(2)
    with pytest.raises(TypeError, match=r"^devices\[1\]: expected a JAX device, got int 0$"):
        sj.train.data_parallel([device, 0])
    with pytest.raises(ValueError, match=r"^devices\[1\]: expected a device that is not among"):
        sj.train.data_parallel([device, device])
