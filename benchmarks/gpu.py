"""A GPU: layers beside other libraries and cuDNN, linear recurrences by their two ways to run.

    python -m benchmarks.gpu     # writes benchmarks/results/gpu_jax_<version>_<device>.json

cuDNN is called by `jax.experimental.rnn`, which has the LSTM alone, and by PyTorch. seqjax is timed
as it is, with the other store, and with other numbers of steps in an iteration of its loops
(`unroll`); a plain scan with some, too. Loops are also timed "captured": each as a CUDA graph that
holds the whole of it, by an option of the compiler. Matmuls of float32 have the default precision
of each library, TF32; outputs are compared with those of a plain scan, as far as that goes. All in
turn in one process, by wall clock; medians.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import rnn

import seqjax as sj
from benchmarks import affine, networks, peers
from benchmarks.compare import LIBRARIES, check_equal, gradient_at
from benchmarks.machine import RESULTS, device, results_of
from benchmarks.timing import interleaved, rounded
from seqjax.engine import loops

LAYERS = [  # T, B, I = H
    ("lstm", (128, 32, 128)),
    ("lstm", (1024, 16, 768)),
    ("gru", (128, 32, 128)),
    ("lstm", (1024, 1, 128)),
    ("gru", (256, 128, 512)),
]
LINEAR = [(steps, 65_536) for steps in (2, 4, 8, 128, 1024)]
LINEAR += [(16_384, 1024), (131_072, 128)]  # T, width
LONG = 2000  # from so many steps on no loop is timed
CAPTURED = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
    ),
    "xla_gpu_graph_min_graph_size": "1",
}


class Program(NamedTuple):
    """A function of JAX and its arguments.

    Attributes:
      function: what is compiled.
      at: its arguments.
      unroll: steps in an iteration of seqjax's loops; None for its own choice.
      options: of the compiler.
    """

    function: Callable
    at: tuple
    unroll: int | None = None
    options: dict | None = None

    def lower(self) -> Any:
        patch = mock.patch.object(loops, "unroll", return_value=self.unroll)
        with contextlib.nullcontext() if self.unroll is None else patch:
            return jax.jit(self.function).lower(*self.at)


def timed(programs: dict[str, Program], seconds: float, **others: Callable) -> dict:
    """Milliseconds, temporary MB and the results of programs that are compiled side by side."""
    lowered = [program.lower() for program in programs.values()]
    with ThreadPoolExecutor() as pool:
        build = lambda low, program: low.compile(compiler_options=program.options)
        built = [*pool.map(build, lowered, programs.values())]
    calls = {n: partial(c, *p.at) for (n, p), c in zip(programs.items(), built, strict=True)}
    memory = [each.memory_analysis().temp_size_in_bytes / 1e6 for each in built]
    return {
        "ms": rounded(interleaved(calls | others, seconds)),
        "temp_mb": rounded(dict(zip(programs, memory, strict=True))),
        "results": {name: call() for name, call in calls.items()},
    }


def cudnn_peer(kind: str, weights: dict) -> peers.Peer | None:
    """`jax.experimental.rnn.lstm`: all weights in one array, in PyTorch's order."""
    if kind != "lstm" or jax.default_backend() != "gpu":
        return None
    inputs, hidden = peers.sizes(weights)

    def convert(weights):
        kernel, recurrent, bias = (weights[k] for k in ("kernel", "recurrent_kernel", "bias"))
        return jnp.concatenate([kernel.T.ravel(), recurrent.T.ravel(), bias, jnp.zeros_like(bias)])

    def apply(params, xs, state):
        lengths = jnp.full(len(xs), xs.shape[1], jnp.int32)
        h, c = (s[None] for s in state)
        return rnn.lstm(xs, h, c, params, lengths, inputs, hidden, 1, 0.0, False)[0]

    return peers.Peer(apply, convert)


OTHER_STORE = partial(peers.seqjax_peer, adjoint=sj.BPTT(store="preactivations"))
# name: (how the peer is made, unroll of seqjax's loops)
CANDIDATES: dict[str, tuple[Callable, int | None]] = {
    "seqjax": (peers.seqjax_peer, None),
    "seqjax, store=preactivations": (OTHER_STORE, None),
    **{f"seqjax, store=preactivations, unroll={k}": (OTHER_STORE, k) for k in (1, 4, 16)},
    "plain scan": (peers.plain_scan, None),
    "plain scan, unroll=8": (partial(peers.plain_scan, unroll=8), None),
    "flax nnx": (peers.flax_peer, None),
    "haiku": (peers.haiku_peer, None),
    "cuDNN, jax": (cudnn_peer, None),
}


def measure_layer(kind: str, shape: tuple, seconds: float):
    problem = networks.draw(kind, "one layer", *shape)
    (weights,), (state,) = problem.weights, problem.state
    xs, cotangent = problem.xs, problem.cotangent
    in_torch = networks.Torch(problem)
    for what in ("forward", "gradient"):
        programs = {}
        for name, (make, unroll) in CANDIDATES.items():
            peer = make(kind, weights)
            if peer is None:
                continue
            function = peer.apply if what == "forward" else gradient_at(peer.apply)
            at = (peer.convert(weights), xs, state, cotangent)[: 3 + (what == "gradient")]
            programs[name] = Program(function, at, unroll)
        programs["seqjax, captured"] = programs["seqjax"]._replace(options=CAPTURED)
        row = timed(programs, seconds, torch=getattr(in_torch, what))
        results = row.pop("results")
        # Of a gradient those to xs: the structure of the weights is each library's own.
        ys = {n: r if what == "forward" else r[1] for n, r in results.items()}
        for name, found in ys.items():
            check_equal(name, found, ys["plain scan"], limit=2e-2)
        yield {"what": f"{kind}, {what}", "shape": list(shape), **row}


def measure_linear(shape: tuple, seconds: float):
    """h(t) = a(t) ∘ h(t-1) + b(t) of a and b that are given."""
    for what in ("forward", "gradient"):
        programs = {name: Program(*each) for name, each in affine.programs(shape, what).items()}
        if shape[0] >= LONG:
            del programs["loop"], programs["lax.scan"]
        else:
            programs["loop, captured"] = programs["loop"]._replace(options=CAPTURED)
        row = timed(programs, seconds)
        del row["results"]
        yield {"what": f"h alone, {what}", "shape": list(shape), **row}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.7, help="of timing for each row")
    parser.add_argument("--only", choices=("layers", "linear"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    versions = {name: version(name) for name in LIBRARIES if name != "seqjax"}
    versions["seqjax"] = sj.__version__
    report = {"device": device(), "versions": versions, "rows": []}
    path = results_of("gpu", options.out)
    if path.exists() and json.loads(path.read_text())["versions"] == versions:
        report = json.loads(path.read_text())
    layers = [(shape, partial(measure_layer, kind)) for kind, shape in LAYERS]
    linear = [(shape, measure_linear) for shape in LINEAR]
    chosen = {"layers": layers, "linear": linear, None: layers + linear}[options.only]
    for shape, measure in chosen:
        for row in measure(shape, options.seconds):
            place = row["what"], row["shape"]
            others = [r for r in report["rows"] if (r["what"], r["shape"]) != place]
            report["rows"] = [*others, row]
            print(row, flush=True)
            path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
