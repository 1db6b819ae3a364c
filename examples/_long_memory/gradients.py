"""How the loss of the last step depends on each h(t)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(losses, model, params, xs, targets):
    """∂loss/∂h(t), a pytree of [N, steps, …]: by an input ε(t) = 0, which is added to h(t)."""

    def loss(epsilons, xs, target):
        ys = sj.trajectory(model, params, xs, perturb=epsilons)[1]
        return losses(ys, target)[-1]

    zeros = lambda leaf: jnp.zeros((xs.shape[1], *leaf.shape), leaf.dtype)
    epsilons = jax.tree.map(zeros, model.initial_state(params))
    return jax.vmap(jax.grad(loss), (None, 0, 0))(epsilons, xs, targets)


def gradient_norms(problem, model, params, xs, targets):
    """‖∂loss/∂h(t)‖ for every t, of the loss of the last step; the mean over series."""
    leaves = jax.tree.leaves(gradients(problem.losses, model, params, xs, targets))
    # In float64, for in float32 the square of 1e-23 is 0, which here has a meaning.
    squares = [np.square(leaf, dtype=np.float64).reshape(*leaf.shape[:2], -1) for leaf in leaves]
    return np.sqrt(np.concatenate(squares, axis=2).sum(2)).mean(0)
