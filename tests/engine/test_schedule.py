"""What `BPTT` chooses by itself, and that the caller's choice goes before it."""

import jax
import jax.numpy as jnp
import pytest
from jax import export
from support.comparison import assert_close
from support.oracles import gradient
from support.table import a_few_now, problem

import seqjax as sj
from seqjax.engine.schedule import batch_size, divisor, schedule, unroll

I = 3  # noqa: E741


def preactivation_bytes(model):
    params = model.init(jax.random.key(0))
    return model.preactivation_bytes(params, model.initial_state(params), model.input_spec)


@pytest.mark.parametrize(
    ("model", "floats"),
    [
        (sj.rnn(I, 64), 64),
        (sj.lstm(I, 64), 256),
        (sj.gru(I, 64), 256),
        (sj.gru(I, 64, reset_after=False), 192),
        (sj.stack(sj.lstm(I, 64), sj.dense(64, 8), sj.rnn(8, 16)), 272),
        (sj.narx(I, 16, 2), 18),
        (sj.jordan(I, 16, 2, decay=0.5), 18),
        (sj.tdnn(I, 64), 0),
        (sj.stack(sj.tdnn(I, 64), sj.dense(64, 2)), 0),
    ],
    ids=str,
)
def test_the_size_of_a_step_is_that_of_its_pre_activations(model, floats):
    assert preactivation_bytes(model) == 8 * floats
    assert preactivation_bytes(model.astype(jnp.bfloat16)) == 2 * floats


def test_on_a_cpu_chunks_fit_the_cache_and_elsewhere_there_are_none():
    size = 32 * 4 * 256  # of the state of 32 series of 256 units
    assert schedule(128, 4 * size, 2 * size, 1, "cpu") == (
        16,
        "preactivations",
    )  # 15.3 fit
    assert schedule(127, 4 * size, 2 * size, 1, "cpu") == (
        15,
        "preactivations",
    )  # a prime number
    assert schedule(254, 31_250, 10**4, 1, "cpu") == (
        64,
        "preactivations",
    )  # not 127, half of it
    assert schedule(128, size, size, 1, "cpu") == (None, "preactivations")
    assert schedule(10**6, size, size, 1, "cpu") == (64, "preactivations")
    assert schedule(10**6, size, size, 32, "cpu") == (64, "states")
    assert schedule(10**6, 512, 512, 1, "cpu") == (4000, "states")
    assert schedule(128, 10**9, 10**9, 1, "cpu") == (8, "preactivations")
    assert schedule(10**9, 0, 0, 1, "cpu") == (None, "states")
    for backend, store in (("gpu", "states"), ("tpu", "preactivations")):
        assert schedule(10**6, 4 * size, 2 * size, 1, backend) == (None, store)


def test_a_series_of_gates_that_fits_is_cut_in_four_if_it_is_long():
    assert schedule(1024, 2048, 1024, 1, "cpu") == (256, "preactivations")
    assert schedule(4096, 512, 256, 1, "cpu") == (1024, "states")
    assert schedule(1024, 1024, 1024, 1, "cpu") == (None, "preactivations")
    assert schedule(300, 4096, 2048, 1, "cpu") == (150, "preactivations")
    assert schedule(128, 16384, 8192, 1, "cpu") == (None, "preactivations")


def test_a_small_series_is_one_chunk():
    assert schedule(1024, 512, 256, 1, "cpu") == (None, "states")
    assert schedule(488, 2048, 1024, 1, "cpu") == (None, "preactivations")
    assert schedule(489, 2048, 1024, 1, "cpu") != (None, "preactivations")


def test_the_divisor_is_near():
    """More than half of what is asked for, and no more than the most."""
    found = [divisor(steps, 10, most) for steps, most in ((12, 10), (25, 10), (10, 10), (11, 10))]
    assert found == [6, None, 10, None]
    assert divisor(22, 10, 11) == 11
    assert divisor(48, 10, 15) in (8, 12)  # as near as each other
    assert divisor(72, 10, 15) == 9


def test_what_the_caller_chooses_stays():
    chosen = sj.BPTT(chunk=5, store="chunk_starts", truncate=3, clip=1.0)
    assert chosen.resolve(10**5, 4096, 2048) == chosen
    assert sj.BPTT(chunk=5).resolve(10**5, 4096, 2048) == sj.BPTT(chunk=5, store="preactivations")
    assert sj.BPTT(store="states").resolve(10**5, 4096, 2048) == sj.BPTT(chunk=500, store="states")
    assert sj.BPTT(store="chunk_starts").resolve(100, 4096, 2048).chunk == 10
    assert sj.BPTT(truncate=7).resolve(10**5, 4096, 2048).truncate == 7
    assert sj.Autodiff().resolve(10**5, 4096, 2048) == sj.Autodiff()


LSTM = sj.lstm(I, 64, dtype=jnp.float32)  # 1 kB a step
PARAMS = LSTM.init(jax.random.key(0))


def scan_lengths(function, *shape):
    """Of the outermost loops of a function of xs."""
    jaxpr = jax.make_jaxpr(function)(jnp.zeros(shape, jnp.float32))
    return [e.params["length"] for e in jaxpr.eqns if e.primitive.name == "scan"]


def test_a_series_is_cut_into_chunks_if_it_is_long_or_one_of_many():
    def run(**options):
        return lambda xs: sj.unroll(LSTM, PARAMS, xs, **options)

    assert scan_lengths(run(), 128, I) == []  # one chunk, and its scan within
    assert scan_lengths(run(), 6000, I) == [4]
    assert scan_lengths(run(), 19530, I) == [10]  # of 1953 steps
    assert scan_lengths(run(adjoint=sj.BPTT(chunk=80)), 640, I) == [8]
    assert scan_lengths(run(adjoint=sj.Autodiff()), 19530, I) == [19530]
    assert scan_lengths(jax.vmap(run()), 32, 610, I) == [10]  # of 61 steps
    assert scan_lengths(jax.vmap(jax.vmap(run())), 4, 8, 610, I) == [10]


def test_the_batch_is_seen_through_differentiation_in_any_order():
    seen = []

    def look(x):
        seen.append(batch_size(x))
        return jnp.sum(x**2)

    xs = jnp.ones((3, 5, 4))
    whole = lambda xs: jax.vmap(look)(xs).sum()
    for function, size in [
        (look, 1),
        (jax.vmap(look), 3),
        (jax.vmap(jax.vmap(look)), 15),
        (jax.grad(whole), 3),
        (jax.vmap(jax.grad(look)), 3),
        (jax.vmap(jax.grad(whole)), 15),
        (jax.vmap(look, in_axes=2), 4),
    ]:
        for wrapped in (function, jax.jit(function)):
            wrapped(xs)
            assert seen.pop() == size
    jax.vmap(jax.jit(look))(xs)
    assert seen.pop() == 1  # hidden, and harmless


def test_of_a_batch_on_explicit_axes_that_of_one_device_is_counted():
    axes = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.sharding.AbstractMesh((4, 2), ("batch", "more"), axis_types=axes)
    seen = []
    look = lambda x: seen.append(batch_size(x)) or x
    with jax.sharding.use_abstract_mesh(mesh):
        for over, size in [("batch", 4), (("batch", "more"), 2), (None, 16)]:
            place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(over))
            jax.eval_shape(jax.vmap(look), jax.ShapeDtypeStruct((16, 3), "float32", sharding=place))
            assert seen.pop() == size


def test_symbolic_sizes_have_no_chunks():
    """`jax.export` for any batch and any length: nothing can be chosen by them."""
    size, steps = export.symbolic_shape("b, t")
    xs = jax.ShapeDtypeStruct((size, steps, I), jnp.float32)
    run = jax.jit(jax.vmap(lambda xs: sj.unroll(LSTM, PARAMS, xs)[1]))
    call = export.export(run)(xs).call
    for shape in ((2, 5, I), (3, 7, I)):
        data = jnp.ones(shape, jnp.float32)
        assert_close([call(data)], [run(data)], 1e-5)


@a_few_now
def test_its_choice_is_right_over_several_chunks(case, monkeypatch):
    """With chunks of 3 steps, as a model a thousand times as large would have."""
    monkeypatch.setattr("seqjax.engine.adjoint.schedule", lambda *sizes: (3, "preactivations"))
    at = problem(case.model, 8)
    ours, theirs = (gradient(case.model, adjoint=a)(*at) for a in (sj.BPTT(), sj.Autodiff()))
    assert_close(ours, theirs, 1e-10)


@pytest.mark.parametrize("steps", [1, 8, 11, 24])
@pytest.mark.parametrize("model", [sj.lstm(I, 4), sj.lru(I, 4, 4)], ids=["lstm", "lru"])
def test_several_steps_at_once(monkeypatch, model, steps):
    """As on a GPU: an iteration has eight steps, and a rest is left over or not."""
    scan = "loop" if model.divisible else None
    params = model.init(jax.random.key(0))
    xs, weights = jax.random.normal(jax.random.key(1), (2, steps, I))
    weights = weights[:, :1]
    mask, reset = jnp.arange(steps) != 5, jnp.arange(steps) == 9

    def loss(adjoint):
        run = lambda p, xs: sj.unroll(model, p, xs, mask=mask, reset=reset, adjoint=adjoint)[1]
        return jax.value_and_grad(lambda p, xs: jnp.sum(weights * run(p, xs)), (0, 1))(params, xs)

    expected = loss(sj.Autodiff())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jaxpr = jax.make_jaxpr(lambda: loss(sj.BPTT(scan=scan)))()
    assert "unroll=8" in str(jaxpr)
    assert_close(loss(sj.BPTT(scan=scan)), expected, 1e-12)


def test_steps_at_once():
    assert [unroll(100, backend) for backend in ("cpu", "gpu", "tpu")] == [1, 8, 1]
