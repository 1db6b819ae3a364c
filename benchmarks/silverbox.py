"""The Silverbox benchmark: free-run errors of our models beside the published ones.

    python -m benchmarks.silverbox DATA_FILE [--models gru lstm rnn fir_mlp] [--updates N]

DATA_FILE is SNLS80mV.csv (or its .gz) of the Silverbox benchmark, an electronic Duffing
oscillator (Wigren & Schoukens 2013): columns V1 (input) and V2 (output) in volts. The split is
the official one, the scoring that of the published figures: every model runs freely over a whole
test record from the zero state, reading the input alone, and all but its first 50 samples are
scored. A model never sees a measured output, neither in training nor in the tests.

Writes benchmarks/results/silverbox.json, a row per model; rows of other models are kept.
"""

import argparse
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.machine import device

RESULTS = Path(__file__).resolve().parent / "results" / "silverbox.json"
UNSCORED = 50
# Champneys et al. 2024, RMSE in mV.
PUBLISHED = {
    "gru": (1.49, 2.80, 0.95),
    "lstm": (1.50, 2.68, 0.96),
    "rnn": (1.64, 4.88, 1.73),
    "fir_mlp": (18.9, 20.2, 15.3),
}
TESTS = ("multisine", "arrow", "arrow_no_extrapolation")
MODELS = {
    "gru": lambda size: sj.stack(sj.gru(1, size), sj.dense(size, 1)),
    "lstm": lambda size: sj.stack(sj.lstm(1, size), sj.dense(size, 1)),
    "rnn": lambda size: sj.stack(sj.rnn(1, size), sj.dense(size, 1)),
    "fir_mlp": lambda size: sj.stack(
        sj.tdnn(1, 2 * size, delays=range(128), activation=jnp.tanh),
        sj.dense(2 * size, 2 * size, activation=jnp.tanh),
        sj.dense(2 * size, 1),
    ),
}


def read(path: Path):
    """{name: (inputs [T, 1], outputs [T, 1])}, in standard deviations of the training part."""
    volts = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(0, 1))
    multisine, arrow = volts[40650:127400], volts[100:40575]
    cut = int(0.75 * len(multisine))
    held_out = cut - cut // 10
    mean, std = multisine[:held_out].mean(0), multisine[:held_out].std(0)
    parts = {
        "training": multisine[:held_out],
        "validation": multisine[held_out:cut],
        "multisine": multisine[cut:],
        "arrow": arrow,
        "arrow_no_extrapolation": arrow[:32_000],
    }
    scaled = {name: ((part - mean) / std).astype(np.float32) for name, part in parts.items()}
    return {name: (part[:, :1], part[:, 1:]) for name, part in scaled.items()}, 1e3 * std[1]


def train(name, data, millivolts, options):
    model = MODELS[name](options.size)
    xs, ys = data["training"]
    # In training, too, nothing is scored that depends on what lies before a window.
    finite = model.receptive_field < math.inf
    unscored = max(UNSCORED, model.receptive_field) if finite else UNSCORED
    span = options.span + unscored

    def predict(params, xs):
        return sj.unroll(model, params, xs, adjoint=sj.BPTT(store="preactivations"))[1]

    def loss(params, xs, ys):
        errors = jax.vmap(predict, (None, 0))(params, xs) - ys
        return jnp.mean(errors[:, unscored:] ** 2)

    warm_up = options.updates // 20
    rate = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warm_up, options.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    step = sj.train.make_step(loss, optimizer)
    run = jax.jit(predict)

    def rmse(params, part):
        inputs, outputs = data[part]
        errors = np.asarray(run(params, inputs) - outputs, np.float64)[UNSCORED:]
        return millivolts * float(np.sqrt(np.mean(errors**2)))

    params = model.init(jax.random.key(options.seed))
    opt_state = optimizer.init(params)
    draw = np.random.default_rng(options.seed)
    begun, losses = time.perf_counter(), []
    for update in range(1, options.updates + 1):
        starts = draw.integers(0, len(xs) - span, options.batch)[:, None] + np.arange(span)
        params, opt_state, report = step(params, opt_state, xs[starts], ys[starts])
        losses.append(report.loss)
        if update % max(1, options.updates // 20) == 0:
            recent = millivolts * float(jnp.sqrt(jnp.mean(jnp.stack(losses[-100:]))))
            print(
                f"{name} {update:6d}  training {recent:6.2f} mV  "
                f"validation {rmse(params, 'validation'):6.2f} mV  "
                f"{time.perf_counter() - begun:5.0f} s",
                flush=True,
            )
    return {
        "rmse_mv": {test: round(rmse(params, test), 3) for test in TESTS},
        "validation_rmse_mv": round(rmse(params, "validation"), 3),
        "published_rmse_mv": dict(zip(TESTS, PUBLISHED[name], strict=True)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "options": {k: v for k, v in vars(options).items() if k not in ("data", "models")},
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "device": f"{device()}, jax {jax.__version__}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--span", type=int, default=512, help="scored samples of a window")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data, millivolts = read(options.data)
    for name in options.models:
        row = train(name, data, millivolts, options)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(rows | {name: row}, indent=1) + "\n")
        for test in TESTS:
            ours, theirs = row["rmse_mv"][test], row["published_rmse_mv"][test]
            print(f"{name:8} {test:24} {ours:7.3f} mV, published {theirs:6.2f} mV")


if __name__ == "__main__":
    main()
