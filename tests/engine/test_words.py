"""How models show, and what is said of mistakes that JAX would report in terms of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj

REPRESENTED = [
    "rnn(3, 4)",
    "rnn(3, 4, learn_initial_state=True)",
    "lstm(3, 4, forget_bias=1.0)",
    "gru(3, 4, reset_after=False, learn_initial_state=True)",
    "gru(3, 4, dtype=bfloat16, param_dtype=float32)",
    "elman(3, 4)",
    "jordan(3, 4, 2, decay=0.5)",
    "narx(3, 4, 2, input_delays=(0, 2))",
    "narx(3, (5, 4), 2)",
    "narx(3, residual(dense(5, 5)), 2)",
    "tdnn(3, 2, delays=(0, 4))",
    "dense(3, 2, dtype=float16)",
    "embed(5, 3, dtype=bfloat16, param_dtype=float32)",
    "stack(lstm(3, 4), dense(4, 2))",
    "bidirectional(gru(3, 4), lstm(3, 4))",
    "layer_norm(3, eps=0.001)",
    "rms_norm(3, dtype=bfloat16)",
    "residual(stack(layer_norm(3), gru(3, 4), dense(4, 3)))",
    "branches(gru(3, 4), rnn(3, 4), merge='sum')",
    "feedback(lstm(7, 4))",
    "feedback(gru(3, 3), merge='sum')",
    "stack(bidirectional(gru(3, 4), merge='sum'), dense(4, 2))",
]


@pytest.mark.parametrize("text", REPRESENTED)
def test_a_model_shows_as_the_call_that_makes_it(text):
    dtypes = {name: name for name in ("bfloat16", "float16", "float32")}
    model = eval(text, vars(sj) | dtypes)
    assert repr(model) == text
    assert eval(repr(model.astype("float16")), vars(sj) | dtypes) == model.astype("float16")


def test_models_that_differ_in_an_option_show_differently():
    shown = {repr(sj.rnn(3, 4, activation=f)) for f in (jnp.tanh, jax.nn.relu, jax.nn.elu)}
    shown |= {repr(sj.dense(3, 4, activation=f)) for f in (None, jnp.tanh)}
    assert shown == {
        "rnn(3, 4)",
        "rnn(3, 4, activation=relu)",
        "rnn(3, 4, activation=elu)",
        "dense(3, 4)",
        "dense(3, 4, activation=tanh)",
    }
    step = lambda params, state, x: (state, x)
    assert repr(sj.from_step(jnp.exp, step)) == "from_step(exp, <lambda>)"


def opt_step(optimizer, opt_state, *batch):
    step = sj.train.make_step(lambda w, x: jnp.sum((w - x) ** 2), optimizer)
    return step(jnp.ones(2), opt_state, *batch)


GRU = sj.gru(3, 3, dtype=jnp.float64)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: opt_step(optax.adam(0.1), None, jnp.ones(2)),
            ValueError,
            r"opt_state: expected a tuple of 2, got None",
        ),
        (
            lambda: opt_step(optax.adam(0.1), optax.sgd(0.1).init(jnp.ones(2)), jnp.ones(2)),
            ValueError,
            r"opt_state\[0\]: expected ScaleByAdamState\(count, mu, nu\), got EmptyState\(\)",
        ),
        (
            lambda: opt_step(optax.sgd(0.1), optax.sgd(0.1).init(jnp.ones(2)), {"x": "text"}),
            TypeError,
            r"batch\[0\]\['x'\]: expected an array, got str 'text'",
        ),
        (
            lambda: sj.generate(
                GRU, GRU.init(jax.random.key(0)), np.array([1]), 3, key=jax.random.key(0),
                encode=lambda symbol: jnp.ones(2),
            ),
            ValueError,
            r"(?m)the x that encode returns: expected float64\[3\], got float64\[2\]$",
        ),
        (lambda: GRU.astype(None), TypeError, "dtype: expected a floating dtype, got None"),
        (
            lambda: sj.unroll(
                sj.from_step(
                    lambda key: jnp.ones(()),
                    lambda params, h, x: (jnp.ones(3), x),
                    lambda params: jnp.zeros(()),
                ),
                jnp.ones(()),
                jnp.ones(3),
            ),
            ValueError,
            r"(?m)the state that step returns: expected float64\[\], got float64\[3\]$",
        ),
        (lambda: sj.static_partial("tanh"), TypeError, "function: expected a function, got str"),
        (
            lambda: sj.warm_start(
                sj.narx(1, 2, 1, dtype=jnp.float64), jnp.ones((1, 1)), jnp.ones((1, 1))
            ),
            ValueError,
            "xs: expected a history of at least 2 steps, got 1 step$",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_an_error_of_the_optimizer_itself_is_left_as_it_is():
    def update(grad, state, params):
        raise RuntimeError("of the optimizer")

    optimizer = optax.GradientTransformation(optax.identity().init, update)
    with pytest.raises(RuntimeError, match="of the optimizer"):
        opt_step(optimizer, optimizer.init(jnp.ones(2)), jnp.ones(2))
