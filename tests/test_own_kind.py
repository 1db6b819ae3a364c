"""A kind of model of the user's own, and what it lacks."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import seqjax as sj


# A kind of model of the user's own.
@dataclasses.dataclass(frozen=True)
class Residual(sj.Model):
    """y(t) = x(t) + the output of another model."""

    inner: sj.Model

    @property
    def input_spec(self):
        return self.inner.input_spec

    @property
    def receptive_field(self):
        return self.inner.receptive_field

    def init(self, key):
        return self.inner.init(key)

    def initial_state(self, params):
        return self.inner.initial_state(params)

    def step(self, params, state, x):
        state, y = self.inner.step(params, state, x)
        return state, x + y

    def scan(self, params, state, xs, steps, adjoint):
        state, ys = self.inner.scan(params, state, xs, steps, adjoint)
        return state, xs + ys


RESIDUAL = Residual(sj.gru(3, 3, dtype=jnp.float32))


@pytest.mark.parametrize(
    "model",
    [RESIDUAL, sj.bidirectional(RESIDUAL, sj.stack(RESIDUAL, sj.dense(3, 1, dtype=jnp.float32)))],
)
def test_a_users_own_kind_of_model_is_proved_like_any_other(model):
    sj.testing.check_cell(model, draws=1, steps=3)


def test_a_users_own_kind_of_model_passes_through_jit_and_takes_a_dtype():
    xs = jnp.ones((4, 3), jnp.bfloat16)

    @jax.jit
    def run(model, params, xs):
        return sj.unroll(model, params, xs)[1]

    half = RESIDUAL.astype(jnp.bfloat16)
    assert half == Residual(RESIDUAL.inner.astype(jnp.bfloat16))
    params = half.init(jax.random.key(0))
    below = sj.unroll(sj.gru(3, 3, dtype=jnp.float32).astype(jnp.bfloat16), params, xs)[1]
    assert (run(half, params, xs) == xs + below).all()


@dataclasses.dataclass(frozen=True)
class Typed(sj.Model):
    """Fields of every kind that `astype` knows, and of others that it leaves alone."""

    layers: tuple
    input_spec: jax.ShapeDtypeStruct
    dtype: object
    index_dtype: object
    merge: object = None
    made: int = dataclasses.field(default=3, init=False)

    def scan(self, params, state, xs, steps, adjoint):
        return state, xs


def test_astype_casts_the_fields_of_a_dataclass_that_have_a_dtype():
    int_dtype, spec = jnp.dtype("int32"), jax.ShapeDtypeStruct((3,), jnp.float32)
    layers = (sj.rnn(3, 3, dtype=jnp.float32), sj.dense(3, 1, dtype=jnp.float32))
    model = Typed(layers, spec, jnp.dtype("float32"), int_dtype, max)
    cast = model.astype(jnp.float64)
    spec = jax.ShapeDtypeStruct((3,), jnp.float64)
    layers = (sj.rnn(3, 3), sj.dense(3, 1))
    assert cast.input_spec == spec
    assert cast.dtype == jnp.float64
    assert (cast.index_dtype, cast.merge, cast.made) == (int_dtype, max, 3)
    assert [layer.input_spec for layer in cast.layers] == [layer.input_spec for layer in layers]
    assert [jax.eval_shape(new.init, jax.random.key(0)) for new in cast.layers] == [
        jax.eval_shape(layer.init, jax.random.key(0)) for layer in layers
    ]


def test_what_a_users_own_kind_of_model_lacks_is_named():
    class Bare(sj.Model):
        input_spec = None
        init = staticmethod(lambda key: jnp.ones(()))
        initial_state = staticmethod(lambda params: jnp.ones(()))

        def scan(self, params, state, xs, steps, adjoint):
            return state, xs

    with pytest.raises(TypeError, match=r"astype: Bare has no field .*define astype\(self, dtype"):
        Bare().astype(jnp.float32)

    class Unfinished(sj.Model):
        input_spec = None

    with pytest.raises(TypeError, match=r"abstract class Unfinished .*abstract method '?scan"):
        Unfinished()

    @dataclasses.dataclass
    class Changeable(Bare):
        scale: float = 1.0

    message = "model: expected something hashable, got test_own_kind.test.*: make it a frozen"
    with pytest.raises(TypeError, match=message):
        sj.unroll(Changeable(), jnp.ones(()), jnp.ones((2, 1)))
