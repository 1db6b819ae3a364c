"""A batch over several devices and several processes: the gradient of one device.

JAX fixes the number of its devices when it starts, so that each test runs this file as a
program of its own, which prints what it found.
"""

import contextlib
import functools
import operator
import socket

import pytest
from support.devices import collectives, kinds_of, print_rows, results, start_file

DEVICES = 8
# An opaque step, delay lines in and out, an LSTM and a GRU; all models before a release.
FEW = ["bidirectional"]
ALL_REDUCE_ONLY = ["all-reduce"]
# Less than a vector at each step. A convolution's kernel comes with one row more; that of an LRU's
# decay comes before and after its function.
FEW_NUMBERS = 6
# On explicit axes JAX 0.8 cannot select, by a flag of each series, between two scalars that all
# series share: not in a plain scan that resets a running total, nor in the gradient of softmax. If
# they are constants, it can, but gathers the flags of the whole batch.
SELECTS_A_SCALAR = {"own-step", "stack-with-own", "jordan"}


# What the programs do.
def problem_of(name, size=16):
    """A model, its parameters, and arguments of `unroll` with a batch axis."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from support.table import CASES, problem, series

    (model,) = (case.model for case in CASES if case.name == name)
    params, _, state = problem(model, 1)
    rng = np.random.default_rng(0)
    batch = {
        "xs": series(model, 0, size, 7),
        "state": jax.tree.map(lambda s: jnp.stack([s] * size), state),
        "mask": jnp.asarray(rng.random((size, 7)) < 0.7),
        "reset": jnp.asarray(rng.random((size, 7)) < 0.3),
    }
    return model, params, batch


def divergence(model, **options):
    import jax
    from support.oracles import weighted

    import seqjax as sj

    def div(params, batch):
        run = lambda series: weighted(sj.unroll(model, params, **series, **options))
        return jax.vmap(run)(batch).sum()

    return div


def gradient(div, by=(0, 1), **placement):
    """The value, and the gradient by all that is floating in (params, batch)."""
    import jax
    from support.comparison import floats

    both = jax.value_and_grad(div, by, allow_int=True)
    return jax.jit(lambda *at: floats(both(*at)), **placement)


def options():
    """What each series of a batch brings along, and the options that all have in common."""
    import jax.numpy as jnp

    import seqjax as sj

    mask = jnp.array([1, 1, 0, 1, 1, 1, 0], bool)
    stored = sj.BPTT(chunk=3, store="preactivations")
    return [
        (["xs"], {}),
        (["xs", "state", "mask", "reset"], {"reverse": True, "adjoint": stored}),
        (["xs", "state"], {"mask": mask, "adjoint": sj.BPTT(chunk=3, truncate=2)}),
    ]


def on_eight_devices(*names):
    """Per model, options and way of sharding: the error, and the communication."""
    import jax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P
    from support.comparison import relative_error
    from support.devices import elements

    assert jax.device_count() == DEVICES
    auto, explicit = (
        jax.make_mesh((DEVICES,), ("batch",), axis_types=(kind,))
        for kind in (AxisType.Auto, AxisType.Explicit)
    )
    for name in names:
        model, params, batch = problem_of(name)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        for own, common in options():
            at = params, {key: batch[key] for key in own}
            div = divergence(model, **common)
            theirs = jax.device_get(gradient(div)(*at))
            mapped = jax.shard_map(
                lambda *part, div=div: jax.lax.psum(div(*part), "batch"),
                mesh=auto,
                in_specs=(P(), P("batch")),
                out_specs=P(),
                check_vma=True,
            )
            ways = {
                "automatic axes": (div, auto, contextlib.nullcontext),
                "explicit axes": (div, explicit, functools.partial(jax.set_mesh, explicit)),
                "shard_map": (mapped, auto, contextlib.nullcontext),
            }
            if jax.__version_info__ < (0, 10) and name in SELECTS_A_SCALAR and common:
                del ways["explicit axes"]
                yield {"where": f"{name}, {own}", "skipped": "explicit axes"}
            for way, (function, mesh, context) in ways.items():
                split = NamedSharding(mesh, P("batch"))
                shared = jax.device_put(at, (NamedSharding(mesh, P()), split))
                with context():
                    program = gradient(function).lower(*shared).compile()
                ours = program(*shared)
                found = collectives(program.as_text())
                d_xs = [leaf for leaf in ours if leaf.shape == at[1]["xs"].shape]
                yield {
                    "where": f"{name}, {own}, {common}, {way}",
                    "error": relative_error(jax.device_get(ours), theirs),
                    "kinds": kinds_of(program),
                    "in a loop": way == "shard_map" and found["in loops"],
                    # With the value of the loss.
                    "beyond the gradient": elements(found["exchanged"]) - size - 1,
                    "d_xs stays split": all(
                        d.sharding.is_equivalent_to(split, d.ndim) for d in d_xs
                    ),
                }


def in_half_precision(*names):
    """The gradient in `shard_map`, and on explicit axes, beside that of one device."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P
    from support.comparison import floats, relative_error
    from support.devices import elements
    from support.table import CASES, series

    import seqjax as sj

    auto, explicit = (
        jax.make_mesh((DEVICES,), ("batch",), axis_types=(kind,))
        for kind in (AxisType.Auto, AxisType.Explicit)
    )
    for name in names:
        (model,) = (case.make(jnp.bfloat16) for case in CASES if case.name == name)
        params = model.init(jax.random.key(0))
        at = params, series(model, 0, 16, 7, dtype=jnp.bfloat16)

        def div(params, batch, model=model):
            ys = jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(batch)
            return sum(jnp.sum(jnp.sin(y.real.astype(jnp.float32))) for y in floats(ys))

        mapped = jax.shard_map(
            lambda *part, div=div: jax.lax.psum(div(*part), "batch"),
            mesh=auto,
            in_specs=(P(), P("batch")),
            out_specs=P(),
        )
        in_parts, theirs = (jax.device_get(gradient(total, 0)(*at)) for total in (mapped, div))
        with jax.set_mesh(explicit):
            split = jax.device_put(at, (P(), P("batch")))
            program = gradient(div, 0).lower(*split).compile()
            on_axes = jax.device_get(program(*split))
        exchanged = collectives(program.as_text())["exchanged"]
        yield {
            "where": name,
            "beyond the gradient": elements(exchanged) - sum(a.size for a in floats(params)) - 1,
            "error in shard_map": relative_error(in_parts, theirs),
            "error on explicit axes": relative_error(on_axes, theirs),
        }


def decoding():
    """What is generated, found, predicted of a split batch, and what the devices exchange."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P
    from support.comparison import relative_error

    import seqjax as sj

    model = sj.stack(sj.embed(11, 8), sj.lstm(8, 16), sj.dense(16, 11))
    narx, of_narx, narx_batch = problem_of("narx")
    params = model.init(jax.random.key(0)), of_narx
    prompts = jax.random.randint(jax.random.key(1), (16, 5), 0, 11)
    measured = jax.random.normal(jax.random.key(3), (16, 7, 2), jnp.float64)
    batch = prompts, jax.random.split(jax.random.key(2), 16), narx_batch["xs"], measured

    def generate(params, prompt, key, xs, ys, **options):
        return sj.generate(model, params[0], prompt, 12, key=key, stop=0, **options)

    calls = {
        "generate": generate,
        "generate, top_p": functools.partial(generate, top_p=0.9),
        "generate, top_k": functools.partial(generate, top_k=3),
        "beam_search": lambda params, prompt, *_: sj.beam_search(
            model, params[0], prompt, 12, beams=4, stop=0
        ),
        "trajectory": lambda params, prompt, *_: sj.trajectory(model, params[0], prompt),
        "teacher_force": lambda params, prompt, key, *at: sj.teacher_force(narx, params[1], *at),
        "predict_ahead": lambda params, prompt, key, *at: sj.predict_ahead(
            narx, params[1], *at, steps_ahead=3
        ),
    }
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P("batch"))
    placed = jax.device_put(params, NamedSharding(mesh, P())), *jax.device_put(batch, split)
    for name, call in calls.items():
        many = jax.vmap(call, (None, 0, 0, 0, 0))
        theirs = jax.device_get(jax.jit(many)(params, *batch))
        specs = {"in_specs": (P(), *[P("batch")] * 4), "out_specs": P("batch")}
        mapped = jax.shard_map(many, mesh=mesh, **specs)
        for way, function in {"automatic axes": many, "shard_map": mapped}.items():
            program = jax.jit(function).lower(*placed).compile()
            ours = jax.device_get(program(*placed))
            yield {
                "where": f"{name}, {way}",
                "exchanged": collectives(program.as_text())["exchanged"],
                "error": relative_error(ours, theirs),
                "same symbols": all(
                    (a == b).all()
                    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True)
                    if jnp.issubdtype(a.dtype, jnp.integer)
                ),
            }


def products():
    """The gradient, and its own, of a product whose operands explicit axes split in any way."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P
    from support.comparison import relative_error

    import seqjax as sj

    def loss(xs, kernel, bias):
        product = jax.vmap(jax.vmap(sj.matmul, (0, None, None)), (0, None, None))
        return jnp.sum(jnp.sin(product(xs, kernel, bias)))

    def second(*at):
        both = lambda *at: sum(jnp.sum(jnp.cos(g)) for g in jax.grad(loss, (0, 1, 2))(*at))
        return jax.grad(both, (0, 1, 2))(*at)

    shapes = (4, 6, 8), (8, 12), (12,)
    at = [jax.random.normal(jax.random.key(n), s, jnp.float64) for n, s in enumerate(shapes)]
    both = jax.jit(lambda *at: (jax.grad(loss, (0, 1, 2))(*at), second(*at)))
    theirs = jax.device_get(both(*at))
    mesh = jax.make_mesh((2, 4), ("batch", "model"), axis_types=(AxisType.Explicit,) * 2)
    batch, features, out = P("batch"), P("batch", None, "model"), P(None, "model")
    for specs in [
        (batch, P(), P()),
        (batch, out, P("model")),
        (batch, out, P()),
        (features, P("model"), P()),
        (features, P(), P()),
        (P(None, None, "batch"), P(), P()),
    ]:
        with jax.set_mesh(mesh):
            ours = both(*(jax.device_put(a, spec) for a, spec in zip(at, specs, strict=True)))
        yield {"where": str(specs), "error": relative_error(jax.device_get(ours), theirs)}


def params_off_the_mesh():
    """The gradient of parameters whose type has no mesh, beside a batch on explicit axes.

    Of delay lines, as convolutions and gathered, and of a matmul; of a mask, and of inputs, that
    the batch has in common; all in one program.
    """
    import jax
    import numpy as np
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P
    from support.comparison import relative_error
    from support.oracles import weighted

    import seqjax as sj

    names = ("narx", "tdnn", "lstm-learned")
    (narx, tdnn, lstm), params, batches = zip(*(problem_of(n, 4) for n in names), strict=True)
    measured = np.random.default_rng(1).standard_normal((4, 7, 2))
    batch = batches[0]["xs"], jax.numpy.asarray(measured), batches[0]["mask"]

    def div(params, common_xs, common_mask, *batch):
        def each(xs, ys, mask):
            at = narx, params[0], xs, ys
            return [
                weighted(sj.teacher_force(*at)),
                weighted(sj.teacher_force(*at, mask=mask)),
                weighted(sj.predict_ahead(*at, steps_ahead=3, mask=mask)),
                weighted(sj.unroll(tdnn, params[1], xs)),
                weighted(sj.unroll(lstm, params[2], xs, mask=mask)),
                weighted(sj.teacher_force(*at, mask=common_mask)),
                weighted(sj.unroll(tdnn, params[1], common_xs, mask=mask)),
            ]

        return sum(total.sum() for total in jax.vmap(each)(*batch))

    common = batch[0][0], batch[2][0]
    theirs = jax.device_get(gradient(div, (0, 1, 3))(params, *common, *batch))
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = jax.device_put(batch, P("batch"))
        ours = gradient(div, (0, 1, 3))(params, *common, *split)
    yield {
        "devices": jax.device_count(),
        "spec of d_xs": str(ours[-1].sharding.spec[0]),
        "error": relative_error(jax.device_get(ours), theirs),
    }


def as_one_process_of_two(port, process):
    """The gradient of the whole batch, half of which this process holds."""
    import jax

    # Before anything asks for a device, as the models in `support.table` do when they are made.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process), initialization_timeout=60)
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P
    from support.comparison import relative_error

    import seqjax as sj

    mesh = jax.make_mesh(
        (jax.device_count(),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("batch"))
    for name in ("lstm-learned",):
        model, params, batch = problem_of(name)
        mine = slice(8 * int(process), 8 * int(process) + 8)
        my_batch = jax.tree.map(operator.itemgetter(mine), batch)

        def spread(sharding, leaf):
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

        at = (
            jax.tree.map(lambda leaf: spread(whole, leaf), params),
            jax.tree.map(lambda leaf: spread(split, leaf), my_batch),
        )
        div = divergence(model, adjoint=sj.BPTT(chunk=3))
        on_both = gradient(div, by=0, out_shardings=whole)(*at)
        ours = [leaf.addressable_data(0) for leaf in on_both]
        theirs, half = (gradient(div, by=0)(params, part) for part in (batch, my_batch))
        yield {
            "where": name,
            "processes": jax.process_count(),
            "error": relative_error(ours, theirs),
            "error of one half": relative_error(half, theirs),
        }


def training():
    """Three updates with draws, on eight devices, on explicit axes too, and on one."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import AxisType
    from support.comparison import floats, relative_error

    import seqjax as sj

    model = sj.stack(
        sj.dropout(0.3, shared_over_time=True),
        sj.zoneout(sj.lstm(3, 8, recurrent_dropout=0.1), 0.2),
        sj.dense(8, 1),
    )

    def loss(params, states, xs, keys):
        read = lambda state, xs, key: sj.unroll(model, params, xs, state, key=key)
        states, ys = jax.vmap(read)(states, xs, keys)
        return jnp.mean(ys**2), states

    optimizer = optax.sgd(0.1, momentum=0.9)
    step = sj.train.make_step(loss, optimizer, has_aux=True)
    first = model.init(jax.random.key(0))
    batch = (
        jax.vmap(model.initial_state, in_axes=None, axis_size=16)(first),
        jax.random.normal(jax.random.key(1), (16, 10, 3)),
        jax.random.split(jax.random.key(2), 16),
    )

    def run(devices):
        params = devices.everywhere(first)
        opt_state, (states, xs, keys) = devices.everywhere(optimizer.init(params)), batch
        states, xs, keys = devices.split((states, xs, keys))
        for _ in range(3):
            params, opt_state, report = step(params, opt_state, states, xs, keys)
            states = report.aux
        return params, opt_state, states, report.loss

    all_devices = sj.train.data_parallel()
    ours, theirs = run(all_devices), run(sj.train.data_parallel(jax.devices()[:1]))
    explicit = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Explicit,))
    on_axes = ours
    if jax.__version_info__ >= (0, 10):  # in 0.8 keys on explicit axes draw no Bernoulli numbers
        with jax.set_mesh(explicit):
            on_axes = run(sj.train.DataParallel(explicit))
    at = all_devices.everywhere(first), *all_devices.split(batch)
    program = jax.jit(jax.grad(lambda *at: loss(*at)[0])).lower(*at).compile()
    try:
        all_devices.split({"xs": jnp.ones((12, 3))})
    except ValueError as error:
        refused = str(error)
    yield {
        "errors": [
            relative_error(*(jax.device_get(floats(found)) for found in (these, theirs)))
            for these in (ours, on_axes)
        ],
        "kinds": kinds_of(program),
        "params are everywhere": all(
            p.is_fully_replicated for p in jax.tree.leaves((ours[:2], on_axes[:2]))
        ),
        "states stay split": not any(s.is_fully_replicated for s in floats((ours[2], on_axes[2]))),
        "kept": not any(p.is_deleted() for p in jax.tree.leaves(first)),
        "refused": refused,
    }


# Running them.
start = functools.partial(start_file, __file__)


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_a_batch_over_eight_devices(part):
    """The gradient of one device; each works on its part alone until the weights' sum."""
    from support.table import KINDS

    rest = [case.name for case in KINDS if case.name not in FEW]
    names = rest[part - 1 :: 3] if part else FEW
    found = results(start(DEVICES, "on_eight_devices", *names))
    assert len(found) == 3 * 3 * len(names)
    for result in found:
        if "skipped" in result:
            continue
        assert result["error"] <= 1e-10, result
        assert result["kinds"] == ALL_REDUCE_ONLY, result
        assert not result["in a loop"], result
        # No bias, and no coefficient, is summed over devices before it is over time.
        assert result["beyond the gradient"] <= FEW_NUMBERS, result
        assert result["d_xs stays split"], result


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_half_precision_over_eight_devices(part):
    from support.table import KINDS

    rest = [case.name for case in KINDS if case.name != "gru"]
    names = rest[part - 1 :: 2] if part else ["gru"]
    found = results(start(DEVICES, "in_half_precision", *names))
    assert [result["where"] for result in found] == names
    for result in found:
        assert result["error in shard_map"] <= 0.05, result
        assert result["beyond the gradient"] <= FEW_NUMBERS, result
        assert result["error on explicit axes"] <= 0.2, result


def test_training_over_eight_devices():
    (found,) = results(start(DEVICES, "training"))
    assert max(found.pop("errors")) <= 1e-10
    assert found == {
        "kinds": ALL_REDUCE_ONLY,
        "params are everywhere": True,
        "states stay split": True,
        "kept": True,
        "refused": "tree['xs']: expected an array whose leading axis 8 devices divide, "
        "got float64[12, 3]",
    }


def test_products_of_operands_that_are_split_in_any_way():
    found = results(start(DEVICES, "products"))
    assert len(found) == 6
    for result in found:
        assert result["error"] <= 1e-12, result


def test_decoding_over_eight_devices():
    """Nothing is exchanged, but where XLA does not divide `top_k`: docs/devices.md."""
    found = results(start(DEVICES, "decoding"))
    assert len(found) == 2 * 7
    for result in found:
        gathers = result["where"] in (
            "generate, top_k, automatic axes",
            "beam_search, automatic axes",
        )
        assert {kind for kind, _ in result["exchanged"]} == ({"all-gather"} if gathers else set())
        assert result["error"] <= 1e-10, result
        assert result["same symbols"], result


def test_parameters_that_are_not_on_the_mesh_of_the_batch():
    (result,) = results(start(2, "params_off_the_mesh"))
    assert result["devices"] == 2
    assert result["spec of d_xs"] == "batch"
    assert result["error"] <= 1e-10


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
    print_rows(globals())
