"""Memory and time of the gradient as the series gets longer, and of each way to store it.

    python -m benchmarks.memory       # writes benchmarks/results/memory_jax_<version>_<device>.json

First T grows sixty-fourfold: temporary memory and time of `BPTT()`, of a plain `lax.scan` and of
flax nnx. Then T = 100,000, for each `store` with chunks of √T steps, and for every other library;
and four series of 20,000 steps of a GRU, where `BPTT()` chooses to store the states. The gradient
is that of a weighted sum of all outputs, to weights, inputs and initial state; temporary memory is
what the compiled program asks for beside its arguments and results (of PyTorch it is not known).
"""

import argparse
import json
import math

import jax

import seqjax as sj
from benchmarks import compare, networks, peers
from benchmarks.machine import device, results_of
from benchmarks.timing import interleaved, rounded

BATCH, SIZE = 8, 64
LENGTHS = [64 * 4**n for n in range(4)]
LONG = 100_000
OTHERS = ("plain scan", "flax nnx", "equinox", "haiku", "keras")


def gradients(kind: str, variants: dict, steps: int, batch: int):
    """{name: (call, temporary MB)} for peers at one size. (That all agree, `compare` checks.)"""
    problem = networks.draw(kind, "one layer", steps, batch, SIZE)
    (weights,), (state,), xs = problem.weights, problem.state, problem.xs
    found = {}
    for name, make in variants.items():
        if make is networks.Torch:
            found[name] = networks.Torch(problem).gradient, None
            continue
        peer = make(kind, weights)
        at = (peer.convert(weights), xs, state)
        compiled = jax.jit(compare.gradient_of(peer.apply, problem.cotangent)).lower(*at).compile()
        megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
        found[name] = (lambda compiled=compiled, at=at: compiled(*at)), megabytes
    return found


def row(kind, variants, steps, batch, seconds):
    built = gradients(kind, variants, steps, batch)
    ms = interleaved({name: call for name, (call, _) in built.items()}, seconds)
    figures = {
        "cell": kind,
        "steps": steps,
        "batch": batch,
        "size": SIZE,
        "ms": rounded(ms),
        "temp_mb": rounded({name: mb for name, (_, mb) in built.items() if mb is not None}),
    }
    print(json.dumps(figures), flush=True)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each row")
    options = parser.parse_args()
    by_adjoint = lambda adjoint: lambda kind, w: peers.seqjax_peer(kind, w, adjoint)
    growing = {name: peers.JAX_PEERS[name] for name in ("seqjax", "plain scan", "flax nnx")}
    root = math.isqrt(LONG)
    stored = {
        "BPTT()": by_adjoint(sj.BPTT()),
        "whole series, preactivations": by_adjoint(sj.BPTT(chunk=LONG, store="preactivations")),
        "chunks of √T, preactivations": by_adjoint(sj.BPTT(chunk=root, store="preactivations")),
        "chunks of √T, states": by_adjoint(sj.BPTT(chunk=root, store="states")),
        "chunks of √T, chunk_starts": by_adjoint(sj.BPTT(chunk=root, store="chunk_starts")),
        **{name: make for name, make in peers.JAX_PEERS.items() if name in OTHERS},
        "torch": networks.Torch,
    }
    of_few_series = {
        "BPTT()": by_adjoint(sj.BPTT()),
        **{store: by_adjoint(sj.BPTT(store=store)) for store in ("states", "preactivations")},
        "plain scan": peers.plain_scan,
    }
    report = {
        "device": device(),
        "jax": jax.__version__,
        "growing": [row("lstm", growing, steps, BATCH, options.seconds) for steps in LENGTHS],
        "long": row("lstm", stored, LONG, 1, 5 * options.seconds),
        "few series": row("gru", of_few_series, 20_000, 4, 5 * options.seconds),
    }
    results_of("memory").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
