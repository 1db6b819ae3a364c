"""Writes tests/storage/releases/<version>.safetensors: later versions must read it.

    python -m tools.save_release

Run once for each release, and never again for that one.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "storage" / "releases"


def model() -> sj.Model:
    """Layers of most factories, with options of every kind."""
    float32 = {"dtype": jnp.float32}
    recurrent = (
        sj.lstm(4, 4, peepholes=True, learn_initial_state=True, **float32),
        sj.gru(4, 4, reset_after=False, gate_activation=jax.nn.hard_sigmoid, **float32),
        sj.rnn(4, 4, activation=jax.nn.relu, bias_init=jax.nn.initializers.ones, **float32),
        sj.elman(4, 4, **float32),
        sj.jordan(4, 3, 4, decay=0.5, **float32),
        sj.slstm(4, 4, heads=2, **float32),
        sj.zoneout(sj.lstm(4, 4, **float32), sj.LSTMState(h=0.0, c=0.5)),
        sj.tdnn(4, 4, delays=(0, 2), **float32),
        sj.narx(4, (3, 2), 4, output_delays=(1, 3), **float32),
        sj.lru(4, 3, 4, **float32),
        sj.s5(4, 4, 4, **float32),
        sj.min_gru(4, 4, **float32),
        sj.min_lstm(4, 4, **float32),
        sj.rg_lru(4, **float32),
    )
    return sj.stack(
        sj.embed(5, 4, **float32),
        *recurrent,
        sj.residual(sj.stack(sj.layer_norm(4, **float32), sj.dropout(0.5), jnp.tanh)),
        sj.branches(sj.rms_norm(4, **float32), sj.dense(4, 4, **float32), merge="sum"),
        sj.feedback(sj.dense(8, 4, activation=jax.nn.softmax, **float32)),
        sj.static_partial(jax.nn.leaky_relu, negative_slope=0.1),
    )


def main() -> None:
    path = FOLDER / f"{sj.__version__}.safetensors"
    if path.exists():
        raise SystemExit(f"{path.name} is there: a release is saved once")
    made = model()
    params = made.init(jax.random.key(0))
    xs = np.random.default_rng(0).integers(0, 5, (2, 6)).astype(np.int32)
    ys = jax.vmap(lambda tokens: sj.unroll(made, params, tokens)[1])(xs)
    FOLDER.mkdir(exist_ok=True)
    sj.save(path, made, params, xs=xs, ys=ys)


if __name__ == "__main__":
    main()
