"""Two models, one reading forward and one backward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import flip
from seqjax._types import Key, PyTree
from seqjax.compose._merges import Merge, check_merge, merge_function, merged_spec
from seqjax.compose._parts import smallest_vocabulary
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.keys import part_steps
from seqjax.engine.model import Model, check_params
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import run

__all__ = ["bidirectional"]


def bidirectional(
    forward: Model, backward: Model | None = None, *, merge: str | Callable = "concat"
) -> "Bidirectional":
    """Two independent networks, one reading forward, one backward; the output uses both.

    y(t) = merge(y_forward(t), y_backward(t)): outputs are aligned with the inputs. It cannot run
    online, because it needs the whole series: it has no `step`, and states carried from one piece
    of a series to the next would not mean anything. The network that reads backward begins at the
    last valid step; a `reset`, where another series begins, resets both networks, each when it
    reaches that step.

    Args:
      forward: any model.
      backward: any model of the same input; like `forward`, with parameters of its own, if None.
      merge: "concat" (along the last axis), "sum", "mean", "product", or a function of the two
        outputs of one step.

    Returns:
      A model whose params and state are {"forward": …, "backward": …}.

    Raises:
      ValueError: the outputs do not merge.

    References:
      Schuster & Paliwal 1997, Bidirectional recurrent neural networks; notes, section 5.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.bidirectional(sj.lstm(3, 8), sj.gru(3, 4)), sj.dense(12, 2))
    >>> state, ys = sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 3)), length=7)
    >>> ys.shape
    (10, 2)
    """
    backward = forward if backward is None else backward
    _checks.instance("forward", forward, Model, "a seqjax model")
    _checks.instance("backward", backward, Model, "a seqjax model")
    merge = check_merge(merge)
    if forward.input_spec is None or backward.input_spec is None:
        return Bidirectional(forward, backward, merge)  # nothing is known before the data come
    if forward.input_spec != backward.input_spec:
        expected = f"the input {_checks.describe(forward.input_spec)} that forward reads"
        given = _checks.describe(backward.input_spec)
        raise ValueError(_checks.mismatch("backward", expected, given))
    merged_spec(merge, (forward.output_spec, backward.output_spec))
    return Bidirectional(forward, backward, merge)


@dataclass(frozen=True, repr=False)
class Bidirectional(Model):
    """See `bidirectional`."""

    forward: Model
    backward: Model
    merge: Merge
    causal = False

    @property
    def call(self) -> static_partial:
        models = (self.forward,) if self.backward == self.forward else (self.forward, self.backward)
        return call_of(bidirectional, *models, merge=self.merge)

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # constant for most kinds
        return {"forward": self.forward, "backward": self.backward}

    @property
    def input_spec(self) -> PyTree:  # type: ignore[override]  # a field of most kinds
        return self.forward.input_spec

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # constant for most kinds
        return smallest_vocabulary(self.forward, self.backward)

    @property
    def output_spec(self) -> PyTree:
        return self.output_of(self.input_spec)

    def output_of(self, x: PyTree) -> PyTree:
        return merged_spec(self.merge, (self.forward.output_of(x), self.backward.output_of(x)))

    def init(self, key: Key) -> dict[str, PyTree]:
        forward, backward = _checks.keys(key, 2)
        return {"forward": self.forward.init(forward), "backward": self.backward.init(backward)}

    def initial_state(self, params: PyTree) -> dict[str, PyTree]:
        params = check_params(self, params)
        return {name: part.initial_state(params[name]) for name, part in self.parts.items()}

    def step(
        self, params: PyTree, state: PyTree, x: PyTree, **options: Any
    ) -> tuple[PyTree, PyTree]:
        raise TypeError(
            "step: a bidirectional model has none, since y(t) depends on the inputs after t; "
            "use unroll on the whole series"
        )

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[dict[str, PyTree], PyTree]:
        forward, ys = run(
            self.forward,
            params["forward"],
            state["forward"],
            xs,
            part_steps(self.forward, steps, 0),
            adjoint,
        )
        back = steps._replace(reset=resets_of_backward(steps), cut=None)
        backward, ys_backward = run(
            self.backward,
            params["backward"],
            state["backward"],
            flip(xs),
            flip(part_steps(self.backward, back, 1)),
            adjoint,
        )
        ys = jax.vmap(merge_function(self.merge))(ys, flip(ys_backward))
        return {"forward": forward, "backward": backward}, ys


def resets_of_backward(steps: Steps) -> jax.Array | None:
    """Where a net that reads backward enters another series: at the last valid step of one."""
    if steps.reset is None:
        return None
    series = jnp.cumsum(steps.reset)  # the number of the series that each step belongs to
    none = series[-1] + 1
    valid = jnp.ones_like(steps.reset) if steps.valid is None else steps.valid
    # The number of the series that the next valid step belongs to, none after the last one.
    following = lax.cummin(jnp.where(valid, series, none), reverse=True)
    following = jnp.concatenate([following[1:], none[None]])
    return valid & (series < following) & (following < none)
