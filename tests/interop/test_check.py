"""The two faults that pass every check of shapes, and others: told by the outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

XS = np.random.default_rng(0).standard_normal((10, 4), np.float32)
CELLS = {
    "lstm": sj.lstm(4, 4, dtype=jnp.float32),
    "gru": sj.gru(4, 4, dtype=jnp.float32),
    "rnn": sj.rnn(4, 4, dtype=jnp.float32),
}
OPTIONS = {"rnn": {"activation": jnp.tanh}}


def original(kind):
    """Arrays under PyTorch's names, its outputs, and what its arrays do not tell."""
    cell = CELLS[kind]
    params = cell.init(jax.random.key(1))
    arrays = sj.interop.torch.write(cell, params, numpy=True)
    return arrays, sj.unroll(cell, params, XS)[1], OPTIONS.get(kind, {})


def in_order(arrays, order):
    """Of a file whose gates are in another order."""
    return {
        name: np.concatenate([np.split(array, len(order))[gate] for gate in order])
        for name, array in arrays.items()
    }


def gate_by_gate(arrays, *names):
    """Of a file in which the square block of each gate is transposed."""
    turned = dict(arrays)
    for name in names:
        blocks = np.split(arrays[name], arrays[name].shape[0] // 4)
        turned[name] = np.concatenate([block.T for block in blocks])
    return turned


def shifted(arrays, by):
    bias = arrays["bias_ih_l0"].copy()
    bias[4:8] += np.float32(by)
    return arrays | {"bias_ih_l0": bias}


def opposite_z(arrays):
    turned = {name: array.copy() for name, array in arrays.items()}
    for array in turned.values():
        array[4:8] *= -1
    return turned


FAULTS = {
    "gates of another order": ("lstm", lambda a: in_order(a, (0, 3, 1, 2)), {"gates": "iofg"}),
    "gates of Haiku's order": ("lstm", lambda a: in_order(a, (0, 2, 1, 3)), {"gates": "igfo"}),
    "gates of Keras' order": ("gru", lambda a: in_order(a, (1, 0, 2)), {"gates": "zrn"}),
    "a kernel that is square": (
        "rnn",
        lambda a: a | {"weight_hh_l0": a["weight_hh_l0"].T},
        {"transposed": ("recurrent_kernel",)},
    ),
    "both kernels": (
        "rnn",
        lambda a: {name: array.T for name, array in a.items()},
        {"transposed": ("kernel", "recurrent_kernel")},
    ),
    "square blocks": (
        "lstm",
        lambda a: gate_by_gate(a, "weight_hh_l0"),
        {"transposed_gates": ("recurrent_kernel",)},
    ),
    "square blocks of both": (
        "gru",
        lambda a: gate_by_gate(a, "weight_ih_l0", "weight_hh_l0"),
        {"transposed_gates": ("kernel", "recurrent_kernel")},
    ),
    "1 is added at run time": ("lstm", lambda a: shifted(a, -1), {"forget_offset": 1.0}),
    "1 - z": ("gru", opposite_z, {"opposite": "z"}),
    "two at once": (
        "lstm",
        lambda a: in_order(gate_by_gate(a, "weight_hh_l0"), (2, 1, 0, 3)),
        {"gates": "gfio", "transposed_gates": ("recurrent_kernel",)},
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_it_passes_what_is_right(kind):
    arrays, outputs, options = original(kind)
    read = functools.partial(sj.interop.torch.read, arrays, **options)
    assert sj.interop.check(read, outputs, XS) == 0
    assert sj.interop.check(read(), outputs, XS) == 0
    xs, many = np.stack([XS, XS]), np.stack([outputs, outputs])
    assert sj.interop.check(read, many, xs) < 1e-6


@pytest.mark.parametrize("fault", FAULTS)
def test_it_says_which_convention_fits(fault):
    kind, change, convention = FAULTS[fault]
    arrays, outputs, options = original(kind)
    read = functools.partial(sj.interop.torch.read, change(arrays), **options)
    read()  # all shapes are right
    with pytest.raises(ValueError, match=r"outputs: expected .* off; they match") as caught:
        sj.interop.check(read, outputs, XS)
    assert f"convention={convention}" in str(caught.value)
    if "gates" in convention:
        assert f"if the gates are {','.join(convention['gates'])}: " in str(caught.value)
    assert sj.interop.check(functools.partial(read, convention=convention), outputs, XS) < 1e-6
    with pytest.raises(ValueError, match=r"off; pass functools\.partial"):
        sj.interop.check(read(), outputs, XS)


def test_another_activation():
    arrays, outputs, _ = original("rnn")
    read = functools.partial(sj.interop.torch.read, arrays, activation=jax.nn.relu)
    with pytest.raises(ValueError, match=r"they match with convention={'activation': tanh}"):
        sj.interop.check(read, outputs, XS)


def test_a_reset_gate_before_the_matmul():
    cell = sj.gru(4, 4, reset_after=False, dtype=jnp.float32)
    params = cell.init(jax.random.key(1))
    outputs = sj.unroll(cell, params, XS)[1]
    after = sj.gru(4, 4, dtype=jnp.float32)
    arrays = sj.interop.torch.write(
        after, params | {"recurrent_bias": jnp.zeros(4, jnp.float32)}, numpy=True
    )
    read = functools.partial(sj.interop.torch.read, arrays)
    with pytest.raises(ValueError, match=r"they match with convention={'reset_after': False}"):
        sj.interop.check(read, outputs, XS)


# What inputs do not show: the kernel, where they are zero; what c(t-1) meets, at the first step.
@pytest.mark.parametrize(
    ("kind", "xs"), [("lstm", XS[:1]), ("gru", XS[:1]), ("rnn", XS[:1]), ("rnn", 0 * XS)]
)
def test_inputs_that_prove_nothing_are_refused(kind, xs):
    arrays, _, options = original(kind)
    read = functools.partial(sj.interop.torch.read, arrays, **options)
    outputs = sj.unroll(*read(), xs)[1]
    with pytest.raises(ValueError, match="xs: expected inputs that tell the conventions apart"):
        sj.interop.check(read, outputs, xs)


def test_an_array_that_does_not_act_proves_nothing():
    arrays = sj.interop.torch.write(wide := sj.lstm(6, 4), wide.init(jax.random.key(1)), numpy=True)
    read = functools.partial(sj.interop.torch.read, arrays)
    xs = np.zeros((10, 6), np.float64)  # of no other shape, so no other convention fits
    with pytest.raises(ValueError, match=r"outputs do not depend on params\['kernel'\]"):
        sj.interop.check(read, sj.unroll(*read(), xs)[1], xs)


@pytest.mark.parametrize(
    ("kind", "claim"),
    [("rnn", {"transposed": ("recurrent_kernel",)}), ("lstm", {"gates": "fgoi"})],
)
def test_a_claim_that_is_wrong(kind, claim):
    arrays, outputs, options = original(kind)
    read = functools.partial(sj.interop.torch.read, arrays, convention=claim, **options)
    with pytest.raises(ValueError, match="off; they match without `convention`"):
        sj.interop.check(read, outputs, XS)


@pytest.mark.parametrize("noise", [0.1, np.nan])
def test_outputs_that_nothing_explains(noise):
    arrays, outputs, options = original("rnn")
    read = functools.partial(sj.interop.torch.read, arrays, **options)
    with pytest.raises(ValueError, match="off; no other convention makes them match, nor do two"):
        sj.interop.check(read, outputs + np.float32(noise), XS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("read", 3, "read: expected a function that reads, or"),
        ("read", (3, 4), "read: expected a function that reads, or"),
        ("outputs", XS[:, :2], r"outputs: expected float32\[10, 4\], got float32\[10, 2\]"),
        ("outputs", XS[:0], "outputs: expected some"),
        ("outputs", [1.0], "outputs: expected an array"),
        ("xs", "x", "xs: expected an array"),
        ("tolerance", 0, "tolerance: expected a number above 0"),
    ],
)
def test_its_arguments(name, value, message):
    arrays, outputs, options = original("rnn")
    read = functools.partial(sj.interop.torch.read, arrays, **options)
    arguments = {"read": read, "outputs": outputs, "xs": XS, "tolerance": 1e-5} | {name: value}
    with pytest.raises((TypeError, ValueError), match=message):
        sj.interop.check(**arguments)
