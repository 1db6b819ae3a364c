"""Every transformation of JAX, around every model: the meaning of `unroll` is the same in all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export, lax
from support.batches import B, T, at, batch, many, one_by_one
from support.comparison import assert_close, floats, is_float
from support.oracles import outputs_and_gradient, weighted
from support.table import (
    KINDS,
    I,
    a_few_causal_now,
    a_few_now,
    parametrized,
    problem,
    two_now,
)

import seqjax as sj

KEY = jax.random.key(0)


@pytest.mark.slow
@parametrized(KINDS)
def test_jit_is_eager(case):
    inputs = at(batch(case.model), 1)
    eager = outputs_and_gradient(case.model, *inputs)
    assert_close(one_by_one(case.name)(*inputs), eager, 1e-11)


@a_few_causal_now
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("checkpoint", marks=pytest.mark.slow),
        pytest.param("scan", marks=pytest.mark.slow),
        "scan of checkpoint",
    ],
)
def test_checkpoint_around_it_and_scan_over_it(case, how):
    """Segments of one series, the state carried by a scan of the caller's."""
    model, (params, xs, state) = case.model, problem(case.model, 6)

    def segments(params, xs, state):
        run = lambda s, piece: sj.unroll(model, params, piece, s)
        run = jax.checkpoint(run) if "checkpoint" in how else run
        if "scan" not in how:
            return run(state, xs)
        state, ys = lax.scan(run, state, xs.reshape(3, 2, *xs.shape[1:]))
        return state, jax.tree.map(lambda y: y.reshape(6, *y.shape[2:]), ys)

    ours = jax.jit(functools.partial(outputs_and_gradient, segments))(params, xs, state, {})
    assert_close(ours, one_by_one(case.name)(params, xs, state, {}), 1e-11)


@a_few_now
def test_one_trace_over_ten_calls(case):
    """Other values, and NumPy arrays, are no reason to trace again; another length is."""
    model, traces = case.model, []

    @jax.jit
    def run(params, xs, state):
        traces.append(xs.shape)
        return sj.unroll(model, params, xs, state)

    as_numpy = lambda leaf: np.asarray(leaf) if is_float(leaf) else leaf
    for seed in range(10):
        args = problem(model, 3, seed=seed)
        run(*(jax.tree.map(as_numpy, args) if seed % 2 else args))
    assert [time for time, *_ in traces] == [3]
    run(*problem(model, 4))
    assert [time for time, *_ in traces] == [3, 4]


EVENTS = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: EVENTS.append(name))


def compilations(call):
    """How many programs XLA compiles for a call."""
    EVENTS.clear()
    jax.block_until_ready(call())
    return EVENTS.count("/jax/core/compile/backend_compile_duration")


@two_now
def test_outside_jit_nothing_is_compiled_twice_and_the_results_are_the_same(case):
    params, *batched = batch(case.model)
    inputs = at(params, 0), *batched

    def call():
        run = functools.partial(outputs_and_gradient, case.model)
        return jax.vmap(run, (None, 0, 0, 0))(*inputs)

    assert compilations(call) > 0
    assert compilations(call) == 0
    assert_close(call(), many(case.name)(*inputs), 1e-11)


def test_symbols_generated_outside_jit_compile_once():
    model = sj.stack(sj.gru(5, 4), sj.dense(4, 5))
    params, prompt = model.init(KEY), jnp.array([1])
    call = lambda t: sj.generate(model, params, prompt, 3, key=KEY, temperature=t)
    assert compilations(lambda: call(0.5)) > 0
    assert compilations(lambda: (call(0.7), call(0))) == 0
    search = lambda a: sj.beam_search(model, params, prompt, 3, beams=2, length_penalty=a)
    assert compilations(lambda: search(0.5)) > 0
    assert compilations(lambda: (search(0.7), search(0))) == 0


@pytest.mark.parametrize("way", ["teacher_force", "forced", "predict_ahead", "trajectory"])
def test_what_is_made_around_a_model_for_one_call_compiles_once(way):
    model = sj.narx(I, 7, 2)  # equal to that of no other test
    params, xs, measured = model.init(KEY), jnp.ones((5, I)), jnp.ones((5, 2))
    calls = {
        "teacher_force": lambda xs: sj.teacher_force(model, params, xs, measured),
        "forced": lambda xs: sj.teacher_force(model, params, xs, measured, forced=xs[:, 0] > 1),
        "predict_ahead": lambda xs: sj.predict_ahead(model, params, xs, measured, steps_ahead=2),
        "trajectory": lambda xs: sj.trajectory(model, params, xs),
    }
    assert compilations(lambda: calls[way](xs)) > 0
    assert compilations(lambda: calls[way](xs)) == 0


FACTORIES = {
    "rnn": lambda: sj.rnn(I, 4, activation=jax.nn.relu),
    "lstm": lambda: sj.lstm(I, 4, forget_bias=1.0, learn_initial_state=True),
    "gru": lambda: sj.gru(I, 4, reset_after=False),
    "elman": lambda: sj.elman(I, 4, activation=jax.nn.elu),
    "jordan": lambda: sj.jordan(I, 4, 2, decay=0.5, output_activation=jax.nn.softmax),
    "tdnn": lambda: sj.tdnn(I, 4, delays=[0, 2], activation=jnp.tanh),
    "narx": lambda: sj.narx(I, 4, 2, output_delays=range(1, 4)),
    "bidirectional": lambda: sj.bidirectional(sj.lstm(I, 4), sj.gru(I, 2)),
    "dense": lambda: sj.dense(I, 4, activation=jax.nn.softmax),
    "stack": lambda: sj.stack(sj.lstm(I, 4), sj.gru(4, 2), sj.dense(2, 2)),
    "astype": lambda: sj.stack(sj.lstm(I, 4, dtype=jnp.float32)).astype(jnp.float64),
}


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
def test_equal_but_new_models_and_adjoints_do_not_trace_again(make):
    """A model is a static pytree: it may be an argument of a jitted function."""
    traces = []

    @functools.partial(jax.jit, static_argnames="adjoint")
    def run(model, params, xs, adjoint):
        traces.append(model)
        return sj.unroll(model, params, xs, adjoint=adjoint)[1]

    params, xs, _ = problem(make(), 3)
    for _ in range(10):
        run(make(), params, xs, sj.BPTT(chunk=2))
    assert len(traces) == 1
    run(make(), params, xs, sj.BPTT(chunk=3))
    assert len(traces) == 2


@two_now
def test_no_tracer_leaks(case):
    model, inputs = case.model, batch(case.model)
    with jax.checking_leaks():
        batched = jax.vmap(functools.partial(outputs_and_gradient, model))
        outputs, _ = jax.jit(batched)(*inputs)
        sj.unroll(model, *at(inputs[:3], 0), adjoint=sj.Autodiff())
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(outputs))


@a_few_now
def test_nothing_comes_from_the_host_once_compiled(case):
    params, *batched = batch(case.model)
    inputs = jax.device_put((at(params, 0), *batched))
    run = many(case.name)
    expected = run(*inputs)
    with jax.transfer_guard("disallow"):
        ours = run(*inputs)
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
            run(inputs[0], np.asarray(inputs[1]), *inputs[2:])
    assert_close(ours, expected, 1e-11)


@a_few_now
def test_donated_buffers_are_gone_and_change_nothing(case):
    model, (params, xs, state) = case.model, problem(case.model, T)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def loss(params, xs):
        return weighted(sj.unroll(model, params, xs, state))

    def update(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params, xs)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    expected = jax.jit(update)(params, optimizer.init(params))
    step = sj.train.make_step(loss, optimizer)
    old, old_state = jax.tree.map(jnp.copy, (params, optimizer.init(params)))
    new, opt_state, report = step(old, old_state, xs)
    assert_close((new, opt_state, report.loss), expected, 1e-11)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old, old_state)))
    assert not xs.is_deleted()


@two_now
def test_export_round_trip_with_its_gradient(case):
    """Serialized, read back and called, forward and backward, for any batch size."""
    pytest.importorskip("flatbuffers")
    model, (params, xs, state, _) = case.model, batch(case.model)
    params, state = at((params, state), 0)
    leaves, structure = jax.tree.flatten(params)  # a NamedTuple has no serialized form

    def run(leaves, xs):
        params = structure.unflatten(leaves)
        return floats(jax.vmap(lambda xs: sj.unroll(model, params, xs, state))(xs))

    (size,) = export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((size, *xs.shape[1:]), xs.dtype)
    blob = export.export(jax.jit(run))(leaves, spec).serialize(vjp_order=1)
    again = export.deserialize(blob).call
    gradients = [
        jax.jit(jax.grad(lambda *args, f=f: weighted(f(*args)), (0, 1), allow_int=True))(leaves, xs)
        for f in (again, run)
    ]
    assert_close(again(leaves, xs), jax.jit(run)(leaves, xs), 1e-11)
    assert_close(*gradients, 1e-11)
