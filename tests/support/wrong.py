"""What the tests of messages pass and read: things that are no arrays, and models."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

# Words of JAX's and NumPy's own, in which no caller's mistake is told.
INTERNALS = re.compile("PyTreeDef|Traced|aval|jaxlib|Interpret|interpret|ArrayImpl|0x[0-9a-f]{6}")


def told(call, kind=(TypeError, ValueError)) -> str:
    """The message of a call that is refused."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert len(message) <= 600
    assert not INTERNALS.search(message), message
    return message


class ForeignDtype:
    """As `torch.float32`: NumPy makes nothing of it, and says so in its own words."""

    def __repr__(self):
        return "elsewhere.float32"


class ForeignTensor:
    """As a torch tensor: a shape and a dtype, but neither JAX's nor NumPy's."""

    def __init__(self, *shape):
        self.shape, self.dtype = shape, ForeignDtype()

    def __array__(self, *_, **__):
        raise AssertionError("nothing is converted, not even for a message")


class Dataset:
    """As a dataset of h5py: NumPy's dtype, and one can index it, but it is no array."""

    def __init__(self, *shape):
        self.shape, self.dtype = shape, np.dtype("float32")

    def __getitem__(self, _):
        raise AssertionError("nothing is read, not even for a message")

    __array__ = __getitem__


LSTM, NARX = sj.lstm(3, 4), sj.narx(3, 4, 2)
KEY = jax.random.key(0)
PARAMS, NARX_PARAMS = LSTM.init(KEY), NARX.init(KEY)
XS, YS, MASK = jnp.ones((5, 3)), jnp.ones((5, 2)), jnp.ones(5, bool)
SYMBOLS = sj.stack(sj.rnn(3, 4), sj.dense(4, 3))
HIGHPASS = sj.from_step(lambda key: jnp.array(0.5), lambda p, s, x: (p * s + x, s), lambda p: p)
SPEC = jax.ShapeDtypeStruct((3,), jnp.float64)
OWN_FUNCTION = lambda *args: args[0]
CELL = sj.Cell(
    init=LSTM.init,
    initial_state=LSTM.initial_state,
    preactivate=OWN_FUNCTION,
    activate=OWN_FUNCTION,
    activate_vjp=OWN_FUNCTION,
    preactivate_vjp=OWN_FUNCTION,
)
SIZES = {"input_size": 3, "hidden_size": 4}
DTYPES = {"dtype": None, "param_dtype": None}
SAMPLING = {"temperature": 1.0, "top_k": None, "top_p": None}
UNROLL = {
    "params": PARAMS, "xs": XS, "state": None,
    "length": None, "mask": None, "reset": None, "reverse": False, "key": KEY,
    "adjoint": sj.BPTT(),
}  # fmt: skip


def bptt(**options):
    return sj.BPTT(**options)


def branches(merge, **models):
    return sj.branches(*models.values(), merge=merge)


def stack(**models):
    return sj.stack(*models.values())
