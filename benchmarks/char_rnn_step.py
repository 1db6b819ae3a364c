"""A whole update of examples/char_rnn.py, beside the same in the other libraries.

    python -m benchmarks.char_rnn_step      # writes into benchmarks/results

An embedding of 64, two layers of 128 LSTM units and a readout of 96 characters, 32 streams of 64
characters: forward, cross entropy, gradient, clipping by norm and Adam, in one call that returns
the new parameters, the state of the optimizer and the final states. The recurrent layers are those
of `compare`, each library's own; embedding, readout, loss and update of every library on JAX are
the same lines. Before any timing, the gradients are checked to be equal.

As in `compare`, a CPU is as many devices as it has cores, each library on JAX counts at its better
of one and all of them, and PyTorch has a thread for each core.

Before that the example itself is run as its users start it, on one core and on all of them in turn:
the characters per second that it says, medians.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import seqjax as sj
from benchmarks import compare, peers
from benchmarks.machine import cores, device, results_of
from benchmarks.timing import interleaved, rounded

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "char_rnn.py"
VOCABULARY, FEATURES, HIDDEN, BATCH, STEPS = 96, 64, 128, 32, 64
CLIP, RATE = 1.0, 2e-3
LIBRARIES = ("seqjax", "plain scan", "flax nnx", "equinox", "haiku", "keras")


def draw():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape) * 0.1, jnp.float32)
    layers = [
        {"kernel": normal(i, 4 * HIDDEN), "recurrent_kernel": normal(HIDDEN, 4 * HIDDEN)}
        | {"bias": normal(4 * HIDDEN)}
        for i in (FEATURES, HIDDEN)
    ]
    weights = {
        "embed": normal(VOCABULARY, FEATURES),
        "layers": layers,
        "readout": {"kernel": normal(HIDDEN, VOCABULARY), "bias": normal(VOCABULARY)},
    }
    states = [[normal(BATCH, HIDDEN), normal(BATCH, HIDDEN)] for _ in layers]
    tokens = jnp.asarray(rng.integers(0, VOCABULARY, (BATCH, STEPS + 1)), jnp.int32)
    return weights, states, tokens


def of_seqjax():
    """The model as examples/char_rnn.py makes it."""
    model = sj.stack(
        sj.embed(VOCABULARY, FEATURES),
        sj.lstm(FEATURES, HIDDEN),
        sj.lstm(HIDDEN, HIDDEN),
        sj.dense(HIDDEN, VOCABULARY),
    )

    def logits(params, tokens, states):
        states = ((), *(sj.LSTMState(*state) for state in states), ())
        run = lambda tokens, state: sj.unroll(model, params, tokens, state)[1]
        return jax.vmap(run)(tokens, states)

    def convert(weights):
        return {"kernel": weights["embed"]}, *weights["layers"], weights["readout"]

    return logits, convert


def of_library(name, weights):
    layers = [peers.JAX_PEERS[name]("lstm", layer) for layer in weights["layers"]]

    def logits(params, tokens, states):
        ys = params["embed"][tokens]
        for layer, of_layer, state in zip(layers, params["layers"], states, strict=True):
            ys = layer.apply(of_layer, ys, state)
        return ys @ params["readout"]["kernel"] + params["readout"]["bias"]

    def convert(weights):
        pairs = zip(layers, weights["layers"], strict=True)
        return weights | {"layers": [layer.convert(w) for layer, w in pairs]}

    return logits, convert


def training(logits):
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))

    def loss(params, tokens, states):
        scores = logits(params, tokens[:, :-1], states)
        return optax.softmax_cross_entropy_with_integer_labels(scores, tokens[:, 1:]).mean()

    def update(params, opt_state, tokens, states):
        value, grads = jax.value_and_grad(loss)(params, tokens, states)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return optimizer, loss, update


class Torch:
    """PyTorch's fused layers, its own autograd and its own Adam."""

    def __init__(self, weights, states, tokens):
        as_torch = lambda a: torch.tensor(jax.device_get(a))
        self.embed = torch.nn.Embedding(VOCABULARY, FEATURES)
        self.lstms = [torch.nn.LSTM(i, HIDDEN, batch_first=True) for i in (FEATURES, HIDDEN)]
        self.readout = torch.nn.Linear(HIDDEN, VOCABULARY)
        with torch.no_grad():
            self.embed.weight.copy_(as_torch(weights["embed"]))
            for lstm, layer in zip(self.lstms, weights["layers"], strict=True):
                lstm.weight_ih_l0.copy_(as_torch(layer["kernel"].T))
                lstm.weight_hh_l0.copy_(as_torch(layer["recurrent_kernel"].T))
                lstm.bias_ih_l0.copy_(as_torch(layer["bias"]))
                lstm.bias_hh_l0.zero_().requires_grad_(False)
            self.readout.weight.copy_(as_torch(weights["readout"]["kernel"].T))
            self.readout.bias.copy_(as_torch(weights["readout"]["bias"]))
        parts = (self.embed, *self.lstms, self.readout)
        self.params = [p for part in parts for p in part.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.params, lr=RATE)
        self.tokens = as_torch(tokens).long()
        self.states = [[as_torch(leaf)[None] for leaf in state] for state in states]

    def backward(self):
        ys = self.embed(self.tokens[:, :-1])
        for lstm, state in zip(self.lstms, self.states, strict=True):
            ys = lstm(ys, tuple(state))[0]
        scores = self.readout(ys).flatten(0, 1)
        self.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores, self.tokens[:, 1:].flatten()).backward()

    def gradients(self):
        """In the structure of the shared weights."""
        self.backward()
        of = lambda parameter: parameter.grad.numpy()
        layers = [
            {"kernel": of(lstm.weight_ih_l0).T, "recurrent_kernel": of(lstm.weight_hh_l0).T}
            | {"bias": of(lstm.bias_ih_l0)}
            for lstm in self.lstms
        ]
        readout = {"kernel": of(self.readout.weight).T, "bias": of(self.readout.bias)}
        return {"embed": of(self.embed.weight), "layers": layers, "readout": readout}

    def update(self):
        self.backward()
        torch.nn.utils.clip_grad_norm_(self.params, CLIP)
        self.optimizer.step()


def of_example(steps: int, rounds: int) -> dict[str, float]:
    """Characters per second of the example, on one core and on all that there are."""
    every = os.sched_getaffinity(0)
    where, speeds = {"one": {min(every)}, "all": every}, {"one": [], "all": []}
    for name in [*where] * rounds:
        os.sched_setaffinity(0, where[name])  # the example inherits it
        with tempfile.TemporaryDirectory() as out:
            options = ["--steps", str(steps), "--eval-every", str(steps), "--out", out]
            run = [sys.executable, str(EXAMPLE), *options]
            said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        found = re.search(r"validation, ([\d,]+)\s+chars/s", said)
        if found is None:
            raise RuntimeError(f"{EXAMPLE.name}: expected it to say its chars/s, got {said}")
        speeds[name].append(int(found[1].replace(",", "")))
    os.sched_setaffinity(0, every)
    return {name: statistics.median(of) for name, of in speeds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing")
    option = parser.add_argument
    option("--steps", type=int, default=120, help="of each run of the example")
    option("--rounds", type=int, default=5, help="of these runs")
    options = parser.parse_args()
    example = of_example(options.steps, options.rounds)
    jax.config.update("jax_num_cpu_devices", cores())
    weights, states, tokens = draw()
    calls, expected = {}, None
    for name in LIBRARIES:
        logits, convert = of_seqjax() if name == "seqjax" else of_library(name, weights)
        optimizer, loss, update = training(logits)
        # In terms of the weights that all share: each library's are a linear function of them.
        through = lambda w, loss=loss, convert=convert: loss(convert(w), tokens, states)
        grads = jax.grad(through)(weights)
        expected = grads if expected is None else expected
        compare.check_equal(name, grads, expected)
        params = convert(weights)
        at = params, optimizer.init(params), tokens, states
        compiled = jax.jit(update).lower(*at).compile()
        calls[name, "one"] = lambda compiled=compiled, at=at: compiled(*at)
        devices = sj.train.data_parallel()
        at = (*devices.everywhere(at[:2]), *devices.split(at[2:]))
        compiled = jax.jit(update).lower(*at).compile()
        calls[name, "all"] = lambda compiled=compiled, at=at: compiled(*at)
    of_torch = Torch(weights, states, tokens)
    compare.check_equal("torch", of_torch.gradients(), expected)
    calls["torch", "all"] = of_torch.update
    times = interleaved(calls, options.seconds)
    on = lambda which: rounded({name: t for (name, w), t in times.items() if w == which})
    better = {n: min(t for (m, _), t in times.items() if m == n) for n, _ in times}
    report = {
        "device": device(),
        "devices": jax.device_count(),
        "versions": {name: version(name) for name in compare.LIBRARIES},
        "characters/s of the example": rounded(example),
        "ms, one device": on("one"),
        "ms, all cores": on("all"),
        "relative to seqjax": rounded({n: t / better["seqjax"] for n, t in better.items()}),
    }
    print(json.dumps(report, indent=1))
    results_of("char_rnn_step").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
