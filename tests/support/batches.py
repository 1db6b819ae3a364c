"""Batches of series, and programs of every model that several laws share."""

import functools

import jax
import jax.numpy as jnp
from support.oracles import outputs_and_gradient
from support.table import BY_NAME, problem

T, B = 5, 3


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@functools.lru_cache
def one_by_one(name):
    """The jitted gradient of one sequence, of which others are made by a loop."""
    return jax.jit(functools.partial(outputs_and_gradient, BY_NAME[name].model))


def batch(model, size=B):
    """Arguments of `outputs_and_gradient`, every leaf with a batch axis."""
    options = {
        "length": jnp.array([5, 2, 4]),
        "mask": jnp.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 0]], bool),
        "reset": jnp.array([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], bool),
    }
    sequences = [problem(model, T, seed=10 * n) for n in range(size)]
    return *stacked(*sequences), options


@functools.lru_cache
def many(name):
    """The same of a batch of series, with one set of parameters."""
    run = functools.partial(outputs_and_gradient, BY_NAME[name].model)
    return jax.jit(jax.vmap(run, (None, 0, 0, 0)))
