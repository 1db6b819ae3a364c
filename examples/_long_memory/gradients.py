"""How the loss of the last step depends on each h(t)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def gradients(losses, model, output, params, xs, targets):
    """∂loss/∂h(t), a pytree of [N, steps, …]: by an input ε(t) = 0, which is added to h(t)."""

    def step(params, state, inputs):
        x, epsilon = inputs
        state = jax.tree.map(jnp.add, model.step(params, state, x)[0], epsilon)
        return state, output(params, state)

    nudged = sj.from_step(model.init, step, model.initial_state)

    def loss(epsilons, xs, target):
        return losses(sj.unroll(nudged, params, (xs, epsilons))[1], target)[-1]

    zeros = lambda leaf: jnp.zeros((xs.shape[1], *leaf.shape), leaf.dtype)
    epsilons = jax.tree.map(zeros, model.initial_state(params))
    return jax.vmap(jax.grad(loss), (None, 0, 0))(epsilons, xs, targets)


def gradient_norms(problem, model, output, params, xs, targets):
    """‖∂loss/∂h(t)‖ for every t, of the loss of the last step; the mean over series."""
    leaves = jax.tree.leaves(gradients(problem.losses, model, output, params, xs, targets))
    # In float64, for in float32 the square of 1e-23 is 0, which here has a meaning.
    squares = [np.square(leaf, dtype=np.float64).reshape(*leaf.shape[:2], -1) for leaf in leaves]
    return np.sqrt(np.concatenate(squares, axis=2).sum(2)).mean(0)
