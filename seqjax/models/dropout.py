"""Dropout of what a model reads or outputs."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import is_inexact, where
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import StreamedModel, check_step
from seqjax.engine.recurrence import Steps
from seqjax.models._dropped import drop

__all__ = ["DropoutState", "dropout"]


class DropoutState(NamedTuple):
    """The state of `dropout(rate, shared_over_time=True)`: where the mask of a series comes from.

    Attributes:
      seed: uint32 [2], drawn at the first step.
      drawn: bool [], whether it is.
    """

    seed: jax.Array
    drawn: jax.Array


export.register_namedtuple_serialization(DropoutState, serialized_name="seqjax.DropoutState")


def dropout(rate: float, *, shared_over_time: bool = False) -> "Dropout":
    """Dropout: in training, elements of x(t) are zero at random, and the others are scaled.

        y(t) = m(t) ∘ x(t) / (1 - rate),  m(t) ~ Bernoulli(1 - rate)     with a key
        y(t) = x(t)                                                      without

    A key means training: `sj.unroll(model, params, xs, key=key)`. For a batch `jax.vmap` goes over
    keys as well, one a series. A step draws the same whether a series runs whole, in chunks or
    step by step, forward or in reverse.

    Args:
      rate: the probability of zero, in [0, 1).
      shared_over_time: whether m is the same at all steps of a series (variational dropout, Gal &
        Ghahramani 2016): drawn at its first step, and anew after a reset.

    Returns:
      A model of any floating x(t), whose params are empty, (). Its state is (); if the mask is
      shared, DropoutState(seed, drawn), which carries it to the next piece of a series.

    Raises:
      TypeError: x(t) is not floating or complex.

    References:
      Srivastava et al. 2014, Dropout; Gal & Ghahramani 2016, arXiv:1512.05287.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model, xs = sj.dropout(0.5), jnp.ones((4, 3))
    >>> key = jax.random.key(0)
    >>> sorted(set(sj.unroll(model, (), xs, key=key)[1].ravel().tolist()))
    [0.0, 2.0]
    >>> bool((sj.unroll(model, (), xs)[1] == xs).all())
    True
    """
    shared_over_time = _checks.flag("shared_over_time", shared_over_time)
    return Dropout(_checks.rate("rate", rate), shared_over_time)


@dataclass(frozen=True, repr=False)
class Dropout(StreamedModel):
    """See `dropout`."""

    rate: float
    shared_over_time: bool
    input_spec = None
    receptive_field = 1

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def divisible(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return not self.shared_over_time

    @property
    def call(self) -> static_partial:
        return call_of(dropout, self.rate, shared_over_time=self.shared_over_time)

    def output_of(self, x: PyTree) -> PyTree:
        return x

    def astype(self, dtype: object) -> "Dropout":
        _checks.float_dtype("dtype", dtype)
        return self

    def init(self, key: Key) -> tuple[()]:
        _checks.key("key", key)
        return ()

    def initial_state(self, params: tuple[()]) -> DropoutState | tuple[()]:
        if not self.shared_over_time:
            return ()
        return DropoutState(jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.bool_))

    def bounded_step(
        self,
        bound: Bound,
        params: tuple[()],
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        params, state, x = check_step(self, params, state, x)
        if key is None:
            return state, x
        if self.shared_over_time:
            state = where(state.drawn, state, DropoutState(_seed(key), jnp.ones_like(state.drawn)))
            key = _key_of(state.seed, key)
        return state, drop_tree(self.rate, key, x)

    def scan(
        self, params: tuple[()], state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        keys = steps.key
        if self.shared_over_time:
            state, keys = self._shared(state, steps)
        if keys is None:
            return state, xs
        return state, jax.vmap(drop_tree, (None, 0, 0))(self.rate, keys, xs)

    def _shared(self, state: DropoutState, steps: Steps) -> tuple[DropoutState, jax.Array | None]:
        """The state after the steps, and the keys from which they draw their masks."""
        if steps.key is None:
            again = None if steps.reset is None else jnp.any(steps.reset)
            return where(again, self.initial_state(()), state), None
        time = steps.key.shape[0]
        valid = jnp.ones(time, bool) if steps.valid is None else steps.valid
        draws = valid & (jnp.cumsum(valid) == 1) & ~state.drawn
        draws = draws if steps.reset is None else draws | steps.reset
        # The step at which the mask of each step is drawn; before the first of them -1.
        source = lax.cummax(jnp.where(draws, jnp.arange(time), -1))
        drawn = jax.vmap(_seed)(steps.key)[jnp.maximum(source, 0)]
        seeds = jnp.where((source < 0)[:, None], state.seed, drawn)
        keys = jax.vmap(_key_of)(seeds, steps.key)
        return DropoutState(seeds[-1], state.drawn | jnp.any(valid)), keys


def _seed(key: jax.Array) -> jax.Array:
    return jax.random.bits(key, (2,), jnp.uint32)


def _key_of(seed: jax.Array, like: jax.Array) -> jax.Array:
    """A key that depends on the seed alone, of the kind that another one is."""
    key = jax.random.key(0, impl=jax.random.key_impl(like))
    return jax.random.fold_in(jax.random.fold_in(key, seed[0]), seed[1])


def drop_tree(rate: float, key: jax.Array, x: PyTree) -> PyTree:
    """`x` with elements of its leaves zero at this rate, and the others divided by 1 - rate."""
    leaves, structure = jax.tree.flatten(x)
    dropped = []
    for number, leaf in enumerate(leaves):
        if not is_inexact(leaf):
            expected = "a floating array, since dropout scales it"
            raise TypeError(_checks.mismatch("x", expected, _checks.describe(leaf)))
        dropped.append(drop(rate, key, number, leaf))
    return jax.tree.unflatten(structure, dropped)
