"""A plain scan, differentiated by JAX: `adjoint=Autodiff()`."""

from dataclasses import dataclass

from seqjax import _checks
from seqjax._tree import at_step
from seqjax._types import PyTree
from seqjax.engine.adjoint import Adjoint, Window
from seqjax.engine.history import LAST_STEP, History
from seqjax.engine.plain_scan import plain_scan
from seqjax.engine.recurrence import Recurrence, Steps
from seqjax.ops.hoist import hoist

__all__ = ["Autodiff"]


@dataclass(frozen=True)
class Autodiff(Adjoint):
    """A plain `lax.scan`, differentiated by JAX's own rules.

    The adjoint for forward mode (`jax.jvp`, `jax.jacfwd`), and the one that `BPTT` is tested
    against. Forward over reverse (`jax.hessian`) works with either.
    """

    plain = True

    def scan_states(
        self,
        rec: Recurrence,
        params: PyTree,
        state: PyTree,
        reset_state: PyTree,
        u: PyTree,
        steps: Steps,
        history: History = LAST_STEP,
    ) -> tuple[PyTree, PyTree]:
        preactivate = hoist(
            lambda params, _, h_prev, u_t: rec.preactivate(params, h_prev, u_t),
            params,
            (),
            history.read(state),
            at_step(u, 0),
        )
        once = preactivate.once(preactivate.closed_over, params)

        def step(state: PyTree, u_t: PyTree) -> tuple[PyTree, PyTree]:
            h_prev = history.read(state)
            h_t = rec.activate(preactivate.rest(once, [], h_prev, u_t), h_prev)
            h_t = _checks.tree("the state that activate returns", h_t, history.newest(state))
            return history.push(state, h_t), h_t

        return plain_scan(step, state, reset_state, u, steps)

    def windows(
        self, window: Window, params: PyTree, state: PyTree, xs: PyTree, steps: Steps
    ) -> tuple[PyTree, PyTree]:
        return window(params, state, (xs, steps))
