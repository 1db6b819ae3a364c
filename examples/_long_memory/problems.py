"""The two problems of `long_memory.py`: adding and copying."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Problem(NamedTuple):
    """A problem of one length. Series come in batches, their losses one by one."""

    title: str
    shape: tuple[int, int, int]  # of a series: steps, inputs, outputs
    draw: Callable  # keys [N] -> (xs [N, steps, I], targets [N, …])
    losses: Callable  # (ys [steps, O], target) -> of the steps that count, the last one last
    chance: float  # the loss of the best answer that remembers nothing
    published: dict[str, str]  # Bai et al.'s losses, if this is their length


def adding(length):
    def draw(key):
        value_key, place_key = jax.random.split(key)
        values = jax.random.uniform(value_key, (length,))
        first, further = jax.random.randint(place_key, (2,), jnp.array([0, 1]), length)
        places = jnp.stack([first, (first + further) % length])
        marks = jnp.zeros_like(values).at[places].set(1)
        return jnp.stack([values, marks], axis=1), values[places].sum(keepdims=True)

    losses = lambda ys, target: (ys[-1] - target) ** 2
    title, shape, chance = f"adding, T = {length}", (length, 2, 1), 1 / 6  # papers say 0.1767
    published = {"rnn": "0.177", "gru": "5.3e-5", "lstm": "0.164"} if length == 600 else {}
    return Problem(title, shape, jax.jit(jax.vmap(draw)), losses, chance, published)


def copy(length, count=10, mark=9):
    def draw(key):
        said = jax.random.randint(key, (count,), 1, mark)
        fill = lambda symbol, times: jnp.full(times, symbol, said.dtype)
        read = jnp.concatenate([said, fill(0, length - 1), fill(mark, count + 1)])
        xs = jax.nn.one_hot(read, mark + 1)
        return xs, jnp.concatenate([fill(0, length + count), said])

    shape = length + 2 * count, mark + 1, mark + 1
    losses = optax.softmax_cross_entropy_with_integer_labels
    chance = count * math.log(mark - 1) / shape[0]
    published = {"rnn": "0.0202", "gru": "0.0197", "lstm": "0.0204"} if length == 1000 else {}
    return Problem(f"copy, T = {length}", shape, jax.jit(jax.vmap(draw)), losses, chance, published)
