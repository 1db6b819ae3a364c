"""Is the time of a series proportional to its length? time(2T) / time(T), about 2.

    python -m benchmarks.length       # writes benchmarks/results/length_jax_<version>_<device>.json

One series (B = 1) and H = 16: each step is small, so what a loop costs beside its arithmetic
shows. Of each cell the forward pass and the gradient of the sum of all outputs, to weights,
inputs and initial state; and `generate`. "plain scan" is JAX's own, h = tanh(h + x) of one unit.

Every T is timed in turn with the others, in one process; figures are medians, in milliseconds of
processor time (of all threads together), which other work on the machine does not stretch. The
loop is XLA's: other versions have other results.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
from jax import lax

import seqjax as sj
from benchmarks.machine import device, results_of
from benchmarks.timing import interleaved, rounded

LENGTHS = [2000 * 2**n for n in range(6)]
SIZE = 16
SYMBOLS = 16


def unrolled(kind: str, what: str, steps: int):
    cell = getattr(sj, kind)(SIZE, SIZE)
    params = cell.init(jax.random.key(0))
    at = params, jax.random.normal(jax.random.key(1), (steps, SIZE)), cell.initial_state(params)
    forward = lambda *at: sj.unroll(cell, *at)[1]
    gradient = jax.grad(lambda *at: jnp.sum(forward(*at)), (0, 1, 2))
    run = jax.jit({"forward": forward, "gradient": gradient}[what])
    return lambda: run(*at)


def generated(kind: str, steps: int):
    model = sj.stack(getattr(sj, kind)(SYMBOLS, SIZE), sj.dense(SIZE, SYMBOLS))
    params = model.init(jax.random.key(0))
    at = params, jnp.zeros(1, jnp.int32), jax.random.key(1)
    run = jax.jit(lambda params, prompt, key: sj.generate(model, params, prompt, steps, key=key))
    return lambda: run(*at)


def plain_scan(steps: int):
    def step(h, x):
        h = jnp.tanh(h + x)
        return h, h

    xs = jax.random.normal(jax.random.key(1), (steps,))
    run = jax.jit(lambda xs: lax.scan(step, 0.0, xs)[1])
    return lambda: run(xs)


def measure(cell: str, what: str, seconds: float) -> dict:
    make = {"plain scan": lambda _, steps: plain_scan(steps), "generate": generated}
    make = make.get(cell) or make.get(what) or (lambda cell, steps: unrolled(cell, what, steps))
    calls = {str(steps): make(cell, steps) for steps in LENGTHS}
    ms = interleaved(calls, seconds, time.process_time)
    ratios = {str(t): ms[str(2 * t)] / ms[str(t)] for t in LENGTHS[:-1]}
    row = {"cell": cell, "what": what, "ms": rounded(ms), "time(2T)/time(T)": rounded(ratios)}
    print(json.dumps(row), flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing for each row")
    options = parser.parse_args()
    grid = [(c, w) for c in ("rnn", "gru", "lstm") for w in ("forward", "gradient", "generate")]
    grid.append(("plain scan", "forward"))
    rows = [measure(cell, what, options.seconds) for cell, what in grid]
    report = {
        "device": device(),
        "jax": jax.__version__,
        "batch": 1,
        "size": SIZE,
        "lengths": LENGTHS,
        "seconds": options.seconds,
        "rows": rows,
    }
    results_of("length").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
