"""seqjax beside flax nnx, Equinox, Haiku, Keras and PyTorch: time, memory, compilation.

    pip install -e '.[bench]'
    python -m benchmarks.compare                  # all of it; writes benchmarks/results/
    python -m benchmarks.compare --cells lstm     # these rows anew, the others stay
    python -m benchmarks.compare --devices 1 --dry  # one device alone

Every library holds the same weights, and is used as its own documentation says, on batch-first
data; seqjax is written for one series and batched by `jax.vmap`. Before any timing the
outputs and the gradients (to weights, inputs and initial state) are checked to be equal. All
libraries are timed in one process, one call of each in turn; the figures are medians.

A CPU is as many devices as it has cores. Each library on JAX is timed on one of them and, if they
divide the batch, with the batch split over all of them and the weights on each: nothing else of
the program changes. Each counts at its better of the two. PyTorch has a thread for each core.

The gradient is that of a weighted sum of all outputs, to weights, inputs and initial state.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from benchmarks import networks, peers
from benchmarks.machine import cores, device, results_of
from benchmarks.report import draw, summary, table
from benchmarks.timing import interleaved, rounded

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "images"
GRID = [  # T, B, I = H
    (128, 32, 64),
    (128, 32, 128),
    (128, 32, 256),
    (1024, 1, 32),
    (1024, 1, 128),
    (96, 128, 128),
    (64, 8, 512),
    (2048, 1, 16),
    (512, 4, 32),
    (256, 64, 128),
]
NETWORKS = [
    ("ragged", (128, 32, 128)),
    ("two layers", (128, 32, 128)),
    ("two layers", (64, 32, 128)),  # as in examples/char_rnn.py
    ("three layers", (128, 32, 256)),
    ("two directions", (128, 32, 128)),
]
GPU_GRID = [*GRID, (1024, 16, 768)]
LIBRARIES = ("jax", "jaxlib", "flax", "equinox", "dm-haiku", "keras", "torch", "seqjax")


def gradient_of(apply: Callable, cotangent) -> Callable:
    return lambda *at: gradient_at(apply)(*at, cotangent)


def gradient_at(apply: Callable) -> Callable:
    """Of a weighted sum of the outputs: (params, xs, state, weights of the outputs) -> gradient."""
    return jax.grad(lambda *at: jnp.sum(apply(*at[:3]) * at[3]), (0, 1, 2))


def split(params, *batched):
    """The arguments with the batch split over all devices; None if it can not be."""
    number = jax.device_count()
    if number == 1 or batched[0].shape[0] % number:
        return None
    devices = sj.train.data_parallel()
    return devices.everywhere(params), *devices.split(batched)


def check_equal(name: str, ours, theirs, limit: float = 2e-3):
    """Relative to the largest element: float32 over T steps, in another order of summation."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        error = float(np.abs(np.asarray(a) - np.asarray(b)).max()) / float(np.abs(b).max())
        if not error < limit:
            raise AssertionError(f"{name}: expected what a plain scan gives, off by {error:.1e}")


def measure(kind: str, network: str, shape: tuple, seconds: float) -> list:
    """Two rows: forward alone, and the gradient."""
    steps, batch, size = shape
    problem = networks.draw(kind, network, *shape)
    weights, xs, state, cotangent = problem.weights, problem.xs, problem.state, problem.cotangent
    built = {name: networks.build(name, problem) for name in peers.JAX_PEERS}
    built = {name: peer for name, peer in built.items() if peer is not None}
    torch = networks.Torch(problem)

    truth = built["plain scan"]
    ys = jax.jit(truth.apply)(weights, xs, state)
    grads = jax.jit(gradient_of(truth.apply, cotangent))(weights, xs, state)
    for name, peer in built.items():
        through = lambda w, xs, s, peer=peer: peer.apply(peer.convert(w), xs, s)
        check_equal(name, jax.jit(through)(weights, xs, state), ys)
        for at in (weights, xs, state, cotangent), split(weights, xs, state, cotangent):
            if at is not None:
                check_equal(name, jax.jit(gradient_at(through))(*at), grads)
    check_equal("torch", torch.forward().cpu().numpy(), ys)
    check_equal("torch", torch.gradient_of_weights(), grads)

    matmul = 2 * steps * batch * 2 * size * peers.GATES[kind] * size * len(weights)
    rows = []
    for what, flops in (("forward", matmul), ("gradient", 3 * matmul)):
        calls: dict[str, Callable] = {}
        memory, compiling = {}, {}
        for name, peer in built.items():
            function = peer.apply if what == "forward" else gradient_at(peer.apply)
            at = (peer.convert(weights), xs, state, cotangent)[: 3 + (what == "gradient")]
            jax.clear_caches()  # or what was compiled to be checked costs nothing here
            lowered = jax.jit(function).lower(*at)
            begun = time.perf_counter()
            compiled = lowered.compile()
            compiling[name] = time.perf_counter() - begun
            memory[name] = compiled.memory_analysis().temp_size_in_bytes / 1e6
            calls[name] = lambda compiled=compiled, at=at: compiled(*at)
            over_all = split(*at)
            if over_all is not None and name != "natively batched":
                compiled = jax.jit(function).lower(*over_all).compile()
                calls[name, "all"] = lambda compiled=compiled, at=over_all: compiled(*at)
        calls["torch"] = getattr(torch, what)
        times = interleaved(calls, seconds)
        ms = {name: times[name] for name in (*built, "torch")}
        ms_all = {name: times[name, "all"] for name in built if (name, "all") in times}
        better = ms | {name: min(ms[name], ms_all[name]) for name in ms_all}
        others = [n for n in built if n not in peers.NOT_PEERS]
        best, best_of_all = min(others, key=ms.get), min(others, key=better.get)
        rows.append(
            {
                "cell": kind,
                "network": network,
                "shape": list(shape),
                "what": what,
                "ms": rounded(ms),
                "ms_all_devices": rounded(ms_all),
                "best_jax_peer": best,
                "best_jax_peer/seqjax": round(ms[best] / ms["seqjax"], 3),
                "plain scan/seqjax": round(ms["plain scan"] / ms["seqjax"], 3),
                "all_cores": {
                    "best_jax_peer": best_of_all,
                    "best_jax_peer/seqjax": round(better[best_of_all] / better["seqjax"], 3),
                    "torch/seqjax": round(better["torch"] / better["seqjax"], 3),
                },
                "gflops": round(flops / better["seqjax"] / 1e6, 1),
                "temp_mb": rounded(memory),
                "least_temp_mb_of_peers": rounded({"": min(memory[n] for n in others)})[""],
                "compile_s": rounded(compiling),
            }
        )
    return rows


def place(row: dict) -> tuple:
    return row["network"], tuple(row["shape"])


def key(row: dict) -> tuple:
    return row["cell"], *place(row), row["what"]


def matmul_peak() -> float:
    """GFLOP/s of a large float32 matmul."""
    a = jnp.ones((2048, 2048), jnp.float32)
    dot = jax.jit(jnp.dot)
    ms = interleaved({"dot": lambda: dot(a, a)}, 1.0)["dot"]
    return round(2 * 2048**3 / ms / 1e6, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=peers.GATES, default=list(peers.GATES))
    parser.add_argument("--sizes", type=int, nargs="+", help="only the rows of these I = H")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each row")
    parser.add_argument(
        "--devices", type=int, default=cores(), help="of a CPU; all cores if not given"
    )
    parser.add_argument("--dry", action="store_true", help="print only, write no results")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    on_cpu = jax.devices()[0].platform == "cpu"
    report = {
        "device": device(),
        "devices": jax.device_count(),
        "matmul_peak_gflops": matmul_peak(),
        "versions": {name: version(name) for name in LIBRARIES},
        "rows": [],
    }
    path = results_of("compare")
    if path.exists() and not options.dry:
        earlier = json.loads(path.read_text())
        if all(earlier[name] == report[name] for name in ("versions", "devices")):
            report = earlier | {"matmul_peak_gflops": report["matmul_peak_gflops"]}
        elif (
            earlier["devices"] != report["devices"]
            or options.sizes
            or set(options.cells) != {*peers.GATES}
        ):
            parser.error(
                f"--dry: expected where the versions or the devices are not those of {path.name}, "
                "whose other rows would be lost"
            )
    grid = [("one layer", shape) for shape in (GRID if on_cpu else GPU_GRID)]
    grid += NETWORKS
    for kind in options.cells:
        for network, shape in grid:
            if options.sizes and shape[2] not in options.sizes:
                continue
            for row in measure(kind, network, shape, options.seconds):
                report["rows"] = [r for r in report["rows"] if key(r) != key(row)] + [row]
                print(
                    f"{kind:4} {row['what']:8} {network:14} {shape!s:16}"
                    f" seqjax {row['ms']['seqjax']:8.3f} ms"
                    f"  best JAX peer {row['best_jax_peer/seqjax']:6.2f}×"
                    f" ({row['best_jax_peer']})  plain {row['plain scan/seqjax']:5.2f}×"
                    f"  all cores: {row['all_cores']['best_jax_peer/seqjax']:6.2f}×"
                    f"  torch {row['all_cores']['torch/seqjax']:6.2f}×"
                    f"  {row['gflops']:5.0f} GFLOP/s"
                    f"  temp {row['temp_mb']['seqjax']:.1f} MB"
                    f" (peers {row['least_temp_mb_of_peers']:.1f})",
                    flush=True,
                )
    # Once more: whoever else uses the machine only makes it look slower.
    peak = report["matmul_peak_gflops"] = max(report["matmul_peak_gflops"], matmul_peak())
    for row in report["rows"]:
        row["fraction_of_matmul_peak"] = round(row["gflops"] / peak, 3)
    report["rows"].sort(key=lambda r: ([*peers.GATES].index(r["cell"]), grid.index(place(r))))
    report["summary"] = summary(report["rows"])
    print(table(report))
    if not options.dry:
        path.write_text(json.dumps(report, indent=1) + "\n")
        draw(PICTURES / f"{path.stem}.png", report)


if __name__ == "__main__":
    main()
