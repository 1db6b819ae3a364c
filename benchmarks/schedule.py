"""The gradient by chunk and by store: where `seqjax.engine.adjoint.schedule` comes from.

    python -m benchmarks.schedule     # writes benchmarks/results/schedule_….json

For each cell and size, milliseconds of the gradient of a vmapped unroll for every chunk and both
stores, interleaved in one process; "auto" is what `BPTT()` chooses.
"""

import argparse
import json

import jax

import seqjax as sj
from benchmarks import compare, networks, peers
from benchmarks.machine import device, results_of
from benchmarks.timing import interleaved, rounded

CHUNKS = (8, 16, 32, 64, 128, 10**6)


def measure(kind, shape, seconds):
    problem = networks.draw(kind, "one layer", *shape)
    (weights,), (state,), xs = problem.weights, problem.state, problem.xs
    adjoints = {"auto": sj.BPTT()}
    for store in ("states", "preactivations"):
        for chunk in CHUNKS:
            if chunk < shape[0] or chunk == CHUNKS[-1]:
                name = "whole" if chunk == CHUNKS[-1] else str(chunk)
                adjoints[f"{store}, {name}"] = sj.BPTT(chunk=chunk, store=store)
    calls, memory = {}, {}
    for name, adjoint in adjoints.items():
        peer = peers.seqjax_peer(kind, weights, adjoint)
        at = (peer.convert(weights), xs, state)
        compiled = jax.jit(compare.gradient_of(peer.apply, problem.cotangent)).lower(*at).compile()
        calls[name] = lambda compiled=compiled, at=at: compiled(*at)
        memory[name] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    ms = interleaved(calls, seconds)
    return {
        "cell": kind,
        "shape": list(shape),
        "ms": rounded(ms),
        "temp_mb": rounded(memory),
        "auto/best": round(ms["auto"] / min(ms.values()), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each row")
    parser.add_argument("--cells", nargs="+", choices=peers.GATES, default=list(peers.GATES))
    options = parser.parse_args()
    rows = []
    for kind in options.cells:
        for shape in compare.GRID:
            row = measure(kind, shape, options.seconds)
            rows.append(row)
            best = min(row["ms"], key=row["ms"].get)
            print(kind, shape, "best:", best, row["ms"][best], "auto:", row["ms"]["auto"],
                  "auto/best", row["auto/best"], flush=True)  # fmt: skip
    report = {"device": device(), "jax": jax.__version__, "rows": rows}
    results_of("schedule").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
