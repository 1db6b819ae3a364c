"""Predictions of a NARX model several steps ahead, at all times of a measured record."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._types import Array, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.autodiff import Autodiff
from seqjax.engine.history import Delays
from seqjax.engine.model import Around, check_params, check_state
from seqjax.engine.plain_scan import widened
from seqjax.engine.recurrence import Steps, fill, over_steps
from seqjax.engine.unroll import unroll
from seqjax.models._delay_line import read_series
from seqjax.models.narx import NARX, NARXState
from seqjax.models.narx_open_loop import OpenLoop, check_record

__all__ = ["predict_ahead"]


def predict_ahead(
    model: NARX,
    params: PyTree,
    xs: Array,
    measured_ys: Array,
    state: NARXState | None = None,
    *,
    steps_ahead: int,
    length: int | Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
) -> tuple[NARXState, jax.Array]:
    """Predicts each y(t) of a record k steps ahead, from the outputs measured up to y(t-k).

    For each t that is a run of k steps in closed loop, which begins at the measured history before
    them; the inputs are known up to x(t). All t are computed at once, in k passes over the record:
    with ŷ_j the predictions j steps ahead, and ŷ_j(t) the measured y(t) for j ≤ 0,

        ŷ_j(t) = F(x(t - input_delays …), ŷ_{j-d}(t-d) for all output delays d),  j = 1 … k

    where F is the network of `sj.narx`. One step ahead is `teacher_force`; for k ≥ T it is the free
    run of `unroll`, which takes T steps and not T passes.

    Derivatives are JAX's own, in both modes, so that errors k steps ahead can be a loss, one
    between those of the open and of the closed loop. A gradient stores [D, T, O] for each pass, D
    the largest output delay below k, and runs the passes twice.

    Args:
      model: from `sj.narx`.
      params: its parameters.
      xs: [T, I].
      measured_ys: [T, O].
      state: both delay lines before the series, known at all times; zero if None. See `warm_start`.
      steps_ahead: k, from 1.
      length, mask, reset, reverse: as for `sj.unroll`. An invalid step is left out: the k steps
        are valid ones, and what was measured there is not read (it may be NaN). After a reset,
        nothing before it is known, and fewer than k steps after it, it is a run from the reset.

    Returns:
      (state, ys): the state after the last step, all outputs measured, as `teacher_force` returns
      it, and the predictions, [T, O].

    References:
      Ljung 1999, System identification: theory for the user, chapter 3 (k-step-ahead predictors).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.narx(1, 8, 1)
    >>> params, xs, measured = model.init(jax.random.key(0)), jnp.ones((9, 1)), jnp.zeros((9, 1))
    >>> state, five_ahead = sj.predict_ahead(model, params, xs, measured, steps_ahead=5)
    >>> warm = sj.warm_start(model, xs[:4], measured[:4])
    >>> free_run = sj.unroll(model, params, xs[4:], warm)[1]
    >>> bool(jnp.allclose(five_ahead[8], free_run[4], atol=1e-6))
    True
    """
    xs, measured, _ = check_record(model, xs, measured_ys)
    params, state = check_params(model, params), check_state(model, params, state)
    return unroll(
        StepsAhead(model, _checks.size("steps_ahead", steps_ahead)),
        params,
        (xs, measured),
        state,
        length=length,
        mask=mask,
        reset=reset,
        reverse=reverse,
        adjoint=Autodiff(),  # the whole series at once
    )


@dataclass(frozen=True)
class StepsAhead(Around):
    """A NARX model whose x(t) is (x(t), the measured y(t)), and which predicts some steps ahead.

    It has no step: its state, of what was measured, does not say what it predicted.
    """

    model: NARX
    steps_ahead: int

    def scan(
        self, params: PyTree, state: NARXState, xs: Any, steps: Steps, adjoint: Adjoint
    ) -> tuple[NARXState, jax.Array]:
        open_loop = OpenLoop(self.model)
        last, ys = open_loop.scan(params, state, xs, steps, adjoint)  # one step ahead
        time = ys.shape[0]
        ahead = min(self.steps_ahead, time) if isinstance(time, int) else self.steps_ahead
        near = tuple(delay for delay in self.model.output_delays if delay < ahead)
        if near:
            ys = self._repeat(params, state, xs, ys, steps, near, ahead - 1)
        return last, ys

    def _repeat(
        self,
        params: PyTree,
        state: NARXState,
        xs: tuple[jax.Array, jax.Array],
        ys: jax.Array,
        steps: Steps,
        near: tuple[int, ...],
        passes: int,
    ) -> jax.Array:
        """The passes after the first one: what lies at a far delay is measured in all of them."""
        params, (inputs, measured) = self.model.cast_params(params), xs
        kernel, far = params["recurrent_kernel"], self.model.output_delays[len(near) :]
        us = self.model.read_inputs(params, state, inputs, steps)[1]
        if far:
            us += read_series(far, kernel[len(near) :], state.ys, measured, steps)[1]
        feedback = replace(self.model.feedback, delays=near)
        # The gradient of what all passes read is a sum over them.
        wide, narrow = widened((params | {"recurrent_kernel": kernel[: len(near)]}, us, state.ys))

        def predict(line: jax.Array, _: None) -> tuple[jax.Array, None]:
            params, us, y_line = narrow(wide)
            read = [
                _delayed(delay, y_line, before, steps)
                for delay, before in zip(reversed(near), feedback.history.read(line), strict=True)
            ]
            us, fed = fill(steps.valid, (us, jnp.concatenate(read, axis=1)))
            ys = jax.vmap(feedback.output)(over_steps(feedback.preactivate, params, fed, us))
            return feedback.history.push(line, ys), None

        # ŷ of the passes before this one, the oldest first: [near[-1], T, O].
        before = jnp.broadcast_to(measured, (near[-1] - 1, *measured.shape))
        line = jnp.concatenate([before, ys[None]])
        # To run a pass again takes less time, on a CPU, than to store and fetch its hidden layers.
        again = jax.checkpoint(predict, prevent_cse=False)
        line, _ = lax.scan(again, line, length=passes)
        return line[-1]


def _delayed(delay: int, y_line: jax.Array, ys: jax.Array, steps: Steps) -> jax.Array:
    """What each step reads of a series so many valid steps back, [T, 1, O]; y_line is before it."""
    before = y_line[y_line.shape[0] - delay :]
    return Delays((delay,)).entering(before, jnp.zeros_like(before), ys, steps)
