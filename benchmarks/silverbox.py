"""The Silverbox benchmark: free-run errors of our models beside the published ones.

    python -m benchmarks.silverbox DATA_FILE [--nets gru_4 gru_32 …] [--updates N] [--samples N]

DATA_FILE is SNLS80mV.csv (or its .gz) of the Silverbox benchmark, an electronic Duffing
oscillator (Wigren & Schoukens 2013): columns V1 (input) and V2 (output) in volts. The split is
the official one. Every model runs freely over a whole test record from the zero state, reading
the input alone; it never sees a measured output, neither in training nor in the tests.

Each test is scored twice, as root mean square error in mV:

- "all": everything from the first sample whose input lags lie inside the record, as the
  published figures were;
- "after 50": without the first 50 samples, as the benchmark recommends.

The published nets (Champneys et al. 2024) are small and were trained on the first half of the
training part, 32,531 samples; each is the best of ten starts in training. Ours are trained on
those samples too, at the sizes of the published nets and larger; all seeds of a net are trained
side by side, by one `jax.vmap`, and all of them are reported.

Writes benchmarks/results/silverbox.json, a row per net; rows of other nets are kept. The
committed rows: `--updates 20000 --learning-rate 0.01` for the nets of the published sizes, the
defaults for the larger ones.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.machine import RESULTS, device

FIGURES = RESULTS / "silverbox.json"
UNSCORED = 50
TESTS = ("multisine", "arrow", "arrow_no_extrapolation")
TRAINING_SAMPLES = 32_531  # half of the official training part

# RMSE in mV and sizes as published. "after 50" is known of the multisine test alone: both arrow
# tests hardly change.
PUBLISHED = {
    "gru": {"parameters": 93, "all": (1.49, 2.80, 0.95), "after 50": (1.135, None, None)},
    "lstm": {"parameters": 1233, "all": (1.50, 2.68, 0.96), "after 50": (1.108, None, None)},
    "rnn": {"parameters": 817, "all": (1.64, 4.88, 1.73), "after 50": (1.544, None, None)},
    "fir_mlp": {"parameters": 137, "all": (18.9, 20.2, 15.3), "after 50": (18.926, None, None)},
}


class Net(NamedTuple):
    """What is trained: its call, for the tables; how many input lags x(t), x(t-1), … it is fed."""

    kind: str
    call: str
    model: sj.Model
    lags: int = 1

    @property
    def incomplete(self) -> int:
        """How many samples at the start of a record have lags that lie before it."""
        field = self.model.receptive_field
        return self.lags - 1 + (int(field) - 1 if field < math.inf else 0)


def recurrent(kind: str, lags: int, units: int) -> Net:
    layer = getattr(sj, kind)(lags, units)
    return Net(kind, f"sj.{kind}({lags}, {units})", sj.stack(layer, sj.dense(units, 1)), lags)


def fir_mlp(delays: int, *sizes: int) -> Net:
    layers = [sj.tdnn(1, sizes[0], delays=range(delays), activation=jnp.tanh)]
    layers += [sj.dense(m, n, activation=jnp.tanh) for m, n in itertools.pairwise(sizes)]
    call = f"sj.tdnn(1, {sizes[0]}, delays=range({delays}))"
    call += "".join(f", sj.dense({m}, {n})" for m, n in itertools.pairwise(sizes))
    return Net("fir_mlp", call, sj.stack(*layers, sj.dense(sizes[-1], 1)))


# The published nets have 2 to 32 input lags and 2 to 32 units, powers of two
# (github.com/MDCHAMP/nonlinear_baselines): the first of each pair here has the only ones that make
# the published number of parameters. The published RNN has two biases, of which only the sum
# counts: hence its 817 parameters for our 801.
NETS = {
    "gru_4": recurrent("gru", 2, 4),
    "gru_32": recurrent("gru", 1, 32),
    "lstm_16": recurrent("lstm", 2, 16),
    "lstm_32": recurrent("lstm", 1, 32),
    "rnn_16": recurrent("rnn", 32, 16),
    "rnn_32": recurrent("rnn", 1, 32),
    "fir_mlp_4": fir_mlp(32, 4),
    "fir_mlp_64": fir_mlp(128, 64, 64),
}


def read(path: Path, samples: int):
    """{part: (inputs [T], outputs [T])}, in standard deviations of the training samples."""
    volts = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(0, 1))
    multisine, arrow = volts[40650:127400], volts[100:40575]
    cut = int(0.75 * len(multisine))
    mean, std = multisine[:samples].mean(0), multisine[:samples].std(0)
    parts = {
        "training": multisine[:samples],
        "validation": multisine[samples:cut],
        "multisine": multisine[cut:],
        "arrow": arrow,
        "arrow_no_extrapolation": arrow[:32_000],
    }
    scaled = {name: ((part - mean) / std).astype(np.float32) for name, part in parts.items()}
    return {name: (part[:, 0], part[:, 1]) for name, part in scaled.items()}, 1e3 * std[1]


def lagged(xs, lags: int):
    """[T, lags]: x(t), x(t-1), …; 0, the mean, before the record."""
    return jnp.stack([jnp.pad(xs, (k, 0))[: len(xs)] for k in range(lags)], axis=-1)


def train(net: Net, data, millivolts, options):
    model = net.model
    xs, ys = lagged(data["training"][0], net.lags), jnp.asarray(data["training"][1])[:, None]
    # In training, too, nothing is scored that depends on what lies before a window.
    unscored = max(UNSCORED, net.incomplete)
    span = options.span + unscored

    def predict(params, xs):
        return sj.unroll(model, params, xs)[1]

    def loss(params, xs, ys):
        errors = jax.vmap(predict, (None, 0))(params, xs) - ys
        return jnp.mean(errors[:, unscored:] ** 2)

    warm_up = options.updates // 20
    rate = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warm_up, options.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    # Called from a Python loop: XLA:CPU computes a convolution inside a loop of its own slowly.
    @jax.jit
    def update(params, opt_state, keys, number):
        return jax.vmap(update_one, (0, 0, 0, None))(params, opt_state, keys, number)

    def update_one(params, opt_state, key, number):
        key = jax.random.fold_in(key, number)
        starts = jax.random.randint(key, (options.batch, 1), 0, len(xs) - span + 1)
        at = starts + jnp.arange(span)[None]
        value, grads = jax.value_and_grad(loss)(params, xs[at], ys[at])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    run = jax.jit(jax.vmap(predict, (0, None)))

    def rmse(params, part, begin):
        """[seeds], in mV."""
        inputs, outputs = data[part]
        errors = (
            np.asarray(run(params, lagged(inputs, net.lags)), np.float64)[..., 0] - outputs[None]
        )
        found = millivolts * np.sqrt(np.mean(errors[:, begin:] ** 2, axis=1))
        return [round(float(each), 3) for each in found]

    begun = time.perf_counter()
    keys = jax.vmap(jax.random.key)(jnp.arange(options.seeds))
    params = jax.vmap(model.init)(keys)
    opt_state = jax.vmap(optimizer.init)(params)
    losses = []
    for number in range(options.updates):
        params, opt_state, value = update(params, opt_state, keys, number)
        losses.append(value)
        if (number + 1) % max(1, options.updates // 20) == 0:
            recent = millivolts * float(jnp.sqrt(jnp.mean(jnp.stack(losses[-100:]))))
            print(
                f"{net.call} {number + 1:6d}  training {recent:6.2f} mV  "
                f"validation {rmse(params, 'validation', UNSCORED)} mV  "
                f"{time.perf_counter() - begun:5.0f} s",
                flush=True,
            )
    scorings = {"all": net.incomplete, "after 50": UNSCORED}
    published = PUBLISHED[net.kind]
    return {
        "kind": net.kind,
        "call": net.call,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)) // options.seeds,
        "rmse_mv": {
            scoring: {test: rmse(params, test, begin) for test in TESTS}
            for scoring, begin in scorings.items()
        },
        "validation_rmse_mv": rmse(params, "validation", UNSCORED),
        "published_parameters": published["parameters"],
        "published_rmse_mv": {
            scoring: dict(zip(TESTS, published[scoring], strict=True)) for scoring in scorings
        },
        "options": {k: v for k, v in vars(options).items() if k not in ("data", "nets")},
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "device": f"{device()}, jax {jax.__version__}",
    }


def table(rows: dict) -> str:
    """In Markdown: the published net of each kind, then ours; "all / after 50", mean ± sd.

    In bold: every seed is better than the published net under the same scoring.
    """
    head = ["", "parameters", "trained on", "multisine", "arrow", "arrow, no extrapolation"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    names = {"gru": "GRU", "lstm": "LSTM", "rnn": "RNN", "fir_mlp": "FIR-MLP"}
    for kind, name in names.items():
        ours = [row for row in rows.values() if row["kind"] == kind]
        theirs = ours[0]["published_rmse_mv"]
        cells = [" / ".join(known(of[test]) for of in theirs.values()) for test in TESTS]
        size = f"{ours[0]['published_parameters']:,}", f"{TRAINING_SAMPLES:,}"
        lines.append("| " + " | ".join([f"published {name}", *size, *cells]) + " |")
        for row in ours:
            found = row["rmse_mv"]
            cells = [
                " / ".join(beside(found[rule][test], theirs[rule][test]) for rule in found)
                for test in TESTS
            ]
            size = f"{row['parameters']:,}", f"{row['options']['samples']:,}"
            lines.append("| " + " | ".join([f"`{row['call']}`", *size, *cells]) + " |")
    return "\n".join(lines)


def known(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def beside(values: list[float], published: float | None) -> str:
    better = published is not None and max(values) < published
    return f"**{spread(values)}**" if better else spread(values)


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--updates", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--span", type=int, default=512, help="scored samples of a window")
    parser.add_argument("--samples", type=int, default=TRAINING_SAMPLES, help="to train on")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data, millivolts = read(options.data, options.samples)
    for name in options.nets:
        row = train(NETS[name], data, millivolts, options)
        rows = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        rows = {each: rows[each] for each in rows if each in NETS} | {name: row}
        rows = {each: rows[each] for each in NETS if each in rows}
        FIGURES.write_text(json.dumps(rows, indent=1) + "\n")
        for scoring, found in row["rmse_mv"].items():
            theirs = row["published_rmse_mv"][scoring]
            for test in TESTS:
                print(f"{name:10} {scoring:8} {test:24} {spread(found[test])} mV, "
                      f"published {theirs[test]}")  # fmt: skip


if __name__ == "__main__":
    main()
