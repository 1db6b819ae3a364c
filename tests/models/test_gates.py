"""The variants of the LSTM and the GRU are their equations, in literal NumPy loops."""

import itertools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import problem
from support.wrong import told

import seqjax as sj

T, I, H, P = 9, 3, 4, 2  # noqa: E741


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def hard_sigmoid(z):
    return np.clip(z / 6 + 0.5, 0, 1)


def softsign(z):
    return z / (1 + np.abs(z))


SMOOTH = {"gate_activation": jax.nn.sigmoid, "activation": jnp.tanh}
HARD = {"gate_activation": jax.nn.hard_sigmoid, "activation": jax.nn.soft_sign}
IN_NUMPY = {
    jax.nn.sigmoid: sigmoid,
    jnp.tanh: np.tanh,
    jax.nn.hard_sigmoid: hard_sigmoid,
    jax.nn.soft_sign: softsign,
}


def layer_norm(a):
    """Of one vector, as Ba et al. have it."""
    mean = sum(a) / len(a)
    variance = sum((a - mean) ** 2) / len(a)
    return (a - mean) / np.sqrt(variance + 1e-5)


def lstm_loop(p, xs, h, c, *, peepholes, coupled, projection_size, layer_norm_, gate, activation):
    """One step after the other, one gate after the other; the letters are those of the papers."""
    names = "fgo" if coupled else "ifgo"
    block = lambda array, name: np.split(array, len(names), axis=-1)[names.index(name)]
    seen = "fo" if coupled else "ifo"  # by the peepholes
    w = dict(zip(seen, np.split(p["peepholes"], len(seen)), strict=True)) if peepholes else {}
    y = h @ p["projection"] if projection_size else h
    ys = []
    for x in xs:
        Wx, Ry = x @ p["kernel"], y @ p["recurrent_kernel"]
        if layer_norm_:
            Wx = p["kernel_scale"] * layer_norm(Wx)
            Ry = p["recurrent_kernel_scale"] * layer_norm(Ry)
        z = {name: block(Wx + Ry + p["bias"], name) for name in names}
        f = gate(z["f"] + w.get("f", 0) * c)
        i = 1 - f if coupled else gate(z["i"] + w.get("i", 0) * c)
        c = f * c + i * activation(z["g"])
        o = gate(z["o"] + w.get("o", 0) * c)
        seen_c = p["cell_scale"] * layer_norm(c) + p["cell_bias"] if layer_norm_ else c
        h = o * activation(seen_c)
        y = h @ p["projection"] if projection_size else h
        ys.append(y)
    return np.array(ys), h, c


def gru_loop(p, xs, h, *, reset_after, layer_norm_, gate, activation):
    W, R = np.split(p["kernel"], 3, axis=1), np.split(p["recurrent_kernel"], 3, axis=1)
    b = np.split(p["bias"], 3)
    ys = []
    for x in xs:
        Wx, Rh = np.concatenate([x @ w for w in W]), np.concatenate([h @ r for r in R])
        if layer_norm_:
            Wx = p["kernel_scale"] * layer_norm(Wx)
            Rh = p["recurrent_kernel_scale"] * layer_norm(Rh)
        Wx, Rh = np.split(Wx, 3), np.split(Rh, 3)
        r, z = gate(Wx[0] + Rh[0] + b[0]), gate(Wx[1] + Rh[1] + b[1])
        if reset_after:
            n = activation(Wx[2] + b[2] + r * (Rh[2] + p["recurrent_bias"]))
        else:
            n = activation(Wx[2] + b[2] + (r * h) @ R[2])
        h = (1 - z) * n + z * h
        ys.append(h)
    return np.array(ys), h


def named(options):
    said = [k if v is True else f"{k}={getattr(v, '__name__', v)}" for k, v in options.items() if v]
    return " ".join(said) or "plain"


def any_variant(options):
    return any(options[name] for name in ("peepholes", "coupled", "projection_size", "layer_norm"))


LSTMS = [
    {"peepholes": w, "coupled": c, "projection_size": p, "layer_norm": n} | activations
    for w, c, p, n, activations in itertools.product(
        (False, True), (False, True), (None, P), (False, True), (SMOOTH, HARD)
    )
    if not (w and n)
]
GRUS = [
    {"reset_after": r, "layer_norm": n} | activations
    for r, n, activations in itertools.product((True, False), (False, True), (SMOOTH, HARD))
    if r or not n
]
every_lstm = pytest.mark.parametrize(
    "options",
    [  # other activations in variants: later
        pytest.param(
            options,
            id=named(options),
            marks=pytest.mark.slow
            if HARD.items() <= options.items() and any_variant(options)
            else (),
        )
        for options in LSTMS
    ],
)
every_gru = pytest.mark.parametrize("options", GRUS, ids=named)


def in_numpy(options):
    """Options of a factory as those of a loop."""
    gate, activation = (IN_NUMPY[options[name]] for name in HARD)
    rest = {name: value for name, value in options.items() if name not in HARD}
    return {"gate": gate, "activation": activation, "layer_norm_": rest.pop("layer_norm"), **rest}


@every_lstm
def test_the_lstm_is_its_equations(options):
    cell = sj.lstm(I, H, **options, dtype=jnp.float64)
    params, xs, state = problem(cell, T)
    final, ys = sj.unroll(cell, params, xs, state)
    theirs = lstm_loop(*jax.tree.map(np.array, (params, xs, *state)), **in_numpy(options))
    assert_close([ys, final.h, final.c], [*theirs], 1e-13)
    assert ys.shape == (T, options["projection_size"] or H)


@every_gru
def test_the_gru_is_its_equations(options):
    cell = sj.gru(I, H, **options, dtype=jnp.float64)
    params, xs, state = problem(cell, T)
    final, ys = sj.unroll(cell, params, xs, state)
    theirs = gru_loop(*jax.tree.map(np.array, (params, xs, state)), **in_numpy(options))
    assert_close([ys, final], [*theirs], 1e-13)


def gradients(cell, adjoint):
    params, xs, state = problem(cell, T)

    def loss(params, xs, state):
        final, ys = sj.unroll(cell, params, xs, state, adjoint=adjoint)
        weights = jnp.arange(1.0, ys.size + 1).reshape(ys.shape)
        ends = sum(jnp.sum(jnp.cos(n + leaf)) for n, leaf in enumerate(jax.tree.leaves(final)))
        return jnp.sum(jnp.sin(weights * ys)) + ends

    return jax.jit(jax.grad(loss, (0, 1, 2)))(params, xs, state)


CELLS = {
    **{f"lstm {named(options)}": sj.lstm(I, H, **options, dtype=jnp.float64) for options in LSTMS},
    **{f"gru {named(options)}": sj.gru(I, H, **options, dtype=jnp.float64) for options in GRUS},
}


@pytest.mark.parametrize("name", CELLS)
def test_the_gradient_is_that_of_a_plain_scan(name):
    ours, theirs = (gradients(CELLS[name], a) for a in (sj.BPTT(chunk=4), sj.Autodiff()))
    assert_close(ours, theirs, 1e-12, nonzero=True)


@pytest.mark.parametrize("name", CELLS)
def test_rules_are_by_hand_for_the_usual_functions(name):
    """And JAX's own for others, but for a rule in which the functions do not appear."""
    cell = CELLS[name]
    assert (cell.activate_vjp is None) == ("hard" in name)
    assert (cell.preactivate_vjp is None) == ("hard" in name and name.startswith("gru gate"))
    assert eval(repr(cell), vars(sj) | {f.__name__: f for f in HARD.values()}) == cell
    assert pickle.loads(pickle.dumps(cell)) == cell


def test_the_state_of_a_projected_lstm_is_not_projected():
    cell = sj.lstm(I, H, projection_size=P)
    params = cell.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "kernel": (I, 4 * H),
        "recurrent_kernel": (P, 4 * H),
        "bias": (4 * H,),
        "projection": (H, P),
    }
    state, ys = sj.unroll(cell, params, jnp.ones((T, I)))
    assert state.h.shape == state.c.shape == (H,)
    np.testing.assert_allclose(ys[-1], state.h @ params["projection"], rtol=1e-6)
    assert cell.output_spec.shape == (P,)


@pytest.mark.parametrize(("coupled", "keep"), [(False, 1), (True, 0)])
def test_the_forget_bias_is_that_of_f(coupled, keep):
    cell = sj.lstm(I, H, coupled=coupled, forget_bias=3.0, bias_init=jax.nn.initializers.zeros)
    bias = cell.init(jax.random.key(0))["bias"].reshape(-1, H)
    assert bias.tolist() == [[3.0 * (n == keep)] * H for n in range(len(bias))]
    chrono = sj.lstm(I, H, coupled=True, chrono=9, bias_init=jax.nn.initializers.zeros)
    assert np.all(chrono.init(jax.random.key(0))["bias"].reshape(3, H)[1:] == 0)


def test_gains_start_at_one_and_the_rest_is_drawn():
    params = sj.lstm(I, H, layer_norm=True).init(jax.random.key(0))
    assert all(np.all(value == 1) for name, value in params.items() if name.endswith("_scale"))
    assert np.all(params["cell_bias"] == 0)
    assert params["cell_scale"].shape == (H,)
    peepholes = sj.lstm(I, 4000, peepholes=True).init(jax.random.key(0))["peepholes"]
    assert peepholes.shape == (3 * 4000,)
    assert np.std(peepholes) * 4000**0.5 == pytest.approx(3**-0.5, rel=0.02)
    projection = sj.lstm(I, 400, projection_size=300).init(jax.random.key(0))["projection"]
    assert np.std(projection) * 400**0.5 == pytest.approx(3**-0.5, rel=0.02)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_normalized_in_float32(dtype):
    """The square of 300 is more than float16 holds."""
    params = sj.gru(2, H, layer_norm=True, dtype=dtype).init(jax.random.key(0))

    def run(dtype):
        cell, xs = sj.gru(2, H, layer_norm=True, dtype=dtype), jnp.full((3, 2), 300, dtype)
        at = jax.tree.map(lambda a: a.astype(dtype), params)
        pull = jax.vjp(lambda params: sj.unroll(cell, params, xs)[1].astype(jnp.float32), at)[1]
        ys = sj.unroll(cell, at, xs)[1]
        return jax.tree.map(jnp.float32, (ys, pull(jnp.ones(ys.shape, jnp.float32))))

    assert_close(run(dtype), run(jnp.float32), 0.05)


WRONG = {
    "norm and peepholes": (
        lambda: sj.lstm(I, H, layer_norm=True, peepholes=True),
        "layer_norm: expected False with peepholes=True, got True",
    ),
    "norm before": (
        lambda: sj.gru(I, H, layer_norm=True, reset_after=False),
        "layer_norm: expected False with reset_after=False, got True",
    ),
    "no outputs": (
        lambda: sj.lstm(I, H, projection_size=0),
        "projection_size: expected an integer of at least 1, got 0",
    ),
    "not a function": (
        lambda: sj.gru(I, H, gate_activation="hard_sigmoid"),
        "gate_activation: expected a function, got str 'hard_sigmoid'",
    ),
    "of another shape": (
        lambda: sj.unroll(
            sj.lstm(I, H, activation=jnp.sum),
            sj.lstm(I, H).init(jax.random.key(0)),
            jnp.ones((T, I)),
        ),
        "the array that activation returns: expected float64[4], got float64[]",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_said(what):
    call, message = WRONG[what]
    given = told(call)
    assert re.match(re.escape(message), given), given
