"""Errors name the argument, the need and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

lstm = sj.lstm(3, 4)
stack = sj.stack(sj.lstm(3, 4), sj.dense(4, 2))
own = sj.from_step(lambda key: jnp.ones(()), lambda p, s, x: (s[:1], s))
typed = sj.from_step(lambda key: jnp.ones(()), lambda p, s, x: (s, x), input_spec=lstm.input_spec)
narx = sj.narx(3, 4, 2)
both = sj.stack(sj.bidirectional(lstm), sj.dense(8, 3))
key = jax.random.key(0)
params, narx_params = lstm.init(key), narx.init(key)
xs = np.ones((5, 3))


class Drawing(type(sj.dense(3, 3))):
    stochastic = True


def unroll(model=lstm, params=params, xs=xs, state=None, **options):
    return sj.unroll(model, params, xs, state, **options)


# What is wrong, the error, and what its message must say: the argument, the need, what came.
ERRORS = [
    (lambda: sj.lstm(0, 4), ValueError, "input_size: expected an integer of at least 1, got 0"),
    (lambda: sj.gru(3, 4.0), TypeError, "hidden_size: expected an integer, got float 4.0"),
    (lambda: sj.rnn(3, True), TypeError, "hidden_size: expected an integer, got bool True"),
    (lambda: sj.rnn(3, 4, activation="tanh"), TypeError, "activation: expected a function"),
    (lambda: sj.lstm(3, 4, forget_bias="1"), TypeError, "forget_bias: expected a number"),
    (lambda: sj.lstm(3, 4, forget_bias=np.nan), ValueError, "forget_bias: expected a finite"),
    (lambda: sj.gru(3, 4, reset_after=1), TypeError, "reset_after: expected True or False"),
    (lambda: sj.lstm(3, 4, learn_initial_state=None), TypeError, "learn_initial_state: expected"),
    (lambda: sj.lstm(3, 4, dtype=int), TypeError, "dtype: expected a floating dtype, got int64"),
    (lambda: sj.lstm(3, 4, param_dtype="x"), TypeError, "param_dtype: expected a floating dtype"),
    (lambda: sj.dense(3, -1), ValueError, "output_size: expected .* at least 1, got -1"),
    (lambda: sj.dense(3, 4, activation=3), TypeError, "activation: expected a function, got int"),
    (lambda: sj.from_step(None, lambda: 0), TypeError, "init: expected a function, got None"),
    (lambda: sj.from_step(lambda: 0, 1), TypeError, "step: expected a function"),
    (
        lambda: sj.from_step(min, min, input_spec=3),
        TypeError,
        "input_spec: expected a jax.ShapeDtypeStruct or None",
    ),
    (
        lambda: sj.unroll(typed, jnp.ones(()), xs[:, :2]),
        ValueError,
        r"xs: expected float64\[T, 3\], got float64\[5, 2\]",
    ),
    (lambda: sj.tdnn(3, 2, delays=()), ValueError, r"delays: expected at least one delay, .* got"),
    (
        lambda: sj.tdnn(3, 2, delays=(1, 1)),
        ValueError,
        r"delays: .*larger than the one before, got",
    ),
    (
        lambda: sj.tdnn(3, 2, delays=(-1, 0)),
        ValueError,
        r"delays\[0\]: expected .* at least 0, got",
    ),
    (lambda: sj.tdnn(3, 2, delays=3), TypeError, "delays: expected a tuple of delays, got int 3"),
    (
        lambda: sj.narx(3, 2, 1, output_delays=(0, 1)),
        ValueError,
        r"output_delays\[0\]: expected .* 1",
    ),
    (
        lambda: sj.narx(3, 2, 1, input_delays=(1.0,)),
        TypeError,
        r"input_delays\[0\]: expected an integer",
    ),
    (
        lambda: sj.narx(3, 2, 1, output_activation=1),
        TypeError,
        "output_activation: expected a func",
    ),
    (
        lambda: sj.narx(3, jnp.tanh, 1),
        TypeError,
        "hidden: expected an integer, a tuple of integers or a seqjax model, got the function tanh",
    ),
    (lambda: sj.narx(3, (), 1), ValueError, "hidden: expected at least one size, got none"),
    (lambda: sj.narx(3, (4, 0), 1), ValueError, r"hidden\[1\]: expected an integer of at least 1"),
    (lambda: sj.narx(3, lstm, 1), ValueError, "hidden: expected a model without memory.*got lstm"),
    (
        lambda: sj.narx(3, sj.bidirectional(sj.dense(3, 3)), 1),
        ValueError,
        "hidden: expected a model without memory.*got bidirectional",
    ),
    (
        lambda: sj.narx(3, Drawing(**vars(sj.dense(3, 3))), 1),
        ValueError,
        "hidden: expected a model that draws nothing: .*got dense",
    ),
    (
        lambda: sj.narx(3, sj.stack(jnp.tanh, sj.dense(3, 3)), 1),
        ValueError,
        r"hidden: .* reads a vector of float64, got stack\(tanh, dense\(3, 3\)\), which reads None",
    ),
    (
        lambda: sj.narx(3, sj.stack(sj.dense(3, 3), jnp.sum), 1),
        ValueError,
        r"hidden: .* outputs a vector of float64, got .* outputs float64\[\]",
    ),
    (
        lambda: sj.narx(3, sj.dense(3, 3), 1, dtype=jnp.float32),
        ValueError,
        r"hidden: .* reads a vector of float32, got dense\(3, 3\), which reads float64\[3\]",
    ),
    (
        lambda: sj.teacher_force(lstm, params, xs, xs),
        TypeError,
        "model: expected a model from sj.na",
    ),
    (
        lambda: sj.teacher_force(narx, narx_params, xs, xs),
        ValueError,
        r"measured_ys: expected float64\[5, 2\], got float64\[5, 3\]",
    ),
    (
        lambda: sj.teacher_force(narx, narx_params, xs, xs[:, :2], forced=np.ones(4, bool)),
        ValueError,
        r"forced: expected bool\[5\], got bool\[4\]",
    ),
    (
        lambda: sj.predict_ahead(narx, narx_params, xs, xs[:, :2], steps_ahead=0),
        ValueError,
        "steps_ahead: expected an integer of at least 1, got 0",
    ),
    (
        lambda: sj.warm_start(narx, xs, xs[:4, :2]),
        ValueError,
        r"measured_ys: expected .*\[5, 2\], got",
    ),
    (
        lambda: sj.jordan(3, 4, 2, decay=1),
        ValueError,
        r"decay: expected a number in \[0, 1\), got 1",
    ),
    (lambda: sj.jordan(3, 4, 2, decay=-0.1), ValueError, "decay: expected a number of at least 0"),
    (lambda: sj.jordan(3, 4, 0, decay=0), ValueError, "output_size: expected .* at least 1, got 0"),
    (
        lambda: sj.elman(3, 4, activation=None),
        TypeError,
        "activation: expected a function, got None",
    ),
    (lambda: sj.bidirectional(3), TypeError, "forward: expected a seqjax model, got int 3"),
    (lambda: sj.bidirectional(lstm, 3), TypeError, "backward: expected a seqjax model, got int 3"),
    (
        lambda: sj.bidirectional(lstm, merge="max"),
        ValueError,
        "merge: expected one of 'concat', .* got",
    ),
    (
        lambda: sj.bidirectional(lstm, sj.gru(2, 4)),
        ValueError,
        r"backward: expected the input float64\[3\] that forward reads, got float64\[2\]",
    ),
    (
        lambda: sj.bidirectional(lstm, sj.gru(3, 2), merge="sum"),
        ValueError,
        r"merge: expected outputs that fit 'sum', got float64\[4\] and float64\[2\]",
    ),
    (
        lambda: sj.generate(both, both.init(jax.random.key(0)), np.array([1]), 2, key=key),
        TypeError,
        "step: a bidirectional model has none",
    ),
    (lambda: sj.stack(), ValueError, "models: expected at least one"),
    (
        lambda: sj.stack(lstm, 3),
        TypeError,
        r"models\[1\]: expected a seqjax model or a function, got int 3",
    ),
    (
        lambda: sj.stack(lstm, sj.gru(5, 2)),
        ValueError,
        r"models\[1\]: expected the input float64\[4\] that models\[0\] outputs, got float64\[5\]",
    ),
    (lambda: sj.BPTT(chunk=0), ValueError, "chunk: expected .* at least 1, got 0"),
    (lambda: sj.BPTT(truncate=2.0), TypeError, "truncate: expected an integer, got float"),
    (lambda: sj.BPTT(clip=0), ValueError, "clip: expected a number above 0, got 0"),
    (lambda: sj.BPTT(store="all"), ValueError, "store: expected one of 'states', .* got 'all'"),
    (lambda: unroll(model=3), TypeError, "model: expected a seqjax model, got int 3"),
    (lambda: unroll(adjoint="bptt"), TypeError, "adjoint: expected a seqjax adjoint"),
    (lambda: unroll(adjoint=sj.BPTT), TypeError, r"such as sj.BPTT\(\), got the class BPTT"),
    (lambda: unroll(reverse=1), TypeError, "reverse: expected True or False, got int 1"),
    (lambda: unroll(xs=xs[0]), ValueError, r"xs: expected float64\[T, 3\], got float64\[3\]$"),
    (lambda: unroll(xs=xs[None]), ValueError, r"float64\[1, 5, 3\]; for a batch, use jax.vmap"),
    (lambda: unroll(xs=xs[:, :2]), ValueError, r"xs: expected float64\[T, 3\], got float64\[5, 2"),
    (lambda: unroll(xs=xs.astype("f4")), TypeError, r"xs: expected float64.* got float32\[5, 3\]"),
    (lambda: unroll(xs=xs.astype(int)), TypeError, r"xs: expected float64.* got int64\[5, 3\]"),
    (
        lambda: unroll(xs=[[1.0, 2.0, 3.0]]),
        TypeError,
        "xs: expected a JAX or NumPy array, got a list of 1; np.asarray makes",
    ),
    (
        lambda: unroll(params={"kernel": params["kernel"]}),
        ValueError,
        "params: expected a dict of 'bias', 'kernel', 'recurrent_kernel', "
        "got one without 'bias', 'recurrent_kernel'$",
    ),
    (
        lambda: unroll(sj.stack(lstm), [params]),
        ValueError,
        "params: expected a tuple of 1, got a list of 1; tuple makes one of it$",
    ),
    (
        lambda: unroll(params=params | {"bias": params["bias"][:3]}),
        ValueError,
        r"params\['bias'\]: expected float64\[16\], got float64\[3\]",
    ),
    (
        lambda: unroll(params=params | {"bias": params["bias"].astype("f4")}),
        TypeError,
        r"params\['bias'\]: expected float64\[16\], got float32\[16\]",
    ),
    (lambda: unroll(state=jnp.zeros(4)), ValueError, r"state: expected LSTMState\(h, c\), got fl"),
    (
        lambda: unroll(state=sj.LSTMState(jnp.zeros(4), jnp.zeros(3))),
        ValueError,
        r"state\.c: expected float64\[4\], got float64\[3\]",
    ),
    (
        lambda: unroll(state=sj.LSTMState(jnp.zeros(4), jnp.zeros(4, "f4"))),
        TypeError,
        r"state\.c: expected float64\[4\], got float32\[4\]",
    ),
    (lambda: unroll(length=6), ValueError, r"length: expected .* in \[0, 5\], got 6"),
    (lambda: unroll(length=-1), ValueError, r"length: expected .* in \[0, 5\], got -1"),
    (lambda: unroll(length=2.0), TypeError, "length: expected an integer .* got float 2.0"),
    (lambda: unroll(length=True), TypeError, "length: expected an integer .* got bool True"),
    (lambda: unroll(length=[2]), TypeError, "length: expected an integer scalar, got a list of 1$"),
    (lambda: unroll(length=10**20), ValueError, r"length: expected .* in \[0, 5\], got 10"),
    (lambda: unroll(length=np.ones(5, int)), ValueError, r"int64\[5\]; for a batch, use jax.vmap"),
    (lambda: unroll(length=np.float64(2)), TypeError, "length: expected an integer scalar"),
    (lambda: unroll(mask=np.ones(4, bool)), ValueError, r"mask: expected bool\[5\], got bool\[4\]"),
    (lambda: unroll(mask=np.ones(5)), TypeError, r"mask: expected bool\[5\], got float64\[5\]"),
    (lambda: unroll(reset=np.ones((5, 1), bool)), ValueError, r"reset: expected bool\[5\], got bo"),
    (lambda: unroll(reset=np.ones(5, int)), TypeError, r"reset: expected bool\[5\], got int64"),
    (lambda: lstm.step(params, None, xs), ValueError, r"x: expected float64\[3\], got float64\[5"),
    (
        lambda: sj.unroll(own, jnp.ones(()), xs),
        ValueError,
        "state: expected a state, since sj.from_step",
    ),
    (
        lambda: sj.unroll(own, jnp.ones(()), xs, jnp.ones(2)),
        ValueError,
        r"the state that step returns: expected float64\[2\], got float64\[1\]",
    ),
    (
        lambda: sj.unroll(own, jnp.ones(()), {"a": xs, "b": xs[1:]}, jnp.ones(2)),
        ValueError,
        "xs: expected one length T for every array",
    ),
    (
        lambda: sj.unroll(own, jnp.ones(()), (), jnp.ones(2)),
        ValueError,
        "xs: expected at least one",
    ),
    (lambda: sj.matmul(xs, xs), ValueError, r"x: expected \[5\] or \[rows, 5\], got float64\[5, 3"),
    (lambda: sj.matmul(xs, xs[0]), ValueError, r"kernel: expected \[I, O\], got float64\[3\]"),
    (lambda: sj.matmul(xs, xs.T.astype("f4")), TypeError, "x: expected the kernel's dtype float32"),
    (
        lambda: sj.matmul(xs, xs.T, xs),
        ValueError,
        r"bias: expected float64\[5\], got float",
    ),
    (lambda: sj.testing.check_cell(own), ValueError, "x: expected an example of one input"),
    (lambda: sj.testing.check_cell(lstm, draws=0), ValueError, "draws: expected"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors_name_the_argument_the_need_and_what_came(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_dtype_that_is_not_enabled_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64: set jax_enable_x64"):
        sj.lstm(3, 4, dtype="float64")


def test_errors_are_the_same_under_transformations():
    with pytest.raises(ValueError, match=r"xs: expected float64\[T, 3\], got float64\[5, 2\]"):
        jax.jit(lambda xs: sj.unroll(lstm, params, xs))(xs[:, :2])
    with pytest.raises(ValueError, match=r"xs: expected float64\[T, 3\], got float64\[3\]"):
        jax.vmap(lambda xs: sj.unroll(lstm, params, xs))(xs)  # a batch axis is missing
