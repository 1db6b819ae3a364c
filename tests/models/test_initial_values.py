"""What parameters start from: PyTorch's values, initializers by gate, and the gate that keeps."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.wrong import told

import seqjax as sj

I, H, O = 3, 4, 2  # noqa: E741
KEY = jax.random.key(5)
INIT = jax.nn.initializers
ORTHOGONAL = INIT.orthogonal()
RECURRENT = {
    "rnn": (sj.rnn, 1),
    "elman": (sj.elman, 1),
    "lstm": (sj.lstm, 4),
    "gru": (sj.gru, 3),
}
every_cell = pytest.mark.parametrize("name", RECURRENT)
MODELS = {
    **{name: lambda make=make, **o: make(I, H, **o) for name, (make, _) in RECURRENT.items()},
    "dense": lambda **o: sj.dense(I, O, **o),
    "tdnn": lambda **o: sj.tdnn(I, O, delays=(0, 2), **o),
    "narx": lambda **o: sj.narx(I, H, O, **o),
    "jordan": lambda **o: sj.jordan(I, H, O, decay=0.5, **o),
    "slstm": lambda **o: sj.slstm(I, H, heads=2, **o),
    "conv_lstm": lambda **o: sj.conv_lstm((5, I), H, 3, **o),
    "min_gru": lambda **o: sj.min_gru(I, H, **o),
    "min_lstm": lambda **o: sj.min_lstm(I, H, **o),
    "rg_lru": lambda **o: sj.rg_lru(H, heads=2, **o),
}
# Of matrices alone, which have neither gates nor biases.
STATE_SPACES = {
    "lru": lambda **o: sj.lru(I, H, O, **o),
    "s5": lambda **o: sj.s5(I, H, O, blocks=2, **o),
}
every_model = pytest.mark.parametrize("name", MODELS)


def numbered(key, shape, dtype):
    """Another number in every gate: what one draw for all gates would not show."""
    return jnp.full(shape, jax.random.uniform(key, (), dtype), dtype)


def uniform(key, shape, bound):
    return jax.random.uniform(key, shape, jnp.float64, -bound, bound)


def make(name, **options):
    return (MODELS | STATE_SPACES)[name](dtype=jnp.float64, **options)


@every_cell
def test_the_default_is_uniform_with_a_key_for_each_array(name):
    gates, keys = RECURRENT[name][1], jax.random.split(KEY, 4)
    params = make(name).init(KEY)
    shapes = {"kernel": (I, gates * H), "recurrent_kernel": (H, gates * H), "bias": (gates * H,)}
    shapes |= {"recurrent_bias": (H,)} if name == "gru" else {}
    assert set(params) == set(shapes)
    for key, (array, shape) in zip(keys, shapes.items(), strict=False):
        np.testing.assert_array_equal(params[array], uniform(key, shape, H**-0.5))


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("dense", {"kernel": I**-0.5, "bias": I**-0.5}),
        ("tdnn", {"kernel": (2 * I) ** -0.5, "bias": (2 * I) ** -0.5}),
        (
            "jordan",
            dict.fromkeys(("kernel", "recurrent_kernel", "bias"), (I + O) ** -0.5)
            | dict.fromkeys(("output_kernel", "output_bias"), H**-0.5),
        ),
    ],
)
def test_the_default_of_other_layers(name, bounds):
    params = make(name).init(KEY)
    keys = jax.random.split(KEY, len(bounds))
    for key, (array, bound) in zip(keys, bounds.items(), strict=True):
        np.testing.assert_array_equal(params[array], uniform(key, params[array].shape, bound))


@every_model
def test_an_initializer_draws_its_own_arrays_alone(name):
    default = make(name).init(KEY)
    arrays = {
        "kernel_init": {"kernel", "output_kernel"},
        "recurrent_init": {"recurrent_kernel"},
        "bias_init": {"bias", "recurrent_bias", "output_bias"},
    }
    if "recurrent_kernel" not in default:
        del arrays["recurrent_init"]
    for option, own in arrays.items():
        params = make(name, **{option: INIT.ones}).init(KEY)
        assert own & set(default)
        for array, value in params.items():
            wanted = jnp.ones_like(value) if array in own else default[array]
            np.testing.assert_array_equal(value, wanted)


@every_cell
def test_each_gate_is_drawn_on_its_own(name):
    gates = RECURRENT[name][1]
    options = dict.fromkeys(("kernel_init", "recurrent_init", "bias_init"), numbered)
    params = make(name, **options).init(KEY)
    for array in ("kernel", "recurrent_kernel", "bias"):
        blocks = np.split(np.array(params[array]), gates, axis=-1)
        assert all(np.all(block == block.flat[0]) for block in blocks)
        assert len({float(block.flat[0]) for block in blocks}) == gates
    assert len({float(np.ravel(array)[0]) for array in params.values()}) == len(params)
    recurrent = make(name, recurrent_init=ORTHOGONAL).init(KEY)["recurrent_kernel"]
    for block in np.split(recurrent, gates, axis=-1):
        np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-13)


HEADS = {"slstm": (4, 2), "conv_lstm": (4, 1), "min_gru": (2, 1), "min_lstm": (3, 1)}
HEADS |= {"rg_lru": (2, 2)}


@pytest.mark.parametrize("name", HEADS)
def test_each_gate_of_each_head_is_drawn_on_its_own(name):
    gates, heads = HEADS[name]
    options = dict.fromkeys(("kernel_init", "bias_init"), numbered)
    options |= {"recurrent_init": numbered} if name in ("slstm", "conv_lstm") else {}
    params = make(name, **options).init(KEY)
    found = []
    for array, value in params.items():
        if array == "decay":
            continue
        split = name == "rg_lru" or (name == "slstm" and value.ndim == 3)
        shape = value.shape[-1:] if value.ndim == 3 or not split else (value.size // heads,)
        for head in np.split(np.ravel(value), heads if split else 1):
            blocks = np.split(head.reshape(-1, *shape), gates, axis=-1)
            assert all(np.all(block == block.flat[0]) for block in blocks)
            found += [float(block.flat[0]) for block in blocks]
    assert len({*found}) == len(found)
    of_one = (*[None] * (gates - 1), INIT.ones)
    some, default = make(name, kernel_init=of_one).init(KEY), make(name).init(KEY)
    blocks = zip(*(np.split(p["kernel"], gates, -1) for p in (some, default)), strict=True)
    *others, (last, _) = blocks
    assert np.all(last == 1)
    assert all(np.array_equal(ours, theirs) for ours, theirs in others)


def test_a_block_is_what_an_initializer_takes_for_a_matrix():
    """Of each head, and of each place of a window, whose size counts as in JAX's convolutions."""
    blocks = make("slstm", recurrent_init=ORTHOGONAL).init(KEY)["recurrent_kernel"]
    for block in (b for head in blocks for b in np.split(head, 4, axis=-1)):
        np.testing.assert_allclose(block @ block.T, np.eye(H // 2), atol=1e-13)
    wide = sj.conv_lstm((5, 5, 30), 40, 3, kernel_init=INIT.he_normal())
    assert float(wide.init(KEY)["kernel"].std()) == pytest.approx((2 / (9 * 30)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", STATE_SPACES)
def test_the_matrices_of_a_state_space(name):
    default, params = (make(name, **o).init(KEY) for o in ({}, {"kernel_init": INIT.zeros}))
    for array, value in params.items():
        np.testing.assert_array_equal(value, 0 if "kernel" in array else default[array])
    assert repr(make(name, kernel_init=INIT.zeros)).endswith(", kernel_init=zeros)")
    drawn = make(name, kernel_init=numbered).init(KEY)
    assert make(name, kernel_init=numbered).astype(jnp.float32) == (MODELS | STATE_SPACES)[name](
        dtype=jnp.float32, kernel_init=numbered
    )
    if name == "lru":  # s5 has its matrices in another basis
        assert len({float(a[0, 0]) for n, a in drawn.items() if "kernel" in n}) == 5


def test_the_real_matrix_of_s5_is_what_is_drawn():
    """HiPPO's eigenvectors V are orthonormal: 2 Re(B V V*) over the upper half is B."""
    from seqjax.models.s5 import hippo

    b = lambda key, shape, dtype: jnp.arange(float(shape[0] * shape[1])).reshape(shape)
    params = sj.s5(I, H, O, kernel_init=b, dtype=jnp.float64).init(KEY)
    half = np.array(params["input_kernel_real"]) + 1j * np.array(params["input_kernel_imag"])
    np.testing.assert_allclose(
        2 * (half @ hippo(2 * H)[1].T).real, b(KEY, (I, 2 * H), None), atol=1e-10
    )


def test_a_tuple_has_an_initializer_for_each_gate():
    default = make("lstm").init(KEY)
    some = make("lstm", bias_init=(None, INIT.ones, None, INIT.zeros)).init(KEY)
    i, f, g, o = np.split(some["bias"], 4)
    before = np.split(default["bias"], 4)
    for ours, theirs in zip((i, f, g, o), (before[0], np.ones(H), before[2], 0 * o), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    gru = make("gru", bias_init=(None, None, INIT.ones)).init(KEY)
    np.testing.assert_array_equal(gru["recurrent_bias"], np.ones(H))  # of n too
    np.testing.assert_array_equal(gru["bias"][: 2 * H], make("gru").init(KEY)["bias"][: 2 * H])


def test_the_forget_bias_goes_before_an_initializer():
    cells = (("lstm", 4, 1), ("gru", 3, 1), ("slstm", 4, 1), ("conv_lstm", 4, 1))
    for name, gates, keep in cells:
        params = make(name, forget_bias=2, bias_init=INIT.ones).init(KEY)
        wanted = np.ones((gates, H))
        wanted[keep] = 2
        np.testing.assert_array_equal(params["bias"], wanted.reshape(-1))
        only = make(name, forget_bias=2.0).init(KEY)
        default = make(name).init(KEY)
        changed = {n for n in default if not np.array_equal(only[n], default[n])}
        assert changed == {"bias"}


def test_the_forget_bias_of_the_gru_keeps_the_state():
    cell = make("gru", forget_bias=40.0)
    h = jnp.arange(1.0, H + 1)
    kept, _ = sj.unroll(cell, cell.init(KEY), jnp.ones((50, I)), h)
    np.testing.assert_allclose(kept, h, rtol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_chrono(name):
    """1 / (1 - σ(b)), in how many steps the gate forgets, is uniform from 2 to T_max."""
    make_cell, gates = RECURRENT[name]
    params = make_cell(1, 4000, chrono=50, bias_init=INIT.zeros, dtype=jnp.float64).init(KEY)
    biases = np.split(params["bias"], gates)
    steps = 1 + np.exp(biases[1])
    assert 2 <= steps.min() < 2.2
    assert 49.8 < steps.max() <= 50
    assert np.mean(steps) == pytest.approx(26, abs=1)
    assert np.std(steps) == pytest.approx(48 / 12**0.5, rel=0.03)
    if name == "lstm":
        np.testing.assert_array_equal(biases[0], -biases[1])
    rest = biases[2:] if name == "lstm" else [biases[0], biases[2]]
    assert not np.any(rest)


@pytest.mark.parametrize("name", ["rnn", "elman", "lstm", "gru", "dense", "tdnn", *HEADS])
def test_without_a_bias(name):
    """There is none, and the model computes as with one that is zero."""
    with_bias, without = make(name), make(name, use_bias=False)
    params = without.init(KEY)
    full = with_bias.init(KEY)
    biases = {n: jnp.zeros_like(a) for n, a in full.items() if "bias" in n}
    assert params.keys() | biases.keys() == full.keys()
    assert not params.keys() & biases.keys()
    xs = jnp.asarray(np.random.default_rng(1).standard_normal((9, *without.input_spec.shape)))
    full |= {n: full[n] + 1 for n in biases}  # that of one is zero by default
    ours, theirs = (sj.unroll(m, p, xs)[1] for m, p in ((without, params), (with_bias, full)))
    assert not np.allclose(ours, theirs)
    theirs = sj.unroll(with_bias, params | biases, xs)[1]
    np.testing.assert_allclose(ours, theirs, atol=1e-15)
    for n, array in params.items():
        np.testing.assert_array_equal(array, full[n])


@every_model
def test_models_with_initializers_are_values(name):
    options = {"kernel_init": sj.static_partial(shifted, 2.0), "bias_init": (INIT.zeros,)}
    if name in ("lstm", "gru", *HEADS):
        options["bias_init"] = INIT.zeros
    again = options | {"kernel_init": sj.static_partial(shifted, 2.0)}
    model = make(name, **options)
    assert model == make(name, **again)
    assert hash(model) == hash(make(name, **again))
    assert model != make(name)
    assert pickle.loads(pickle.dumps(model)) == model
    assert "kernel_init=static_partial(shifted, 2.0), bias_init=" in repr(model)
    in_float32 = model.astype(jnp.float32)
    assert in_float32 == MODELS[name](dtype=jnp.float32, **options)
    assert in_float32.init(KEY)["kernel"].dtype == jnp.float32


def shifted(by, key, shape, dtype):
    return by + jax.random.normal(key, shape, dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_drawn_in_float32(dtype):
    """`orthogonal` has no half-precision form."""
    ours = sj.lstm(I, H, recurrent_init=ORTHOGONAL, chrono=9, dtype=dtype).init(KEY)
    wide = sj.lstm(I, H, recurrent_init=ORTHOGONAL, chrono=9, dtype=jnp.float32).init(KEY)
    assert all(a.dtype == dtype for a in ours.values())
    for array in ("recurrent_kernel", "bias"):
        rounded = np.split(wide[array], 4, axis=-1)[1].astype(dtype)
        np.testing.assert_array_equal(np.split(ours[array], 4, axis=-1)[1], rounded)


WRONG = {
    "a tuple that is too short": ({"bias_init": (INIT.ones, None)}, "bias_init: .*4 in all, got"),
    "no function in a tuple": (
        {"kernel_init": (None, 1.0, None, None)},
        re.escape("kernel_init[1]: expected a function, got float 1.0"),
    ),
    "both": ({"forget_bias": 1, "chrono": 10}, "chrono: expected None where forget_bias is given"),
    "chrono without room": ({"chrono": 2}, "chrono: expected a number above 2, got 2"),
    **{
        f"{option} without a bias": (
            {option: value, "use_bias": False},
            f"{option}: expected None with use_bias=False, got ",
        )
        for option, value in {"forget_bias": 0.0, "chrono": 5, "bias_init": INIT.ones}.items()
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_said(what):
    options, message = WRONG[what]
    assert re.match(message, told(lambda: sj.lstm(I, H, **options)))


RETURNS = {
    "another shape": lambda key, shape, dtype: jnp.zeros(shape[::-1], dtype),
    "another dtype": lambda key, shape, dtype: jnp.zeros(shape, jnp.float32),
    "a number": lambda key, shape, dtype: 0.0,
}


@pytest.mark.parametrize("what", RETURNS)
def test_what_an_initializer_returns_is_checked(what):
    cell = make("gru", kernel_init=RETURNS[what])
    message = told(lambda: cell.init(KEY))
    wanted = r"the array that kernel_init returns: expected (float64\[3, 4\]|a JAX or NumPy array)"
    assert re.match(f"{wanted}, got ", message), message


def test_an_initializer_that_is_for_matrices_alone():
    message = told(lambda: make("gru", bias_init=INIT.lecun_normal()).init(KEY))
    assert message.startswith("bias_init: expected an initializer of arrays of shape (4,), got ")
