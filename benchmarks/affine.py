"""Linear recurrences against an associative scan, memax, discretax and one pass over memory.

    python -m benchmarks.affine     # writes benchmarks/results/affine_jax_<version>_<device>.json

First h(t) = a(t) ∘ h(t-1) + b(t) alone, of a and b that are given, by `sj.Cell(coefficients=…)` as
a loop (what it is on a CPU) and as an associative scan, against a `lax.scan` and a
`lax.associative_scan` that JAX differentiates. Beside them one streaming pass over the arrays that
the recurrence must read and write: forward a, b and h; with the gradient h again, ∂L/∂h, ∂L/∂a and
∂L/∂b besides. Then layers, in a batch: the LRU against those of memax and discretax, and each
affine cell against an associative scan of its own coefficients, written by hand and differentiated
by JAX; S5 against that of discretax as well. All in turn in one process, by wall clock. A peer that
is not installed is left out: discretax is for Python 3.12.
"""

import argparse
import importlib
import json
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp
from jax import lax

import seqjax as sj
from benchmarks.machine import device, results_of
from benchmarks.timing import interleaved, rounded

ALONE = ((1024, 1024), (1024, 8192), (16384, 256))  # T, F
LAYERS = ((1024, 8, 128), (4096, 1, 128), (256, 32, 256))  # T, B, F; as many states
CELLS = {"min_gru": 2, "min_lstm": 2, "rg_lru": 1, "lru": 3, "s5": 3}  # how many sizes each has


def bare(features):
    """A cell whose x(t) is (a(t), b(t))."""
    return sj.Cell(
        init=lambda key: (),
        initial_state=lambda params: jnp.zeros(features),
        coefficients=lambda z: z,
    )


def combine(earlier, later):
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def alone(features):
    """Functions `(a, b) -> h`, [T, F] each."""
    cell = bare(features)

    def scan(a, b):
        def step(h, at):
            h = at[0] * h + at[1]
            return h, h

        return lax.scan(step, jnp.zeros(features), (a, b))[1]

    return {
        "loop": lambda a, b: sj.unroll(cell, (), (a, b), adjoint=sj.BPTT(scan="loop"))[1],
        "associative": lambda a, b: sj.unroll(
            cell, (), (a, b), adjoint=sj.BPTT(scan="associative")
        )[1],
        "lax.scan": scan,
        "lax.associative_scan": lambda a, b: lax.associative_scan(combine, (a, b))[1],
    }


def programs(shape, what):
    """Functions with their arguments, by name: `alone`, and the streaming pass beside them."""
    keys = jax.random.split(jax.random.key(0), 5)
    a = jax.random.uniform(keys[0], shape, minval=0.5, maxval=1.0)
    b, weights, *others = (jax.random.normal(key, shape) for key in keys[1:])
    found = {}
    for name, run in alone(shape[1]).items():
        loss = lambda a, b, run=run: jnp.vdot(weights, run(a, b))
        found[name] = run if what == "forward" else jax.grad(loss, (0, 1)), (a, b)
    if what == "forward":
        return found | {"streaming": (jnp.add, (a, b))}
    # What is read and written, eight arrays: a, b, h; a, h, ∂L/∂h; ∂L/∂a, ∂L/∂b.
    passes = lambda *x: (x[0] + x[1], x[2] + x[3], -x[4])
    return found | {"streaming": (passes, (a, b, weights, *others))}


def measure_alone(shape, seconds):
    for what in ("forward", "gradient"):
        calls = {
            name: partial(jax.jit(function).lower(*at).compile(), *at)
            for name, (function, at) in programs(shape, what).items()
        }
        ms = interleaved(calls, seconds)
        yield {
            "what": f"h alone, {what}",
            "shape": list(shape),
            "ms": rounded(ms),
            "lax.associative_scan/loop": round(ms["lax.associative_scan"] / ms["loop"], 2),
            "loop/streaming": round(ms["loop"] / ms["streaming"], 2),
        }


def layers(features):
    """Functions `(params, xs) -> ys` of one series, with their parameters."""
    key = jax.random.key(0)
    ours = sj.lru(features, features, features)
    found = {"seqjax": (ours.init(key), lambda params, xs: sj.unroll(ours, params, xs)[1])}
    parallel = sj.BPTT(scan="associative")
    found["seqjax, associative"] = (
        ours.init(key),
        lambda params, xs: sj.unroll(ours, params, xs, adjoint=parallel)[1],
    )
    try:
        import equinox as eqx
        from memax.equinox.semigroups.lru import LRU
    except ImportError:
        print("without memax, which is not installed")
    else:
        memax, fixed = eqx.partition(LRU(features, features, key), eqx.is_inexact_array)
        found["memax"] = (memax, partial(run_memax, fixed))
    return found | of_discretax("lru", features)


def of_discretax(kind, features):
    """Its layer of this kind as in `layers`; nothing if it is not installed."""
    try:
        import equinox as eqx

        mixers = importlib.import_module(f"discretax.sequence_mixers.{kind}")
    except ImportError:
        print("without discretax, which is not installed")
        return {}
    key = jax.random.key(0)
    mixer = getattr(mixers, f"{kind.upper()}SequenceMixer")(features, key, state_dim=features)
    params, rest = eqx.partition(mixer, eqx.is_inexact_array)
    return {"discretax": (params, lambda params, xs: eqx.combine(params, rest)(xs, key))}


def run_memax(fixed, params, xs):
    import equinox as eqx

    model = eqx.combine(params, fixed)
    start = jnp.zeros(len(xs), bool)  # of a series that begins anew
    return model(model.initialize_carry(), (xs, start))[1]


def by_hand(cell, params, xs):
    """What `sj.unroll` computes from the initial state 0, over all steps at once."""
    a, b = jax.vmap(lambda x: cell.coefficients(cell.project(params, x)))(xs)
    ys = jax.vmap(partial(cell.readout, params))(lax.associative_scan(combine, (a, b))[1])
    if cell.feedthrough is None:
        return ys
    return ys + jax.vmap(partial(cell.feedthrough, params))(xs)


def of_cell(kind, features):
    """The same for one of the library's cells."""
    cell = getattr(sj, kind)(*[features] * CELLS[kind])
    params = cell.init(jax.random.key(0))
    found = {
        "seqjax": (params, lambda params, xs: sj.unroll(cell, params, xs)[1]),
        "by hand": (params, partial(by_hand, cell)),
    }
    xs = jax.random.normal(jax.random.key(1), (64, features))
    ours, theirs = (run(params, xs) for _, run in found.values())
    if not jnp.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
        raise AssertionError(f"{kind}: expected the same outputs of seqjax and by hand")
    return found | (of_discretax(kind, features) if kind == "s5" else {})


def measure_layer(shape, seconds):
    yield from measure_runs("LRU", layers(shape[2]), shape, seconds)


def measure_cells(shape, seconds):
    for kind in CELLS:
        yield from measure_runs(f"sj.{kind}", of_cell(kind, shape[2]), shape, seconds)


def measure_runs(title, runs, shape, seconds):
    steps, batch, features = shape
    xs, weights = jax.random.normal(jax.random.key(1), (2, batch, steps, features))
    for what in ("forward", "gradient"):
        calls = {}
        for name, (params, run) in runs.items():
            batched = jax.vmap(run, (None, 0))
            loss = lambda params, xs, batched=batched: jnp.sum(weights * batched(params, xs))
            function = batched if what == "forward" else jax.grad(loss, (0, 1))
            calls[name] = partial(jax.jit(function).lower(params, xs).compile(), params, xs)
        ms = interleaved(calls, seconds)
        peers = [time for name, time in ms.items() if not name.startswith("seqjax")]
        best = {"best peer/seqjax": round(min(peers) / ms["seqjax"], 2)} if peers else {}
        yield {"what": f"{title}, {what}", "shape": list(shape), "ms": rounded(ms), **best}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each row")
    options = parser.parse_args()
    rows = []
    measured = (measure_alone, ALONE), (measure_layer, LAYERS), (measure_cells, LAYERS[:1])
    for measure, shapes in measured:
        for shape in shapes:
            for row in measure(shape, options.seconds):
                rows.append(row)
                print(row, flush=True)
    versions = {"jax": jax.__version__, "seqjax": sj.__version__}
    for peer in ("memax", "discretax"):
        try:
            versions[peer] = version(peer)
        except PackageNotFoundError:
            versions[peer] = "not installed"
    report = {"device": device(), **versions, "rows": rows}
    results_of("affine").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
