"""Models made of models."""

import itertools
from dataclasses import dataclass

import jax

from seqjax import _checks
from seqjax.unroll import Model, check_params, check_state, output

__all__ = ["stack"]


def stack(*models: Model) -> "Stack":
    """Layers, each one's outputs the next one's inputs: a model again, of any depth.

    Each layer runs over time before the next one starts, so that its input matmul is one
    for all steps (within a chunk of `BPTT`).

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
            expected = f"the input {_checks.describe(y)} that models[{number - 1}] puts out"
            given = _checks.describe(above.input)
            raise ValueError(_checks.mismatch(f"models[{number}]", expected, given))
    return Stack(models)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Stack(Model):
    """See `stack`."""

    models: tuple[Model, ...]

    @property
    def input(self):  # type: ignore[override]
        return self.models[0].input

    def init(self, key):
        keys = jax.random.split(key, len(self.models))
        return tuple(model.init(k) for model, k in zip(self.models, keys, strict=True))

    def initial_state(self, params):
        return tuple(model.initial_state(p) for model, p in zip(self.models, params, strict=True))

    def step(self, params, state, x):
        params, state = check_params(self, params), check_state(self, params, state)
        new = []
        for model, p, s in zip(self.models, params, state, strict=True):
            s, x = model.step(p, s, x)
            new.append(s)
        return tuple(new), x

    def window(self, params, state, xs, steps, adjoint):
        new = []
        for model, p, s in zip(self.models, params, state, strict=True):
            s, xs = model.window(p, s, xs, steps, adjoint)
            new.append(s)
        return tuple(new), xs

    def astype(self, dtype):
        return Stack(tuple(model.astype(dtype) for model in self.models))
