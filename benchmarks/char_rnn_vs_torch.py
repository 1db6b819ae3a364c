"""Does seqjax learn what PyTorch learns? The same character model, trained by both.

    python benchmarks/char_rnn_vs_torch.py TEXT_FILE     # needs: pip install torch

Two LSTM layers and a dense readout predict the next character, by truncated BPTT with
carried state. Everything that steers the training is the same on both sides: the sizes, the
distribution of the first parameters, U(±1/√H), the text and the order in which it is read,
Adam, its learning rates, the clipping of the gradient, the number of updates. What differs
are the random numbers, and that torch has two biases per gate, of which the sum counts (and
is drawn wider, and learns twice as fast). So the losses must agree up to the noise of the seed.
The third row takes that noise away: torch from the same first parameters, one bias frozen at 0.

Writes benchmarks/results/char_rnn_vs_torch.json. The seconds are those of the machine as it
was, its other work included: they are no benchmark of speed.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    import torch
except ImportError:
    sys.exit("This comparison needs PyTorch: pip install torch")

ROOT = Path(__file__).resolve().parent.parent
HIDDEN, BATCH, SPAN = 128, 32, 64  # SPAN: the characters of a stream read in one update
LEARNING_RATE, CLIP = 1e-2, 1.0


def read(path: Path):
    """Training and validation streams, [BATCH, S] each, and the size of the alphabet."""
    text = path.read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    symbols = np.searchsorted(alphabet, list(text)).astype(np.int32)
    cut = int(0.9 * len(symbols))
    streams = lambda part: part[: len(part) // BATCH * BATCH].reshape(BATCH, -1)
    return streams(symbols[:cut]), streams(symbols[cut:]), len(alphabet)


def pieces(streams, count=None):
    """[BATCH, SPAN + 1] after another, and whether the streams begin (again) with it."""
    per_epoch = (streams.shape[1] - 1) // SPAN
    for number in range(per_epoch if count is None else count):
        at = number % per_epoch * SPAN
        yield streams[:, at : at + SPAN + 1], at == 0


def rate(update: int, updates: int) -> float:
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * update / updates))


def make_model(size):
    return sj.stack(sj.lstm(size, HIDDEN), sj.lstm(HIDDEN, HIDDEN), sj.dense(HIDDEN, size))


def train_seqjax(train, val, size, updates, seed):
    model = make_model(size)
    adjoint = sj.BPTT(store="preactivations")

    def loss(params, states, symbols):
        xs = jax.nn.one_hot(symbols[:, :-1], size)
        read = lambda state, xs: sj.unroll(model, params, xs, state, adjoint=adjoint)
        states, logits = jax.vmap(read)(states, xs)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, symbols[:, 1:])
        return nats.mean(), states

    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, updates)),
    )
    step = sj.train.make_step(loss, optimizer, has_aux=True)
    params = model.init(jax.random.key(seed))
    zero = model.initial_state(params)
    zero = jax.tree.map(lambda leaf: jnp.zeros((BATCH, *leaf.shape), leaf.dtype), zero)
    opt_state = optimizer.init(params)
    for symbols, begins in pieces(train, updates):
        states = zero if begins else states  # noqa: F821
        params, opt_state, report = step(params, opt_state, states, symbols)
        states = report.aux

    evaluate, losses = jax.jit(loss), []
    for symbols, begins in pieces(val):
        value, states = evaluate(params, zero if begins else states, symbols)
        losses.append(float(value))
    return float(np.mean(losses))


def train_torch(train, val, size, updates, seed, same_start=False):
    torch.manual_seed(seed)
    lstm = torch.nn.LSTM(size, HIDDEN, num_layers=2, batch_first=True)
    dense = torch.nn.Linear(HIDDEN, size)  # both draw from U(±1/√HIDDEN)
    if same_start:
        copy_parameters(make_model(size).init(jax.random.key(seed)), lstm, dense)
    params = [p for p in [*lstm.parameters(), *dense.parameters()] if p.requires_grad]
    optimizer = torch.optim.Adam(params, lr=LEARNING_RATE)

    def loss(states, symbols):
        symbols = torch.from_numpy(symbols.astype(np.int64))
        xs = torch.nn.functional.one_hot(symbols[:, :-1], size).float()
        hs, states = lstm(xs, states)
        nats = torch.nn.functional.cross_entropy(dense(hs).flatten(0, 1), symbols[:, 1:].flatten())
        return nats, tuple(state.detach() for state in states)

    states = None
    for number, (symbols, begins) in enumerate(pieces(train, updates)):
        optimizer.param_groups[0]["lr"] = rate(number, updates)
        value, states = loss(None if begins else states, symbols)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()

    losses = []
    with torch.no_grad():
        for symbols, begins in pieces(val):
            value, states = loss(None if begins else states, symbols)
            losses.append(float(value))
    return float(np.mean(losses))


def copy_parameters(params, lstm, dense):
    """Gives torch the parameters of seqjax; its second bias of each gate is 0, and stays so."""
    transposed = lambda a: torch.from_numpy(np.array(a).T)
    with torch.no_grad():
        for layer in (0, 1):
            new = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias"}
            for name, ours in new.items():
                getattr(lstm, f"{name}_l{layer}").copy_(transposed(params[layer][ours]))
            getattr(lstm, f"bias_hh_l{layer}").zero_().requires_grad_(False)
        dense.weight.copy_(transposed(params[2]["kernel"]))
        dense.bias.copy_(transposed(params[2]["bias"]))


def train_torch_same_start(*args):
    return train_torch(*args, same_start=True)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


RUNS = {
    "seqjax": train_seqjax,
    "torch": train_torch,
    "torch, same start": train_torch_same_start,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
    parser.add_argument("text", nargs="?", type=Path, default=default, help="a text file")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "char_rnn_vs_torch.json"
    )
    options = parser.parse_args()
    if not options.text.is_file():
        print(f"no text at {options.text}: give one as argument; nothing was compared")
        return
    torch.set_num_threads(options.threads)
    train, val, size = read(options.text)

    results = {}
    for seed in range(options.seeds):
        for name, run in RUNS.items():
            start = time.perf_counter()
            nats = run(train, val, size, options.updates, seed)
            seconds = time.perf_counter() - start
            result = results.setdefault(name, {"val_nats_per_char": [], "seconds": []})
            result["val_nats_per_char"].append(round(nats, 5))
            result["seconds"].append(round(seconds, 1))
            print(f"{name:17} seed {seed}: {nats:.4f} nats/char, {seconds:.0f} s", flush=True)

    for name, result in results.items():
        nats = result["val_nats_per_char"]
        result["mean"] = round(statistics.mean(nats), 5)
        result["sd"] = round(statistics.stdev(nats), 5) if len(nats) > 1 else None
        print(f"{name:17} {result['mean']:.4f} ± {result['sd']} nats/char in validation")
    report = {
        "task": "next character; validation loss in nats per character, at the last update",
        "text": {"file": options.text.name, "training": train.size, "validation": val.size},
        "device": f"{cpu_name()}; torch on {options.threads} thread(s)",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "seqjax": sj.__version__,
            "torch": torch.__version__,
        },
        "budget": {
            "layers": 2,
            "hidden_size": HIDDEN,
            "batch_size": BATCH,
            "seq_length": SPAN,
            "updates": options.updates,
            "optimizer": f"Adam, {LEARNING_RATE} decaying to 0 by a cosine, norm clipped at {CLIP}",
            "characters_read": options.updates * BATCH * SPAN,
        },
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
