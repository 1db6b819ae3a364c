"""A block of models of models against the same written by hand.

    python -m benchmarks.block      # writes benchmarks/results/block_jax_<version>_<device>.json

The block is [layer norm, recurrence, gated linear unit, +], the input added at the end. By hand
the norm, the product and the gate are plain JAX around `sj.unroll` of the cell, or around a
`lax.scan` of its step. Forward and gradient (by parameters and inputs) of a vmapped batch, all in
turn in one process; of the compiled program the temporary memory.

Times are CPU time of the process, all threads together: they do not depend on what else the
machine does, and say nothing of how well the threads share the work.
"""

import argparse
import json
import time
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

import seqjax as sj
from benchmarks.machine import device, results_of
from benchmarks.timing import interleaved, rounded

CELLS = ("gru", "lstm")
GRID = ((128, 32, 64), (256, 64, 32), (512, 8, 128))  # T, B, F


def normalized(params, x):
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centered * centered, axis=-1, keepdims=True)
    return params["scale"] * centered * lax.rsqrt(variance + 1e-5) + params["bias"]


def ways(cell, size):
    """The block, and two functions `(params, xs) -> ys` of one series that compute the same."""
    block = sj.residual(sj.stack(sj.layer_norm(size), cell, sj.dense(size, 2 * size), jax.nn.glu))

    def around(recurrence):
        def run(params, xs):
            norm, of_cell, dense, _ = params
            hs = recurrence(of_cell, normalized(norm, xs))
            return xs + jax.nn.glu(hs @ dense["kernel"] + dense["bias"])

        return run

    def scan(params, xs):
        return lax.scan(partial(cell.step, params), cell.initial_state(params), xs)[1]

    return block, {
        "models": lambda params, xs: sj.unroll(block, params, xs)[1],
        "by hand, unroll": around(lambda params, xs: sj.unroll(cell, params, xs)[1]),
        "by hand, lax.scan": around(scan),
    }


def measure(kind, shape, seconds):
    steps, batch, size = shape
    block, runs = ways(getattr(sj, kind)(size, size), size)
    params = block.init(jax.random.key(0))
    xs, weights = jax.random.normal(jax.random.key(1), (2, batch, steps, size))
    for what in ("forward", "gradient"):
        calls, memory = {}, {}
        for name, run in runs.items():
            batched = jax.vmap(run, (None, 0))
            loss = lambda params, xs, batched=batched: jnp.sum(weights * batched(params, xs))
            function = batched if what == "forward" else jax.grad(loss, (0, 1))
            program = jax.jit(function).lower(params, xs).compile()
            calls[name] = partial(program, params, xs)
            memory[name] = program.memory_analysis().temp_size_in_bytes / 1e6
        ms = interleaved(calls, seconds, time.process_time)
        best = min(time for name, time in ms.items() if name != "models")
        yield {
            "cell": kind,
            "shape": list(shape),
            "what": what,
            "cpu_ms": rounded(ms),
            "temp_mb": rounded(memory),
            "models/best by hand": round(ms["models"] / best, 3),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each row")
    options = parser.parse_args()
    rows = []
    for kind in CELLS:
        for shape in GRID:
            for row in measure(kind, shape, options.seconds):
                rows.append(row)
                print(row, flush=True)
    report = {"device": device(), "jax": jax.__version__, "seqjax": sj.__version__, "rows": rows}
    results_of("block").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
