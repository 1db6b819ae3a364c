"""Every hand-written rule and every branch of the recursion, each at the smallest size.

The other suites prove the same over whole models; these few cases are quick, and say which
rule is off. `tools/mutate.py` runs them against every mutant.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.comparison import assert_close, floats, relative_error
from support.oracles import clipper
from support.table import normal

import seqjax as sj
from seqjax.ops.zero_cotangent import zero_cotangent

I, H, T = 2, 3, 7  # noqa: E741

CELLS = {
    "rnn": sj.rnn(I, H, dtype=jnp.float64),
    "relu": sj.rnn(I, H, activation=jax.nn.relu, dtype=jnp.float64),
    "lstm": sj.lstm(I, H, dtype=jnp.float64),
    "lstm-peephole": sj.lstm(I, H, peepholes=True, dtype=jnp.float64),
    "lstm-coupled": sj.lstm(I, H, coupled=True, dtype=jnp.float64),
    "lstm-both": sj.lstm(I, H, peepholes=True, coupled=True, dtype=jnp.float64),
    "lstm-projected": sj.lstm(I, H, projection_size=2, dtype=jnp.float64),
    "lstm-norm": sj.lstm(I, H, layer_norm=True, dtype=jnp.float64),
    "after": sj.gru(I, H, dtype=jnp.float64),
    "after-norm": sj.gru(I, H, layer_norm=True, dtype=jnp.float64),
    "before": sj.gru(I, H, reset_after=False, dtype=jnp.float64),
    "slstm": sj.slstm(I, 3 * H, heads=H, dtype=jnp.float64),  # units of either branch
    "slstm-exp": sj.slstm(I, H, forget_gate="exp", dtype=jnp.float64),
    "elu": sj.rnn(I, H, activation=jax.nn.elu, dtype=jnp.float64),
    "elman": sj.elman(I, H, dtype=jnp.float64),
    "jordan": sj.jordan(I, H, 2, decay=0.6, output_activation=jax.nn.softmax, dtype=jnp.float64),
    "jordan-linear": sj.jordan(I, H, 2, decay=0.6, dtype=jnp.float64),
}
NARX = {
    name: sj.narx(I, H, 2, output_delays=(1, 4), output_activation=g, dtype=jnp.float64)
    for name, g in {"narx": jnp.sin, "narx-linear": None}.items()
}
NARX["narx-deep"] = sj.narx(I, (H, 4), 2, output_delays=(1, 4), dtype=jnp.float64)


@pytest.mark.parametrize("name", [*CELLS, *NARX])
def test_rule_is_the_derivative_of_its_function(name):
    model = NARX[name] if name in NARX else CELLS[name]
    params = normal(jax.eval_shape(lambda: model.init(jax.random.key(0))), 1)
    h = normal(model.initial_state(params), 2)
    if name in NARX:
        cell, u = model.feedback, normal(jnp.zeros(H), 3)
        h = cell.history.read(h.ys)
    else:
        cell, u = model, model.project(params, normal(model.input_spec, 3))
    z, pull_z = jax.vjp(lambda h: cell.preactivate(params, h, u), h)
    dz = normal(z, 4)
    ours, theirs = cell.preactivate_vjp(params, h, u, z, dz), pull_z(dz)[0]
    ours = jax.tree.map(jnp.zeros_like, theirs) if ours is None else ours
    assert_close(floats(ours), floats(theirs), 1e-13)
    new, pull_h = jax.vjp(cell.activate, z, h)
    dh = normal(new, 5)
    for given, theirs in zip(cell.activate_vjp(z, h, new, dh), pull_h(dh), strict=True):
        given = jax.tree.map(jnp.zeros_like, theirs) if given is None else given
        assert jax.tree.structure(given) == jax.tree.structure(theirs)
        assert_close(floats(given), floats(theirs), 1e-13)


@pytest.mark.parametrize("shape", [(I,), (T, I)])
def test_matmul_has_the_derivatives_of_a_plain_one(shape):
    x, kernel = (normal(jax.ShapeDtypeStruct(s, jnp.float64), 1) for s in (shape, (I, H)))
    y, pull = jax.vjp(sj.matmul, x, kernel)
    theirs, pull_plain = jax.vjp(jnp.matmul, x, kernel)
    dy = normal(y, 2)
    assert_close([y, *pull(dy)], [theirs, *pull_plain(dy)], 1e-14)


@pytest.mark.parametrize("shape", [(I,), (T, I)])
def test_cotangents_of_matmul_have_the_derivatives_of_plain_ones(shape):
    """The cotangents are products themselves, of other operands: second order."""
    at = [normal(jax.ShapeDtypeStruct(s, jnp.float64), 1) for s in (shape, (I, H))]
    dy = normal(jnp.matmul(*at), 2)

    def cotangents(product):
        return lambda x, kernel, dy: jax.vjp(product, x, kernel)[1](dy)

    ours, theirs = (jax.vjp(cotangents(f), *at, dy)[1] for f in (sj.matmul, jnp.matmul))
    for number in range(2):  # of x and of the kernel
        weights = [normal(a, 3) if n == number else jnp.zeros_like(a) for n, a in enumerate(at)]
        assert_close(ours(tuple(weights)), theirs(tuple(weights)), 1e-14)


def test_zero_cotangent_is_an_identity_whose_cotangent_alone_is_zero():
    value, pull = jax.vjp(zero_cotangent, {"a": jnp.arange(3.0)})
    assert value["a"].tolist() == [0, 1, 2]
    assert pull(value)[0]["a"].tolist() == [0, 0, 0]


def small(rules):
    """A cell of two coupled state leaves, a counter and a start that is learned."""

    def activate(z, s):
        h = s["h"] * s["m"] / 2 + jnp.tanh(z)
        return {"h": h, "m": s["m"] / 3 + jnp.sin(z), "n": s["n"] + 1}

    def activate_vjp(z, s, new, d):
        dz = d["h"] * (1 - jnp.tanh(z) ** 2) + d["m"] * jnp.cos(z)
        dm = d["h"] * s["h"] / 2 + d["m"] / 3
        return dz, {"h": d["h"] * s["m"] / 2, "m": dm, "n": d["n"]}

    def preactivate(params, s, u):
        return u * jnp.cos(s["m"]) + sj.matmul(s["h"], params["recurrent"])

    def preactivate_vjp(params, s, u, z, dz):
        dh = sj.matmul(dz, params["recurrent"].T)
        return {"h": dh, "m": -dz * u * jnp.sin(s["m"]), "n": np.zeros((), jax.dtypes.float0)}

    def init(key):
        leaf = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float64)
        spec = {"kernel": leaf(I, 2), "recurrent": leaf(2, 2), "h": leaf(2), "m": leaf(2)}
        return normal(spec, 1)

    return sj.Cell(
        init=init,
        initial_state=lambda params: {"h": params["h"], "m": params["m"], "n": jnp.array(0)},
        project=lambda params, x: sj.matmul(x, params["kernel"]),
        preactivate=preactivate,
        activate=activate,
        readout=lambda params, s: s["h"] * s["m"],
        **({"activate_vjp": activate_vjp, "preactivate_vjp": preactivate_vjp} if rules else {}),
    )


def plain(cell, params, xs, state, *, mask, reset, truncate, clip):
    """One scan with `jnp.where`, differentiated by JAX: what all the options mean."""
    start, clipped = cell.initial_state(params), clipper(clip)
    pick = lambda which, a, b: jax.tree.map(lambda a, b: jnp.where(which, a, b), a, b)

    def step(s, inputs):
        t, x, valid, again = inputs  # t counts the valid steps
        held = jax.tree.map(lax.stop_gradient, s)
        s = pick(valid & (t > 0) & (t % truncate == 0), held, s)
        entering = pick(again & valid, start, s)
        new = cell.activate(cell.preactivate(params, entering, cell.project(params, x)), entering)
        s = pick(valid, clipped(new), entering)
        return s, jnp.where(valid, cell.readout(params, s), 0)

    return lax.scan(step, state, (jnp.cumsum(mask) - 1, xs, mask, reset))


MASK = jnp.array([True, True, False, True, True, False, True])
RESET = jnp.array([False, True, True, False, True, False, False])
BPTT = {
    "plain": {},
    "pieces": {"chunk": 2, "store": "preactivations"},
    "starts": {"chunk": 3, "store": "chunk_starts"},
    "truncated": {"truncate": 3},
    "truncated in pieces": {"truncate": 4, "chunk": 2},  # windows of 4 and 3 steps
    "clipped": {"clip": 0.3},
}


def div(run, *at):
    leaves = floats(run(*at))
    weights = [jnp.arange(1.0, a.size + 1).reshape(a.shape) for a in leaves]
    return jnp.sin(sum(jnp.sum(w * a) for w, a in zip(weights, leaves, strict=True)) / 20)


def first_order(run, *at):
    grads = jax.grad(functools.partial(div, run), (0, 1, 2), allow_int=True)(*at)
    return [*floats(run(*at)), *floats(grads)]


def second_order(run, *at):
    """Reverse over reverse."""

    def again(*at):
        return sum(jnp.sum(jnp.cos(g)) for g in first_order(run, *at))

    return floats(jax.grad(again, (0, 1, 2), allow_int=True)(*at))


def compare(what, rules, special, **options):
    cell = small(rules)
    params = cell.init(None)
    xs = normal(jax.ShapeDtypeStruct((T, I), jnp.float64), 2)
    state = normal({"h": jnp.ones(2), "m": jnp.ones(2), "n": jnp.array(3)}, 3)
    everywhere = {"mask": jnp.ones(T, bool), "reset": jnp.zeros(T, bool)}
    steps = {"mask": MASK, "reset": RESET} if special else everywhere
    bptt = sj.BPTT(**options)

    def ours(*at):
        return sj.unroll(cell, *at, **(steps if special else {}), adjoint=bptt)

    def theirs(*at):
        return plain(cell, *at, **steps, truncate=bptt.truncate or T, clip=bptt.clip or 1e9)

    ours, theirs = (
        jax.jit(functools.partial(what, run))(params, xs, state) for run in (ours, theirs)
    )
    assert_close(ours, theirs, 1e-10)


special = pytest.mark.parametrize("special", [True, False], ids=["mask and reset", "every step"])


@special
@pytest.mark.parametrize("options", BPTT)
@pytest.mark.parametrize("rules", [True, False], ids=["by hand", "derived"])
def test_recursion_is_the_derivative_of_a_plain_scan(rules, options, special):
    compare(first_order, rules, special, **BPTT[options])


@special
@pytest.mark.parametrize("store", ["states", "preactivations"])
def test_second_order_of_the_recursion(store, special):
    compare(second_order, True, special, store=store)


@pytest.mark.parametrize("rule", ["activate_vjp", "preactivate_vjp"])
def test_the_rule_by_hand_is_the_one_that_is_used(rule):
    """A wrong one must show."""
    cell = CELLS["rnn"]
    right = getattr(cell, rule)
    wrong = dataclasses.replace(
        cell, **{rule: lambda *operands: jax.tree.map(lambda d: 2 * d, right(*operands))}
    )
    params = cell.init(jax.random.key(0))
    xs, state = jnp.ones((T, I)), jnp.ones(H)
    ours, theirs = (
        first_order(functools.partial(sj.unroll, c), params, xs, state) for c in (wrong, cell)
    )
    assert relative_error(ours, theirs) > 1e-3


@pytest.mark.parametrize("part", [0, 1, None], ids=["final state", "outputs", "both"])
@pytest.mark.parametrize("name", ["elman", "jordan"])
def test_without_a_loop_back(name, part):
    """The parallel backward pass of a network whose steps no gradient links."""
    cell = CELLS[name]
    params = normal(jax.eval_shape(lambda: cell.init(jax.random.key(0))), 1)
    xs, state = normal(jnp.zeros((T, I)), 2), normal(cell.initial_state(params), 3)

    def run(adjoint):
        whole = functools.partial(sj.unroll, cell, adjoint=adjoint)
        return whole if part is None else lambda *at: whole(*at)[part]

    ours, theirs = (first_order(run(a), params, xs, state) for a in (sj.BPTT(), sj.Autodiff()))
    assert_close(ours, theirs, 1e-10)


def test_pre_activations_that_do_not_read_the_state():
    """A quasi-recurrent cell (Bradbury et al. 2017): of the two rules one has no link."""

    def activate(z, h):
        f = jax.nn.sigmoid(z[:H])
        return f * h + (1 - f) * jnp.tanh(z[H:])

    def activate_vjp(z, h, new, d):
        f, candidate = jax.nn.sigmoid(z[:H]), jnp.tanh(z[H:])
        to_z = (d * ((h - candidate) * (f * (1 - f))), d * ((1 - f) * (1 - candidate**2)))
        return jnp.concatenate(to_z), d * f

    cell = sj.Cell(
        init=lambda key: jax.random.normal(key, (I, 2 * H)),
        initial_state=lambda kernel: jnp.zeros(H),
        project=lambda kernel, x: sj.matmul(x, kernel),
        preactivate=lambda kernel, h, u: u,
        preactivate_vjp=lambda kernel, h, u, z, dz: None,
        activate=activate,
        activate_vjp=activate_vjp,
        input_spec=jax.ShapeDtypeStruct((I,), jnp.float64),
    )
    sj.testing.check_cell(cell)


@pytest.mark.parametrize("part", [0, 1], ids=["final state", "outputs"])
def test_cotangent_of_one_result_alone(part):
    """What the divergence does not read has no cotangent at all, not one of zeros."""
    cell = CELLS["lstm"]
    params = cell.init(jax.random.key(0))
    xs, state = jnp.ones((T, I)), cell.initial_state(params)
    ours, theirs = (
        first_order(lambda *at, a=a: sj.unroll(cell, *at, adjoint=a)[part], params, xs, state)
        for a in (sj.BPTT(), sj.Autodiff())
    )
    assert_close(ours, theirs, 1e-10)


def test_what_is_kept_for_the_backward_pass():
    """In numbers a step, as `BPTT` says: S, S + Z, and S a chunk (2H and 4H for the LSTM)."""
    steps = 100
    cell = CELLS["lstm"]
    params = cell.init(jax.random.key(0))
    xs, state = jnp.ones((steps, I)), cell.initial_state(params)
    kept = {}
    for store in ("states", "preactivations", "chunk_starts"):
        adjoint = sj.BPTT(chunk=10, store=store)
        run = jax.jit(functools.partial(sj.unroll, cell, adjoint=adjoint))
        pull = jax.vjp(run, params, xs, state)[1]
        kept[store] = sum(leaf.size for leaf in jax.tree.leaves(pull)) / steps
    assert kept["preactivations"] - kept["states"] == pytest.approx(4 * H)
    assert kept["states"] - kept["chunk_starts"] == pytest.approx(2 * H)
    inputs = I + sum(leaf.size for leaf in floats(params)) / steps
    assert kept["chunk_starts"] == pytest.approx(inputs + 2 * H / 10)


def test_second_order_of_a_truncated_gradient_is_its_derivative():
    """Against differences of the truncated gradient itself, which is not cut once more."""
    cell = CELLS["rnn"]
    params = cell.init(jax.random.key(0))
    xs, state = normal(jax.ShapeDtypeStruct((T, I), jnp.float64), 2), jnp.ones(H)
    run = functools.partial(sj.unroll, cell, adjoint=sj.BPTT(truncate=2))

    @jax.jit
    def of_gradient(params):
        grads = jax.grad(functools.partial(div, run), (0, 1, 2))(params, xs, state)
        return sum(jnp.sum(jnp.cos(g)) for g in floats(grads))

    direction = normal(params, 3)
    there, back = (
        of_gradient(jax.tree.map(lambda p, d, eps=eps: p + eps * d, params, direction))
        for eps in (1e-5, -1e-5)
    )
    pairs = zip(floats(jax.jit(jax.grad(of_gradient))(params)), floats(direction), strict=True)
    assert float(sum(jnp.sum(g * d) for g, d in pairs)) == pytest.approx(
        float(there - back) / 2e-5, rel=1e-6
    )
