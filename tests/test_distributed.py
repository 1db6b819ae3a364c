"""A batch over several devices and several processes: the gradient of one device.

JAX fixes the number of its devices when it starts, so that each test runs this file as a
program of its own, which prints what it found.
"""

import json
import operator
import os
import re
import socket
import subprocess
import sys

import pytest

DEVICES = 8
FAST = ["own-step", "stack", "tdnn", "bidirectional"]
REST = [
    "lstm-learned",
    "rnn-relu",
    "gru",
    "gru-reset-before",
    "structured-without-rules",
    "stack-with-own",
    "elman",
    "jordan",
    "memory",
    "tdnn-deep",
    "narx",
    "stack-of-bidirectional",
]
ALL_REDUCE_ONLY = ["all-reduce"]


# What the programs do.
def problem_of(name, size=16):
    """A model and (params, xs, state), the latter two with a batch axis."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from cases import CASES, I, problem

    (model,) = (case.model for case in CASES if case.name == name)
    params, _, state = problem(model, 1)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((size, 7, I)))
    return model, params, xs, jax.tree.map(lambda s: jnp.stack([s] * size), state)


def divergence(model, adjoint):
    import jax
    from cases import weighted

    import seqjax as sj

    def div(params, xs, state):
        run = jax.vmap(lambda x, s: weighted(sj.unroll(model, params, x, s, adjoint=adjoint)))
        return run(xs, state).sum()

    return div


def gradient(div):
    import jax
    from cases import floats

    return jax.jit(lambda *at: floats(jax.grad(div, (0, 1, 2), allow_int=True)(*at)))


def on_eight_devices(*names):
    """Per model, adjoint and way of sharding: the error, and the communication."""
    import jax
    from cases import relative_error
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import seqjax as sj

    assert jax.device_count() == DEVICES
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("batch"))
    for name in names:
        model, *at = problem_of(name)
        shared = [jax.device_put(a, s) for a, s in zip(at, (whole, split, split), strict=True)]
        for adjoint in (sj.BPTT(), sj.BPTT(chunk=3)):
            div = divergence(model, adjoint)
            theirs = jax.device_get(gradient(div)(*at))

            mapped = jax.shard_map(
                lambda *part, div=div: jax.lax.psum(div(*part), "batch"),
                mesh=mesh,
                in_specs=(P(), P("batch"), P("batch")),
                out_specs=P(),
                check_vma=True,
            )
            ways = {"sharded arguments": div, "shard_map": mapped}
            for way, function in ways.items():
                program = gradient(function).lower(*shared).compile()
                ours = program(*shared)
                kinds = r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
                d_xs = next(leaf for leaf in ours if leaf.shape == at[1].shape)
                yield {
                    "where": f"{name}, {adjoint}, {way}",
                    "error": relative_error(jax.device_get(ours), theirs),
                    "kinds": sorted(set(re.findall(kinds, program.as_text()))),
                    "d_xs stays split": d_xs.sharding.is_equivalent_to(split, 3),
                }


def as_one_process_of_two(port, process):
    """The gradient of the whole batch, half of which this process holds."""
    import jax

    # Before anything that asks for a device, as the models in `cases` do when they are made.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process), initialization_timeout=60)
    import numpy as np
    from cases import floats, relative_error
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import seqjax as sj

    mesh = jax.make_mesh(
        (jax.device_count(),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("batch"))
    for name in ("lstm-learned",):
        model, params, xs, state = problem_of(name)
        mine = slice(8 * int(process), 8 * int(process) + 8)
        my_xs, my_state = jax.tree.map(operator.itemgetter(mine), (xs, state))

        def spread(sharding, leaf):
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

        at = (
            jax.tree.map(lambda leaf: spread(whole, leaf), params),
            spread(split, my_xs),
            jax.tree.map(lambda leaf: spread(split, leaf), my_state),
        )
        div = divergence(model, sj.BPTT(chunk=3))
        by_params = jax.jit(lambda *at, div=div: floats(jax.grad(div)(*at)), out_shardings=whole)
        ours = [leaf.addressable_data(0) for leaf in by_params(*at)]
        theirs = gradient(div)(params, xs, state)[: len(ours)]
        half = gradient(div)(params, my_xs, my_state)
        yield {
            "where": name,
            "processes": jax.process_count(),
            "error": relative_error(ours, theirs),
            "error of one half": relative_error(half[: len(ours)], theirs),
        }


# Running them.
def start(devices, *arguments):
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [os.path.dirname(here), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, os.path.abspath(__file__), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def results(*programs):
    """What they printed; none outlives the test."""
    try:
        found = []
        for program in programs:
            out, problems = program.communicate(timeout=300)
            assert program.returncode == 0, problems[-4000:]
            found += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return found
    finally:
        for program in programs:
            if program.poll() is None:
                program.kill()
                program.communicate()


@pytest.mark.parametrize(
    "names", [FAST, pytest.param(REST, marks=pytest.mark.slow)], ids=["a-few", "the-rest"]
)
def test_a_batch_over_eight_devices(names):
    """The gradient of one device; each works on its part alone until the weights' sum."""
    found = results(start(DEVICES, "on_eight_devices", *names))
    assert len(found) == 2 * 2 * len(names)
    for result in found:
        assert result["error"] <= 1e-10, result
        assert result["kinds"] == ALL_REDUCE_ONLY, result
        assert result["d_xs stays split"], result


def test_two_processes_with_half_of_the_batch_each():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = results(*(start(1, "as_one_process_of_two", port, number) for number in range(2)))
    assert len(found) == 2
    for result in found:
        assert result["processes"] == 2
        assert result["error"] <= 1e-10, result
        assert result["error of one half"] > 0.01, result


if __name__ == "__main__":
    import conftest  # noqa: F401  float64, and no promotion

    for row in globals()[sys.argv[1]](*sys.argv[2:]):
        print(json.dumps(row), flush=True)
