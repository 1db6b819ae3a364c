"""What a caller is told: where structures differ, what odd values are, what a function lacks."""

import contextlib
import copy
import dataclasses
import pickle
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.wrong import KEY, LSTM, PARAMS, SPEC, XS, Dataset, ForeignTensor, told

import seqjax as sj
from seqjax import _checks, _messages


def nested_lists(tree):
    """As JSON gives parameters back."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), tree)


@jax.tree_util.register_pytree_node_class
class Param:
    """As `nnx.Param`: a node of a pytree around an array, which has the array's attributes."""

    def __init__(self, value):
        self.value = value

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)

    def tree_flatten(self):
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Extra(NamedTuple):
    model: dict


TWO = sj.stack(LSTM, sj.dense(4, 2))
TWO_PARAMS = TWO.init(KEY)
MANY = sj.stack(*[sj.dense(2, 2)] * 30)
MANY_PARAMS = MANY.init(KEY)
STRUCTURES = [
    (
        LSTM,
        nested_lists(PARAMS),
        "params['bias']: expected float64[16], got a list of 16; np.asarray makes an array of it; "
        "2 more differences",
    ),
    (TWO, [*TWO_PARAMS], "params: expected a tuple of 2, got a list of 2; tuple makes one of it"),
    (TWO, TWO_PARAMS[:1], "params: expected a tuple of 2, got a tuple of 1"),
    (TWO, (), "params: expected a tuple of 2, got an empty tuple"),
    (
        TWO,
        (PARAMS, [*TWO_PARAMS[1].values()]),
        "params[1]: expected a dict of 'bias', 'kernel', got a list of 2",
    ),
    (LSTM, Extra(PARAMS), "expected a dict of 'bias', 'kernel', 'recurrent_kernel', got Extra(mo"),
    (LSTM, {"params": PARAMS}, "got one without 'bias', 'kernel', 'recurrent_kernel' and with 'p"),
    (LSTM, {**PARAMS, 3: 4}, "which JAX cannot flatten"),
    (
        LSTM,
        jax.tree.map(Param, PARAMS),
        "params['bias']: expected float64[16], got test_messages.Param float64[16]; convert it",
    ),
    (LSTM, {**PARAMS, "bias": "3"}, "params['bias']: expected a JAX or NumPy array, got str '3'"),
    (
        LSTM,
        {**PARAMS, "bias": np.array(["a"] * 16)},
        "params['bias']: expected a JAX or NumPy array, got str32[16]",
    ),
    (LSTM, {**PARAMS, "bias": None}, "params['bias']: expected float64[16], got None"),
    (
        MANY,
        tuple(nested_lists(MANY_PARAMS)),
        "params[0]['bias']: expected float64[2], got a list of 2; np.asarray makes an array of it; "
        "59 more differences",
    ),
    (MANY, {f"layer_{n}": p for n, p in enumerate(MANY_PARAMS)}, "'layer_5', 24 more"),
    (LSTM, {"x" * 10_000: 1.0, **PARAMS}, " … "),
    (LSTM, {**PARAMS, "bias": "3" * 10_000}, " … "),
]


@pytest.mark.parametrize(("model", "params", "message"), STRUCTURES)
def test_the_first_place_where_structures_differ_is_told_in_words(model, params, message):
    assert message in told(lambda: sj.unroll(model, params, XS[:, : model.input_spec.shape[0]]))


def test_a_custom_node_that_differs_in_its_static_part_is_told():
    spec, value = (jax.tree_util.Partial(f, jnp.ones(2)) for f in (jnp.sin, jnp.cos))
    given = "jax.Partial with other static contents"
    assert _messages.difference("params", spec, value) == ("params", "jax.Partial", given)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ForeignTensor(2, 3), "support.ForeignTensor float32[2, 3]"),
        (Dataset(), "support.Dataset float32[]"),
        (XS, "float64[5, 3]"),
        (SPEC, "float64[3]"),
        (KEY, "key<fry>[]"),
        (np.float32(3), "float32[]"),
        (np.ma.ones(3), "float64[3]"),
        (sj.lstm, "the function lstm"),
        (jax.jit(sj.unroll), "the function unroll"),
        (sj.Cell, "the class Cell"),
        (LSTM, "seqjax.Cell"),
        (optax.sgd(0.1), "GradientTransformationExtraArgs(init, update)"),
        ({}, "an empty dict"),
        (set(), "set"),
    ],
)  # fmt: skip
def test_anything_can_be_described(value, text):
    assert _messages.describe(value) == text


def test_what_raises_when_it_is_looked_at_can_be_described():
    class Closed:
        @property
        def shape(self):
            raise ValueError("closed")

        def __repr__(self):
            raise ValueError("closed")

        dtype = shape

    assert _messages.describe(Closed()).endswith("Closed")
    assert _messages.dtype_name(Closed()) == "(a Closed that cannot be shown)"
    assert "that cannot be shown" in _checks.mismatch("x", "a number", Closed())


def test_numbers_beyond_all_digits_and_floats():
    huge = 10**5000  # Python refuses to print so many digits
    message = told(lambda: sj.lstm(-huge, 4), ValueError)
    assert (
        message
        == "input_size: expected an integer of at least 1, got (an int that cannot be shown)"
    )
    message = told(lambda: sj.lstm(3, 4, forget_bias=huge), ValueError)
    assert message.startswith("forget_bias: expected a finite number, got ")
    assert told(lambda: sj.lstm(3, 4, forget_bias=float("nan")), ValueError)
    assert told(lambda: sj.BPTT(clip=np.float32("inf")), ValueError)


def test_a_message_keeps_the_ends_of_its_parts():
    message = _checks.mismatch("a" * 999 + "z", "b" * 999 + "y", "c" * 999 + "x")
    assert len(message) <= 600
    assert all(end in message for end in ("az: expected bbb", "by, got ccc", "cx"))
    assert _messages.clip("abc", 3) == "abc"
    assert _messages.clip("0" * 10 + "1" * 10, 12) == "00000000 … 1"


def test_the_real_thing_from_torch():
    torch = pytest.importorskip("torch")
    message = told(lambda: sj.unroll(LSTM, PARAMS, torch.ones(5, 3)), TypeError)
    given = "torch.Tensor float32[5, 3]; convert it to a NumPy array"
    assert message == f"xs: expected a JAX or NumPy array, got {given}"
    assert "got torch.dtype" in told(lambda: sj.lstm(3, 4, dtype=torch.float32), TypeError)


def test_the_real_thing_from_h5py(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "series.h5", "w") as file:
        series = file.create_dataset("xs", (5, 3), "f4")
        message = told(lambda: sj.unroll(LSTM, PARAMS, series), TypeError)
    given = "h5py.Dataset float32[5, 3]; convert it to a NumPy array"
    assert message == f"xs: expected a JAX or NumPy array, got {given}"
    assert told(lambda: sj.unroll(LSTM, PARAMS, series), TypeError)  # closed


# What a user's own functions return.
def test_a_state_or_parameters_that_are_no_arrays_are_named():
    zero = lambda params: 0.0
    for options in ({}, {"state": jnp.zeros(())}):
        own = sj.from_step(lambda key: jnp.ones(()), lambda p, s, x: (s, x), zero)
        message = told(lambda own=own, o=options: sj.unroll(own, jnp.ones(()), XS, **o), TypeError)
        assert message.startswith("the state that initial_state returns: expected a JAX or NumPy")
    own = sj.from_step(lambda key: {"name": "own"}, lambda p, s, x: (s, x), zero)
    message = told(lambda: sj.unroll(own, {"name": jnp.ones(())}, XS), TypeError)
    assert message.startswith("the params that init returns['name']: expected a JAX or NumPy")
    own = sj.from_step(lambda key: jnp.ones(()), lambda p, s, x: (s, x))
    message = told(lambda: sj.unroll(own, jnp.ones(()), XS, ForeignTensor(4)), TypeError)
    assert message.startswith("state: expected a JAX or NumPy array, got support.Foreign")


def test_a_step_returns_a_state_and_an_output():
    state = jnp.zeros(2)
    for wrong in (state, (state,), (state, 1, 2), None, "ab", {"state": state, "y": 1}):
        message = told(lambda w=wrong: _checks.step_result(w), TypeError)
        assert message.startswith("step: expected a function that returns (state, y), got ")
    same, ys = _checks.step_result([state, {"a": 1.5, "b": None, "c": np.ones(2)}])
    assert same is state
    assert ys["a"].dtype == jnp.float64
    assert ys["b"] is None
    assert isinstance(ys["c"], jax.Array)
    message = told(lambda: _checks.step_result((state, {"a": "text"})), TypeError)
    assert message.startswith(
        "the y that step returns['a']: expected a JAX or NumPy array, got str"
    )


@dataclasses.dataclass(frozen=True)
class Module:
    """As a layer of Equinox: a frozen record of arrays that one can call."""

    weight: jax.Array

    def __call__(self, *args):
        return self.weight * args[0]


MODULE = Module(jnp.ones(4))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: sj.rnn(3, 4, activation=MODULE), "activation"),
        (lambda: sj.elman(3, 4, activation=MODULE), "activation"),
        (lambda: sj.dense(3, 4, activation=MODULE), "activation"),
        (lambda: sj.tdnn(3, 4, activation=MODULE), "activation"),
        (lambda: sj.narx(3, 4, 4, output_activation=MODULE), "output_activation"),
        (lambda: sj.jordan(3, 4, 4, decay=0.1, activation=MODULE), "activation"),
        (lambda: sj.bidirectional(LSTM, merge=MODULE), "merge"),
        (lambda: sj.from_step(LSTM.init, MODULE), "step"),
        (lambda: sj.memory(MODULE, min, min, init=min, initial_state=min), "r"),
        (lambda: dataclasses.replace(LSTM, readout=MODULE), "readout"),
    ],
)
def test_a_part_without_a_hash_is_named(make, argument):
    message = told(make, TypeError)
    given = "test_messages.Module, which has no hash: wrap it in a function"
    assert message == f"{argument}: expected something hashable, got {given}"


def test_a_module_wrapped_in_a_function_works():
    cell = sj.rnn(3, 4, activation=lambda z: MODULE(z))
    assert sj.unroll(cell, cell.init(KEY), XS)[1].shape == (5, 4)


def test_keys_are_one_and_random():
    for key in (jax.random.key(1), jax.random.PRNGKey(1), np.array([0, 1], np.uint32)):
        assert LSTM.init(key)["kernel"].shape == (3, 16)
    for wrong in (0, jnp.ones(2), jnp.uint32(3), "key", np.random.default_rng(0)):
        message = told(lambda wrong=wrong: sj.dense(3, 2).init(wrong), TypeError)
        assert message.startswith("key: expected a JAX random key such as jax.random.key(0), got ")
    many = jax.random.split(KEY, 3)
    for batch in (many, jax.random.key_data(many)):
        message = told(lambda batch=batch: LSTM.init(batch), ValueError)
        assert re.fullmatch(r"key: expected one JAX .*\[3.*\]; for a batch, use jax.vmap", message)
    assert jax.vmap(LSTM.init)(many)["bias"].shape == (3, 16)


# A function that is replaced.
def test_a_replaced_function_takes_its_rule_along():
    halved = lambda z, prev: jax.tree.map(lambda a: a / 2, LSTM.activate(z, prev))
    for name, function in (("activate", halved), ("preactivate", lambda p, h, u: u)):
        message = told(lambda n=name, f=function: dataclasses.replace(LSTM, **{n: f}), ValueError)
        assert message.startswith(f"{name}_vjp: expected the rule of the new {name} as well")
        for rule in (None, lambda *args: args[-1]):
            cell = dataclasses.replace(LSTM, **{name: function, f"{name}_vjp": rule})
            assert getattr(cell, name) is function
            assert getattr(cell, f"{name}_vjp") is rule
            with pytest.raises(ValueError, match=name) if rule else contextlib.nullcontext():
                dataclasses.replace(cell, **{name: LSTM.init})  # the new rule is the old one now
    cell = dataclasses.replace(LSTM, activate=halved, activate_vjp=None)
    sj.testing.check_cell(cell, draws=1, steps=1)


@pytest.mark.parametrize(
    "change",
    [
        {"activate_vjp": None},
        {"preactivate_vjp": lambda *args: None},
        {"init": lambda key: PARAMS},
        {"input_spec": None, "name": "another"},
        {"activate": LSTM.activate},
    ],
)
def test_all_else_may_be_replaced_alone(change):
    cell = dataclasses.replace(LSTM, **change)
    assert all(getattr(cell, name) == value for name, value in change.items())


def test_equal_cells_stay_equal():
    cell = dataclasses.replace(dataclasses.replace(LSTM, name="x"), name=LSTM.name)
    for same in (cell, sj.lstm(3, 4), copy.deepcopy(LSTM), pickle.loads(pickle.dumps(LSTM))):
        assert same == LSTM
        assert hash(same) == hash(LSTM)
    assert cell != dataclasses.replace(LSTM, activate_vjp=None)
