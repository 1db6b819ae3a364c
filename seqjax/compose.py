"""Models made of models."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import Model, check_params, check_state, flip, output

__all__ = ["bidirectional", "stack"]

Tree = Any


def stack(*models: Model) -> "Stack":
    """Layers, each one's outputs the next one's inputs: a model again, of any depth.

    Each layer runs over time before the next one starts, so that its input matmul is one
    for all steps (within a chunk of `BPTT`; below a layer that reads the future there are no
    common chunks, each layer has its own).

    Args:
      *models: at least one, of sizes that fit.

    Returns:
      A model whose params and state are tuples with an entry per layer.

    Raises:
      TypeError, ValueError: not a model; none at all; or sizes that do not fit.

    References:
      Notes, section 4, any number of layers k.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.lstm(3, 8), sj.gru(8, 5), sj.dense(5, 2))
    >>> state, ys = model.unroll(model.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> ys.shape
    (10, 2)
    """
    if not models:
        raise ValueError(_checks.mismatch("models", "at least one", "none"))
    for number, model in enumerate(models):
        _checks.instance(f"models[{number}]", model, Model, "a seqjax model")
    for number, (below, above) in enumerate(itertools.pairwise(models), start=1):
        if below.input is None or above.input is None:
            continue  # nothing is known before the data come
        y = jax.eval_shape(output, below)
        if (y.shape, y.dtype) != (above.input.shape, above.input.dtype):
            expected = f"the input {_checks.describe(y)} that models[{number - 1}] outputs"
            given = _checks.describe(above.input)
            raise ValueError(_checks.mismatch(f"models[{number}]", expected, given))
    return Stack(models)


@dataclass(frozen=True)
class Stack(Model):
    """See `stack`."""

    models: tuple[Model, ...]

    @property
    def input(self):  # type: ignore[override]
        return self.models[0].input

    def init(self, key):
        keys = _checks.keys(key, len(self.models))
        return tuple(model.init(k) for model, k in zip(self.models, keys, strict=True))

    def initial_state(self, params):
        params = check_params(self, params)
        return tuple(model.initial_state(p) for model, p in zip(self.models, params, strict=True))

    def step(self, params, state, x):
        params, state = check_params(self, params), check_state(self, params, state)
        new = []
        for model, p, s in zip(self.models, params, state, strict=True):
            s, x = model.step(p, s, x)
            new.append(s)
        return tuple(new), x

    @property
    def causal(self):  # type: ignore[override]
        return all(model.causal for model in self.models)

    @property
    def receptive_field(self):  # type: ignore[override]
        return 1 + sum(model.receptive_field - 1 for model in self.models)

    def step_bytes(self, params, state, x):
        total = 0
        for model, p, s in zip(self.models, params, state, strict=True):
            total += model.step_bytes(p, s, x)
            x = jax.eval_shape(model.step, p, s, x)[1]
        return total

    def window(self, params, state, xs, steps, adjoint):
        new = []
        for model, p, s in zip(self.models, params, state, strict=True):
            s, xs = model.window(p, s, xs, steps, adjoint)
            new.append(s)
        return tuple(new), xs

    def run(self, params, state, xs, steps, adjoint):
        if self.causal:
            return super().run(params, state, xs, steps, adjoint)
        new = []
        for model, p, s in zip(self.models, params, state, strict=True):
            s, xs = model.run(p, s, xs, steps, adjoint)
            new.append(s)
        return tuple(new), xs


MERGES = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "product": lambda forward, backward: forward * backward,
}


def bidirectional(
    forward: Model, backward: Model | None = None, *, merge: str | Callable = "concat"
) -> "Bidirectional":
    """Two independent networks, one reading forward, one backward; the output uses both.

    y(t) = merge(y_forward(t), y_backward(t)): outputs are aligned with the inputs. Not an online
    process: it needs the whole series, so it has no `step`, and states carried from one piece of a
    series to the next would not mean anything. The network that reads backward begins at the last
    valid step; a `reset`, where another series begins, resets both, each when it gets there.

    Args:
      forward: any model.
      backward: any model of the same input; like `forward`, with parameters of its own, if None.
      merge: "concat" (along the last axis), "sum", "mean", "product", or a function of the two
        outputs of one step.

    Returns:
      A model whose params and state are {"forward": …, "backward": …}.

    Raises:
      TypeError, ValueError: an argument is not as described, or the outputs do not merge.

    References:
      Schuster & Paliwal 1997, Bidirectional recurrent neural networks; notes, section 5.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.bidirectional(sj.lstm(3, 8), sj.gru(3, 4)), sj.dense(12, 2))
    >>> state, ys = model.unroll(model.init(jax.random.key(0)), jnp.ones((10, 3)), length=7)
    >>> ys.shape
    (10, 2)
    """
    backward = forward if backward is None else backward
    _checks.instance("forward", forward, Model, "a seqjax model")
    _checks.instance("backward", backward, Model, "a seqjax model")
    if callable(merge):
        _checks.part("merge", merge)
    else:
        _checks.choice("merge", merge, tuple(MERGES))
    if forward.input is None or backward.input is None:
        return Bidirectional(forward, backward, merge)  # nothing is known before the data come
    if forward.input != backward.input:
        expected = f"the input {_checks.describe(forward.input)} that forward reads"
        given = _checks.describe(backward.input)
        raise ValueError(_checks.mismatch("backward", expected, given))
    if not callable(merge):
        _check_merge(merge, jax.eval_shape(output, forward), jax.eval_shape(output, backward))
    return Bidirectional(forward, backward, merge)


def _check_merge(merge, forward, backward):
    expected = f"outputs that fit {merge!r}"
    given = f"{_checks.describe(forward)} and {_checks.describe(backward)}"
    shapes = [getattr(y, "shape", ()) for y in (forward, backward)]
    if merge == "concat":  # of vectors, of any two sizes
        fits = () not in shapes and shapes[0][:-1] == shapes[1][:-1]
    else:
        fits = shapes[0] == shapes[1]
    if not fits:
        raise ValueError(_checks.mismatch("merge", expected, given))
    if getattr(forward, "dtype", None) != getattr(backward, "dtype", None):
        raise TypeError(_checks.mismatch("merge", expected, given))


@dataclass(frozen=True)
class Bidirectional(Model):
    """See `bidirectional`."""

    forward: Model
    backward: Model
    merge: str | Callable
    causal = False

    @property
    def input(self):  # type: ignore[override]
        return self.forward.input

    def init(self, key):
        forward, backward = _checks.keys(key, 2)
        return {"forward": self.forward.init(forward), "backward": self.backward.init(backward)}

    def initial_state(self, params):
        params = check_params(self, params)
        return {
            "forward": self.forward.initial_state(params["forward"]),
            "backward": self.backward.initial_state(params["backward"]),
        }

    def step(self, params, state, x):
        raise TypeError(
            "step: a bidirectional model has none, since y(t) depends on the inputs after t; "
            "use unroll on the whole series"
        )

    def run(self, params, state, xs, steps, adjoint):
        forward, ys = self.forward.run(params["forward"], state["forward"], xs, steps, adjoint)
        xs, steps = flip(xs), flip(Steps(steps.valid, _resets_of_backward(steps)))
        backward, ys_backward = self.backward.run(
            params["backward"], state["backward"], xs, steps, adjoint
        )
        merge = self.merge if callable(self.merge) else MERGES[self.merge]
        ys = jax.vmap(merge)(ys, flip(ys_backward))
        return {"forward": forward, "backward": backward}, ys


def _resets_of_backward(steps: Steps):
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
