"""The gradient of a vmapped unroll against `jax.grad` of a plain scan over the same step.

    python benchmarks/gradient_floor.py          # writes benchmarks/results/gradient_floor.json

Both run in one process, in turn; the figures are medians, and their ratio is what to read. The
gradient is that of a weighted sum of all outputs, to parameters, inputs and initial state, of a
batch under `jax.vmap`, in float32; both are checked against each other first.
"""

import json
import pathlib
import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import seqjax as sj
from seqjax.cells import gru, lstm

# The floor itself first, then other sizes: (cell, T, B, I = H).
SIZES = [
    ("lstm", 128, 32, 256),
    ("lstm", 128, 32, 64),
    ("lstm", 1024, 1, 128),
    ("gru", 128, 32, 128),
    ("rnn", 128, 32, 256),
]


def gradients(name: str, time_steps: int, batch: int, size: int):
    cell = getattr(sj, name)(size, size)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (batch, time_steps, size))
    weights = jax.random.normal(jax.random.key(2), (batch, time_steps, size))
    state = cell.initial_state(params)

    def plain(params, xs, state):
        def step(state, x):
            # As written without seqjax: the whole step, matmuls included, in the loop.
            state = cell.activate(plain_preactivate(params, state, x), state)
            return state, state.h if name == "lstm" else state

        return lax.scan(step, state, xs)

    def plain_preactivate(params, state, x):
        h = state.h if name == "lstm" else state
        u = x @ params["kernel"] + params["bias"]
        r = h @ params["recurrent_kernel"]
        if name == "rnn":
            return u + r
        if name == "lstm":
            return lstm.Gates(*jnp.split(u + r, 4))
        (ur, uz, un), (rr, rz, rn) = jnp.split(u, 3), jnp.split(r, 3)
        m = rn + params["recurrent_bias"]
        return gru.GatesAfter(ur + rr, uz + rz, un, m)

    def compiled(run):
        def div(params, xs, state):
            ys = jax.vmap(lambda xs: run(params, xs, state)[1])(xs)
            return jnp.sum(ys * weights)

        return jax.jit(jax.grad(div, (0, 1, 2))).lower(params, xs, state).compile()

    ours = compiled(lambda *at: sj.unroll(cell, *at))
    return ours, compiled(plain), (params, xs, state)


def medians(functions, at, repeats: int = 21) -> list[float]:
    """Milliseconds of each, called in turn."""
    seconds: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 2):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function(*at))
            if repeat >= 2:
                seconds[number].append(time.perf_counter() - start)
    return [1e3 * float(np.median(s)) for s in seconds]


def main():
    rows = []
    for name, time_steps, batch, size in SIZES:
        ours, plain, at = gradients(name, time_steps, batch, size)
        pairs = zip(jax.tree.leaves(ours(*at)), jax.tree.leaves(plain(*at)), strict=True)
        error = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)
        if not error < 1e-4:
            sys.exit(f"{name}: the gradients differ by {error:.1e}")
        ours_ms, plain_ms = medians([ours, plain], at)
        memory = [f.memory_analysis().temp_size_in_bytes / 1e6 for f in (ours, plain)]
        rows.append(
            {
                "cell": name,
                "T": time_steps,
                "B": batch,
                "H": size,
                "seqjax_ms": round(ours_ms, 2),
                "plain_scan_ms": round(plain_ms, 2),
                "plain_over_seqjax": round(plain_ms / ours_ms, 2),
                "seqjax_temp_MB": round(memory[0], 1),
                "plain_scan_temp_MB": round(memory[1], 1),
                "relative_error": float(f"{error:.1e}"),
            }
        )
        print(*(f"{key} {value}" for key, value in rows[-1].items()), sep="  ", flush=True)
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpus = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    report = {
        "device": f"{jax.devices()[0].device_kind}; {len(cpus)} × {cpus[0] if cpus else '?'}",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "unit": "ms a gradient, medians of 21 interleaved runs; above 1.0 seqjax is faster",
        "rows": rows,
    }
    path = pathlib.Path(__file__).parent / "results" / "gradient_floor.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
