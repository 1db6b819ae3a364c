"""How much of a gradient is its matmuls: the floor of what XLA can do with these products.

    python -m benchmarks.floor      # writes into benchmarks/results

For the layers of batches that `compare` measures: the gradient of seqjax, and a program of nothing
but the products of that gradient, in the same shapes and with the same dependence of one on the
other: those of h(t-1) and of λ(t+1) in two loops over time, all others over all steps at once. Both
on one device and with the batch split over all, in turn in one process; medians.
"""

import argparse
import json
from importlib.metadata import version

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import compare, networks, peers
from benchmarks.machine import cores, device, results_of
from benchmarks.timing import interleaved, rounded

SHAPES = ((128, 32, 64), (128, 32, 128), (128, 32, 256), (96, 128, 128), (64, 8, 512))


def products(weights, xs, state, cotangent):
    """xs, cotangent [B, T, H]; what stands for gates and cotangents are copies, not sums."""
    kernel, recurrent = weights["kernel"], weights["recurrent_kernel"]
    gates = kernel.shape[1] // kernel.shape[0]
    xs, d_ys = (jnp.swapaxes(a, 0, 1) for a in (xs, cotangent))
    wide = lambda a: jnp.concatenate([a] * gates, axis=-1)

    u = xs @ kernel

    def forward(h, u_t):
        z = h @ recurrent + u_t
        return z[:, : h.shape[1]], z

    _, zs = lax.scan(forward, state[0], u)
    hs = zs[:, :, : kernel.shape[0]]

    def backward(lam, d_t):
        dz = wide(lam + d_t)
        return dz @ recurrent.T, dz

    d_state, dzs = lax.scan(backward, jnp.zeros_like(state[0]), d_ys, reverse=True)
    pooled = lambda a: lax.dot_general(a, dzs, (((0, 1), (0, 1)), ((), ())))
    return pooled(xs), pooled(hs), dzs @ kernel.T, d_state


def measure(kind, shape, seconds):
    problem = networks.draw(kind, "one layer", *shape)
    (weights,), (state,) = problem.weights, problem.state
    peer = peers.seqjax_peer(kind, weights)
    programs = {
        "seqjax": (compare.gradient_at(peer.apply), peer.convert(weights)),
        "products": (products, weights),
    }
    calls = {}
    for name, (function, params) in programs.items():
        at = params, problem.xs, state, problem.cotangent
        for where, placed in (("one device", at), ("all cores", compare.split(*at))):
            compiled = jax.jit(function).lower(*placed).compile()
            calls[name, where] = lambda compiled=compiled, placed=placed: compiled(*placed)
    ms = interleaved(calls, seconds)
    row = {"cell": kind, "shape": list(shape)}
    for where in ("one device", "all cores"):
        row[where] = rounded({name: ms[name, where] for name in programs})
        row[where]["products/seqjax"] = round(ms["products", where] / ms["seqjax", where], 2)
    print(json.dumps(row), flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each row")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", cores())
    rows = [measure(kind, shape, options.seconds) for kind in peers.GATES for shape in SHAPES]
    report = {"device": device(), "devices": jax.device_count(), "seqjax": version("seqjax")}
    report |= {"jax": jax.__version__, "rows": rows}
    results_of("floor").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
