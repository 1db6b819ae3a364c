"""A NARX model in open loop, on measured outputs, and what lies between open and closed."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._types import Array, Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import Around, check_params, check_state
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import unroll
from seqjax.models._delay_line import read_series
from seqjax.models._feedback import Layers
from seqjax.models.narx import NARX, Feedback, NARXState

__all__ = ["OpenLoop", "check_record", "teacher_force", "warm_start"]


def teacher_force(
    model: NARX,
    params: PyTree,
    xs: Array,
    measured_ys: Array,
    state: NARXState | None = None,
    *,
    forced: Array | None = None,
    **options: Any,
) -> tuple[NARXState, jax.Array]:
    """Runs a NARX model in open loop: measured outputs are fed back, so each y is a one-step-ahead
    prediction.

    Nothing is recurrent then: all time steps are computed in parallel, forward and backward.
    With `forced`, only some steps are fed back as measured, and the others as the model outputs
    them: for a record with gaps, or scheduled sampling by `forced=jax.random.bernoulli(key, p,
    (T,))`. That is a recurrence again, differentiated through the outputs that were fed back.

    Args:
      model: from `sj.narx`.
      params: its parameters.
      xs: [T, I].
      measured_ys: [T, O]. The output at t is fed back after t: y(t) is predicted from those before.
      state: both delay lines before the series; zero if None. See `warm_start`.
      forced: bool [T]; where False, the model's own y(t) is fed back, and
        measured_ys(t) is not read (it may be NaN). True everywhere if None.
      **options: length, mask, reset, reverse and adjoint, as for `sj.unroll`. With `forced`,
        `BPTT(clip=…)` bounds what flows into y(t) and into what is fed back, each by itself.

    Returns:
      (state, ys): the state after the last step, from which `unroll` can run on freely, and the
      predictions, [T, O].

    References:
      Notes, section 2; Williams & Zipser 1989 (teacher forcing); Bengio et al. 2015,
      arXiv:1506.03099 (scheduled sampling).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.narx(1, 8, 1)
    >>> params, xs, measured = model.init(jax.random.key(0)), jnp.ones((9, 1)), jnp.zeros((9, 1))
    >>> never = jnp.zeros(9, bool)
    >>> mixed = sj.teacher_force(model, params, xs, measured, forced=never)[1]
    >>> bool(jnp.allclose(mixed, sj.unroll(model, params, xs)[1]))
    True
    """
    xs, measured, time = check_record(model, xs, measured_ys)
    params, state = check_params(model, params), check_state(model, params, state)
    if forced is None:
        return unroll(OpenLoop(model), params, (xs, measured), state, **options)
    forced_at = _checks.array("forced", forced, (time,), jnp.bool_)
    measured = jnp.where(forced_at[:, None], measured, jnp.zeros_like(measured))
    return unroll(MixedLoop(model), params, (xs, measured, forced_at), state, **options)


def check_record(model: Any, xs: Any, measured_ys: Any) -> tuple[jax.Array, jax.Array, int]:
    """The inputs [T, I] and the outputs [T, O] of a measured record, for a NARX model, and T."""
    _checks.instance("model", model, NARX, "a model from sj.narx")
    inputs, time = _checks.series("xs", xs, model.input_spec)
    shape = (time, model.output_size)
    return inputs, _checks.array("measured_ys", measured_ys, shape, model.input_spec.dtype), time


def warm_start(model: NARX, xs: Array, measured_ys: Array) -> NARXState:
    """The state of a NARX model after a measured history, whatever its parameters.

    Args:
      model: from `sj.narx`.
      xs: [T, I], the inputs, T at least as long as the model's longest delay.
      measured_ys: [T, O], the outputs at the same times.

    Returns:
      The state from which `unroll`, `step` or `teacher_force` goes on at time T.

    Raises:
      ValueError: the history is too short.

    >>> import jax.numpy as jnp, seqjax as sj
    >>> model = sj.narx(1, 8, 1, input_delays=(0, 1), output_delays=(1, 2))
    >>> history = jnp.arange(5.0)[:, None]
    >>> state = sj.warm_start(model, history, 10 * history)
    >>> state.xs.tolist(), state.ys.tolist()
    ([[4.0]], [[30.0], [40.0]])
    """
    inputs, measured, time = check_record(model, xs, measured_ys)
    of_inputs, of_outputs = model.input_delays[-1], model.output_delays[-1]
    if time < max(of_inputs, of_outputs):
        expected = f"a history of at least {max(of_inputs, of_outputs)} steps"
        given = f"{time} step{'' if time == 1 else 's'}"
        raise ValueError(_checks.mismatch("xs", expected, given))
    return NARXState(inputs[time - of_inputs :], measured[time - of_outputs :])


@dataclass(frozen=True)
class OpenLoop(Around):
    """A NARX model whose x(t) is (x(t), the measured y(t))."""

    model: NARX

    def step(self, params: PyTree, state: NARXState, x: Any) -> tuple[NARXState, jax.Array]:
        return MixedLoop(self.model).step(params, state, (*x, True))

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: NARXState,
        x: Any,
        key: Key | None = None,
    ) -> tuple[NARXState, jax.Array]:
        return self.step(params, state, x)  # nothing is recurrent

    def scan(
        self, params: PyTree, state: NARXState, xs: Any, steps: Steps, adjoint: Adjoint
    ) -> tuple[NARXState, jax.Array]:
        params, feedback = self.model.cast_params(params), self.model.feedback
        xs, measured = xs
        x_line, us = self.model.read_inputs(params, state, xs, steps)
        kernel = params["recurrent_kernel"]
        y_line, fed = read_series(feedback.delays, kernel, state.ys, measured, steps)
        z = jax.vmap(feedback.layers, (None, 0))(params, us + fed)
        return NARXState(x_line, y_line), jax.vmap(feedback.output)(z)


@dataclass(frozen=True)
class MixedLoop(OpenLoop):
    """A NARX model whose x(t) is (x(t), the measured y(t), whether that is fed back)."""

    def step(self, params: PyTree, state: NARXState, x: Any) -> tuple[NARXState, jax.Array]:
        x, measured, forced = x
        state, y = self.model.step(params, state, x)
        fed = jnp.where(forced, measured, y)
        return state._replace(ys=jnp.concatenate([state.ys[:-1], fed[None]])), y

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: NARXState,
        x: Any,
        key: Key | None = None,
    ) -> tuple[NARXState, jax.Array]:
        state, y = self.step(params, state, x)
        return state._replace(ys=bound(state.ys)), bound.output(y)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: Any) -> int:
        return self.model.preactivation_bytes(params, state, x[0])

    def scan(
        self, params: PyTree, state: NARXState, xs: Any, steps: Steps, adjoint: Adjoint
    ) -> tuple[NARXState, jax.Array]:
        params, feedback = self.model.cast_params(params), self.model.feedback
        xs, measured, forced = xs
        x_line, us = self.model.read_inputs(params, state, xs, steps)
        ys = _beside(state.ys, jnp.zeros_like(state.ys))
        reset_state = None if steps.reset is None else jnp.zeros_like(ys)
        u = us, measured, forced
        rec, history = MixedFeedback(feedback), feedback.history
        ys, rows = adjoint.scan_states(rec, params, ys, reset_state, u, steps, history)
        return NARXState(x_line, _fed(ys)), rows[:, self.model.output_size :]


@dataclass(frozen=True)
class MixedFeedback:
    """The recurrence that puts both into the line, side by side: what is fed back, and y(t)."""

    feedback: Feedback
    preactivate_vjp = activate_vjp = None

    def preactivate(
        self, params: PyTree, rows: jax.Array, u: Any
    ) -> tuple[Layers, jax.Array, jax.Array]:
        from_inputs, measured, forced = u
        return self.feedback.preactivate(params, _fed(rows), from_inputs), measured, forced

    def activate(self, z: tuple[Layers, jax.Array, jax.Array], rows: jax.Array) -> jax.Array:
        layers, measured, forced = z
        y = self.feedback.output(layers)
        return _beside(jnp.where(forced, measured, y), y)


def _beside(fed: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.concatenate([fed, y], axis=-1)


def _fed(rows: jax.Array) -> jax.Array:
    return rows[:, : rows.shape[1] // 2]
