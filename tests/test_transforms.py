"""Every transformation of JAX, around every model: the meaning of `unroll` is the same in all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CASES,
    I,
    every_model,
    floats,
    is_float,
    parametrized,
    problem,
    relative_error,
    weighted,
)
from jax import export, lax

import seqjax as sj

T, B = 5, 3
KEY = jax.random.key(0)
BY_NAME = {case.name: case.model for case in CASES}
# Each kind of model once; all of them before a release.
FEW = {"lstm-learned", "gru-reset-before", "own-step", "stack", "narx", "tdnn", "bidirectional"}


a_few_now = parametrized(CASES, later=lambda case: case.name not in FEW)
a_few_causal_now = parametrized(
    [case for case in CASES if case.model.causal], later=lambda case: case.name not in FEW
)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_same(ours, theirs, rtol=1e-11):
    """Floats to rounding; counters and random keys to the bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert relative_error(floats(ours), floats(theirs)) <= rtol
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if not is_float(a) and a.dtype != jax.dtypes.float0:
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a, b)


def outputs_and_gradient(run, params, xs, state, options):
    """((state, ys), the gradient's floating leaves) of `run`, a model or what stands for it."""
    run = functools.partial(sj.unroll, run) if isinstance(run, sj.Model) else run

    def div(params, xs, state):
        outputs = run(params, xs, state, **options)
        return weighted(outputs), outputs

    grads, outputs = jax.grad(div, (0, 1, 2), has_aux=True, allow_int=True)(params, xs, state)
    return outputs, floats(grads)


@functools.lru_cache
def one_by_one(name):
    """The jitted gradient of one sequence, shared by the tests that loop over it."""
    return jax.jit(functools.partial(outputs_and_gradient, BY_NAME[name]))


def batch(model, size=B):
    """Arguments of `outputs_and_gradient`, every leaf with a batch axis."""
    options = {
        "length": jnp.array([5, 2, 4]),
        "mask": jnp.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 0]], bool),
        "reset": jnp.array([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], bool),
    }
    sequences = [problem(model, T, seed=10 * n) for n in range(size)]
    return *stacked(*sequences), options


@a_few_now
def test_jit_is_eager(case):
    inputs = at(batch(case.model), 1)
    eager = outputs_and_gradient(case.model, *inputs)
    assert_same(one_by_one(case.name)(*inputs), eager)


IN_AXES = {
    "everything": (0, 0, 0, 0),
    "params and inputs": (0, 0, None, None),  # an ensemble, each member with data of its own
    "params": (0, None, None, None),
    "inputs": (None, 0, None, None),
    "state": (None, None, 0, None),
    "options": (None, None, None, 0),
    "all but params": (None, 0, 0, 0),
}


SWEEP = [
    pytest.param(
        case,
        axes,
        id=f"{case.name}-{name}",
        marks=() if name.startswith("all") and not case.variant else pytest.mark.slow,
    )
    for case in CASES
    for name, axes in IN_AXES.items()
]


@pytest.mark.parametrize(("case", "axes"), SWEEP)
def test_vmap_is_a_loop(case, axes):
    whole = batch(case.model)
    examples = [
        tuple(at(a, 0 if axis is None else n) for a, axis in zip(whole, axes, strict=True))
        for n in range(B)
    ]
    inputs = tuple(at(a, 0) if axis is None else a for a, axis in zip(whole, axes, strict=True))
    batched = jax.jit(jax.vmap(functools.partial(outputs_and_gradient, case.model), axes))
    assert_same(batched(*inputs), stacked(*(one_by_one(case.name)(*e) for e in examples)))


@a_few_now
def test_nested_vmap_and_an_inner_batch_axis(case):
    """[members, B]: an ensemble over a batch; batch axes that are not the first one."""
    params, xs, state, options = batch(case.model)
    inner = jax.vmap(functools.partial(outputs_and_gradient, case.model), (None, 1, None, 0))
    outer = jax.jit(jax.vmap(inner, (0, None, 0, None), out_axes=1))
    ours = outer(params, jnp.moveaxis(xs, 0, 1), state, options)
    run = one_by_one(case.name)
    rows = [
        stacked(*(run(at(params, m), xs[n], at(state, m), at(options, n)) for m in range(2)))
        for n in range(B)
    ]
    assert_same(jax.tree.map(lambda leaf: leaf[:, :2], ours), stacked(*rows))


@a_few_now
def test_gradient_of_a_batch_is_the_sum_of_per_example_gradients(case):
    model, (params, xs, state, options) = case.model, batch(case.model)
    params = at(params, 0)

    def div(params, xs, state, options):
        return weighted(sj.unroll(model, params, xs, state, **options))

    over = functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    pooled = jax.jit(jax.grad(lambda *args: over(div)(*args).sum()))(params, xs, state, options)
    each = jax.jit(over(jax.grad(div)))(params, xs, state, options)
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(each))
    assert_same(pooled, jax.tree.map(lambda leaf: leaf.sum(0), each))


@a_few_causal_now
@pytest.mark.parametrize("how", ["checkpoint", "scan", "scan of checkpoint"])
def test_checkpoint_around_it_and_scan_over_it(case, how):
    """Segments of one series, the state carried by a scan of the caller's."""
    model, (params, xs, state) = case.model, problem(case.model, 6)

    def segments(params, xs, state):
        run = lambda s, piece: sj.unroll(model, params, piece, s)
        run = jax.checkpoint(run) if "checkpoint" in how else run
        if "scan" not in how:
            return run(state, xs)
        state, ys = lax.scan(run, state, xs.reshape(3, 2, I))
        return state, jax.tree.map(lambda y: y.reshape(6, *y.shape[2:]), ys)

    ours, theirs = (
        jax.jit(functools.partial(outputs_and_gradient, run))(params, xs, state, {})
        for run in (segments, model)
    )
    assert_same(ours, theirs)


@every_model
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
    assert traces == [(3, I)]
    run(*problem(model, 4))
    assert traces == [(3, I), (4, I)]


EVENTS = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: EVENTS.append(name))


def compilations(call):
    """How many programs XLA compiles for a call."""
    EVENTS.clear()
    jax.block_until_ready(call())
    return EVENTS.count("/jax/core/compile/backend_compile_duration")


@every_model
def test_outside_jit_nothing_is_compiled_twice(case):
    model, (params, xs, state) = case.model, problem(case.model, T)
    div = lambda params, xs: weighted(sj.unroll(model, params, xs, state, length=3))

    def call():
        many = jnp.stack([xs, xs])
        batched = lambda params: jnp.sum(jax.vmap(div, (None, 0))(params, many))
        return div(params, xs), jax.grad(batched, allow_int=True)(params)

    assert compilations(call) > 0
    assert compilations(call) == 0


def test_symbols_generated_outside_jit_compile_once():
    model = sj.stack(sj.gru(5, 4), sj.dense(4, 5))
    params, prompt = model.init(KEY), jnp.array([1])
    call = lambda t: sj.generate(model, params, prompt, 3, key=KEY, temperature=t)
    assert compilations(lambda: call(0.5)) > 0
    assert compilations(lambda: (call(0.7), call(0))) == 0


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


@a_few_now
def test_no_tracer_leaks(case):
    model, inputs = case.model, batch(case.model)
    with jax.checking_leaks():
        batched = jax.vmap(functools.partial(outputs_and_gradient, model))
        outputs, _ = jax.jit(batched)(*inputs)
        sj.unroll(model, *at(inputs[:3], 0), adjoint=sj.Autodiff())
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(outputs))


@every_model
def test_nothing_comes_from_the_host_once_compiled(case):
    inputs = jax.device_put(batch(case.model))
    run = jax.jit(jax.vmap(functools.partial(outputs_and_gradient, case.model)))
    expected = run(*inputs)
    with jax.transfer_guard("disallow"):
        ours = run(*inputs)
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
            run(inputs[0], np.asarray(inputs[1]), *inputs[2:])
    assert_same(ours, expected)


@every_model
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
    assert_same((new, opt_state, report.loss), expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old, old_state)))
    assert not xs.is_deleted()


@a_few_now
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
    spec = jax.ShapeDtypeStruct((size, T, I), xs.dtype)
    blob = export.export(jax.jit(run))(leaves, spec).serialize(vjp_order=1)
    again = export.deserialize(blob).call
    gradients = [
        jax.jit(jax.grad(lambda *args, f=f: weighted(f(*args)), (0, 1)))(leaves, xs)
        for f in (again, run)
    ]
    assert_same(again(leaves, xs), jax.jit(run)(leaves, xs))
    assert_same(*gradients)


@a_few_now
@pytest.mark.parametrize(("size", "time"), [(0, 4), (0, 0), (3, 0)])
def test_empty_batches_and_empty_series(case, size, time):
    model, (params, xs, state) = case.model, problem(case.model, 4)
    xs = jnp.broadcast_to(xs[:time], (size, time, I))
    state = jax.tree.map(lambda s: jnp.broadcast_to(s, (size, *s.shape)), state)

    def run(params, xs, state):
        return jax.vmap(functools.partial(sj.unroll, model, params))(xs, state)

    batched = jax.jit(functools.partial(outputs_and_gradient, run))
    (final, ys), grads = batched(params, xs, state, {})
    number = len(floats(params))
    assert all(y.shape[:2] == (size, time) for y in jax.tree.leaves(ys))
    assert_same(final, state)
    assert all((leaf == 0).all() for leaf in grads[:number])
    assert grads[number].shape == xs.shape
    # Nothing lies between the initial state and the final one: its cotangent passes through.
    assert all((leaf != 0).all() for leaf in grads[number + 1 :])
