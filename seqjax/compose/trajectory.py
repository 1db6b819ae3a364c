"""The states of all steps of a run, and the gradient that each of them gets."""

from dataclasses import dataclass
from typing import Any

import jax

from seqjax import _checks
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound, Shift
from seqjax.engine.model import Around, Model, StreamedModel, check_params, check_state, one_step
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import step_by_step, unroll

__all__ = ["trajectory"]


def trajectory(
    model: Model,
    params: PyTree,
    xs: PyTree,
    state: PyTree = None,
    *,
    perturb: PyTree = None,
    **options: Any,
) -> tuple[PyTree, PyTree, PyTree]:
    """`sj.unroll` that returns the states of all steps as well, and takes what is added to them.

    The gradient with respect to `perturb`, at zero, is ∂L/∂h(t) of every t: that of all that
    depends on h(t), y(t) included (of a complex state, as JAX has it, the conjugate). Where a step
    does not show how y(t) is made of the state (`sj.from_step`, `sj.feedback`), or y(t) is not made
    of it (the delay lines of `sj.tdnn`), it is the gradient by way of the later steps. Steps run
    one after the other, in a plain scan.

    Args:
      model: any model that has a `step`.
      params, xs, state: as for `sj.unroll`.
      perturb: a tree like the state with arrays [T, …], added to h(t) as it is made; nothing if
        None. Leaves that are not floating are not read.
      **options: length, mask, reset, reverse, key and adjoint, as for `sj.unroll`.

    Returns:
      (state, ys, states): those of `sj.unroll`, and the state after each step, a tree like it of
      [T, …], zero at invalid steps as ys are.

    Raises:
      TypeError, ValueError: as `sj.unroll`; or the model has no `step`; or an adjoint that splits
        time over devices.

    References:
      Notes, section 4: λ(t). Pascanu et al. 2013, arXiv:1211.5063, on how it vanishes and explodes.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.rnn(3, 8), sj.dense(8, 2))
    >>> params, xs = model.init(jax.random.key(0)), jnp.ones((50, 3))
    >>> _, ys, states = sj.trajectory(model, params, xs)
    >>> def last(perturb):
    ...     return sj.trajectory(model, params, xs, perturb=perturb)[1][-1].sum()
    >>> grads = jax.grad(last)(jax.tree.map(jnp.zeros_like, states))
    >>> norms = jnp.linalg.norm(grads[0], axis=1)  # of ∂L/∂h(t), which vanishes backward in time
    >>> norms.shape, bool(norms[0] < norms[-1])
    ((50,), True)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    if not model.causal:
        expected = "a model that reads no input after t, whose steps have states"
        raise TypeError(_checks.mismatch("model", expected, _checks.describe(model)))
    if getattr(options.get("adjoint"), "over", None) is not None:
        expected = "one without over: sj.trajectory runs step after step, on one device"
        raise ValueError(_checks.mismatch("adjoint", expected, repr(options["adjoint"])))
    xs, time = _checks.series("xs", xs, model.input_spec)
    params, state = check_params(model, params), check_state(model, params, state)
    if perturb is not None:
        spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct((time, *a.shape), a.dtype), state)
        perturb = _checks.tree("perturb", perturb, spec)
    state, (ys, states) = unroll(Traced(model), params, (xs, perturb), state, **options)
    return state, ys, states


@dataclass(frozen=True)
class Traced(Around, StreamedModel):
    """A model whose x(t) is (x(t), what is added to h(t)), and whose y(t) is (y(t), h(t))."""

    opaque = True

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # constant for most kinds
        return self.model.vocabulary_size

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # constant for most kinds
        return {"model": self.model}

    def bounded_step(
        self, bound: Bound, params: PyTree, state: PyTree, x: tuple, key: Key | None = None
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        x, added = x
        bound = bound if added is None else Shift(added, bound)
        state, y = one_step(self.model, bound, params, state, x, key)
        return state, (y, state)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: tuple) -> int:
        return self.model.preactivation_bytes(params, state, x[0])

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        return step_by_step(self, params, state, xs, steps, adjoint)
