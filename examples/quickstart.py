"""The library in 40 lines: a ragged batch, a stack, a training step, an evaluation.

    python examples/quickstart.py

Each series is noise, and the target is its running mean. Series differ in length.
"""

import jax
import jax.numpy as jnp
import optax

import seqjax as sj

BATCH, STEPS, HIDDEN, UPDATES = 64, 50, 32, 300


def draw(key):
    noise_key, length_key = jax.random.split(key)
    xs = jax.random.normal(noise_key, (BATCH, STEPS, 1))
    targets = jnp.cumsum(xs, axis=1) / jnp.arange(1, STEPS + 1)[:, None]
    return xs, targets, jax.random.randint(length_key, (BATCH,), 1, STEPS + 1)


model = sj.stack(sj.lstm(1, HIDDEN), sj.dense(HIDDEN, 1))  # functions, which hold no arrays


def loss(params, xs, targets, lengths):
    read = lambda xs, length: sj.unroll(model, params, xs, length=length)[1]  # of one series
    errors = (jax.vmap(read)(xs, lengths) - targets)[..., 0]  # [BATCH, STEPS]
    return sj.train.masked_mean(errors**2, jnp.arange(STEPS) < lengths[:, None])


params = model.init(jax.random.key(0))  # a plain pytree
optimizer = optax.adam(1e-2)
step, opt_state = sj.train.make_step(loss, optimizer), optimizer.init(params)
for update in range(UPDATES):
    params, opt_state, report = step(params, opt_state, *draw(jax.random.key(update)))
    if update % 100 == 0:
        print(f"update {update:3}  loss {report.loss:.4f}")
print(f"new series  loss {jax.jit(loss)(params, *draw(jax.random.key(UPDATES))):.4f}")
