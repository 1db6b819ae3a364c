"""The model of `music.py`: keys in, the logits of the next keys out, and the music that it writes.

It is learned as if keys sounded independently of each other, given all steps before.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from _music.data import KEYS, Rolls

import seqjax as sj


def loud(key, shape, dtype):
    """Of a kernel. Four keys of 88 sound: drawn as for a full input it would hardly hear them."""
    return jax.nn.initializers.normal(0.5)(key, shape, dtype)


def orthogonal(key, shape, dtype):
    """Of a recurrent kernel, gate by gate."""
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def make_model(hidden_size: int, layers: int, dropout: float) -> sj.Model:
    first = functools.partial(sj.lstm, KEYS, kernel_init=loud)
    others = [functools.partial(sj.lstm, hidden_size)] * (layers - 1)
    how = {"recurrent_init": orthogonal, "forget_bias": 1.0}
    cells = [make(hidden_size, **how) for make in (first, *others)]
    dropped = [layer for cell in cells for layer in (cell, sj.dropout(dropout))]
    return sj.stack(*dropped, sj.dense(hidden_size, KEYS))


def nats(model: sj.Model, params, rolls: Rolls, keys=None) -> tuple[jax.Array, jax.Array]:
    """-log p(x(t+1) | x(0), …, x(t)), summed over the keys, [N, T - 1]; and which t there are.

    Args:
      model: of 88 features and as many logits.
      params: of the model.
      rolls: N pieces.
      keys: random ones [N], in training.
    """
    xs, following = rolls.keys[:, :-1].astype(jnp.float32), rolls.keys[:, 1:]
    lengths = rolls.lengths - 1
    read = lambda xs, n, key: sj.unroll(model, params, xs, length=n, key=key)[1]
    logits = jax.vmap(read)(xs, lengths, keys)
    of_each = optax.sigmoid_binary_cross_entropy(logits, following)
    return of_each.sum(-1), jnp.arange(xs.shape[1])[None] < lengths[:, None]


@functools.partial(jax.jit, static_argnums=0)
def mean_nats(model: sj.Model, params, rolls: Rolls) -> jax.Array:
    """In mean over the frames of all pieces: how music is scored."""
    one = lambda piece: nats(model, params, jax.tree.map(lambda a: a[None], piece))
    found, valid = jax.lax.map(one, rolls, batch_size=16)
    return sj.train.masked_mean(found, valid)


@functools.partial(jax.jit, static_argnums=0)
def probabilities(model: sj.Model, params, roll: jax.Array) -> jax.Array:
    """Of the keys of every step but the first, given those before; [T - 1, 88]."""
    return jax.nn.sigmoid(sj.unroll(model, params, roll[:-1].astype(jnp.float32))[1])


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def write(
    model: sj.Model, params, opening: jax.Array, key, length: int, voices: int, temperature
) -> jax.Array:
    """Bool [length, 88]: what the model sounds after an opening, bool [T, 88].

    Each voice takes a key in its turn, of those left one with a probability in proportion to its
    odds, p / (1 - p). (Drawn independently, few of many
    keys that are all unlikely would sound: often one voice, or none.)
    """
    state, logits = sj.unroll(model, params, opening.astype(jnp.float32))

    def step(carried, key):
        state, logits = carried
        # The largest logits with Gumbel's noise: such draws without replacement.
        noise = jax.random.gumbel(key, logits.shape, logits.dtype)
        _, taken = jax.lax.top_k(logits / temperature + noise, voices)
        sounded = jnp.zeros(logits.shape, bool).at[taken].set(True)
        return model.step(params, state, sounded.astype(jnp.float32)), sounded

    return jax.lax.scan(step, (state, logits[-1]), jax.random.split(key, length))[1]
