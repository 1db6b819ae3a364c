"""Time split over devices: a series whose parts lie on eight of them is the series on one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from support.comparison import floats, relative_error
from support.devices import collectives, print_rows, results, start_file
from support.oracles import grad, outputs_and_gradient
from support.table import BY_NAME, I, normal, problem

import seqjax as sj

DEVICES = 8
T = 40  # five steps on each device
AXIS = "time"
KEY = jax.random.key(0)


# What the programs do.
def own(dtype):
    """A cell of two states: of a constant a, and of a complex one that the inputs change."""

    def project(params, x):
        z = sj.matmul(x, params["kernel"])
        return jnp.tanh(params["decay"]), z

    def coefficients(z):
        decay, z = z
        turned = lax.complex(jax.nn.sigmoid(z[:2]), jnp.tanh(z[2:]) / 2)
        return {"kept": decay, "turned": turned}, {"kept": z, "turned": lax.complex(z[2:], z[:2])}

    return sj.Cell(
        init=lambda key: {
            "kernel": jax.random.normal(key, (I, 4), dtype),
            "decay": jnp.linspace(-1.0, 2.0, 4).astype(dtype),
        },
        initial_state=lambda params: {
            "kept": params["decay"],
            "turned": jnp.zeros(2, jnp.complex128),
        },
        project=project,
        coefficients=coefficients,
        readout=lambda params, h: h["kept"][:2] * h["turned"].real + h["turned"].imag,
        input_spec=jax.ShapeDtypeStruct((I,), dtype),
    )


def deep(dtype):
    """All around an affine cell that has no memory, and all that draws at a step of its own."""
    block = sj.stack(
        sj.layer_norm(4, dtype=dtype),
        sj.lru(4, 5, 4, dtype=dtype),
        sj.dropout(0.3),
        sj.dense(4, 8, dtype=dtype),
        jax.nn.glu,
    )
    return sj.stack(
        sj.dense(I, 4, dtype=dtype),
        sj.residual(block),
        sj.branches(
            sj.zoneout(sj.min_gru(4, 4, learn_initial_state=True, dtype=dtype), 0.4),
            sj.rms_norm(4, dtype=dtype),
            merge="sum",
        ),
    )


def model_of(name):
    return {"own": own, "deep": deep}[name](jnp.float64) if name in MADE else BY_NAME[name].model


MADE = ("own", "deep")
AFFINE = ["lru", "s5", "min-gru", "min-lstm", "rg-lru", "zoneout-affine", *MADE]


def options():
    """By name; masks and resets are split as the series is, a length is that of the whole one."""
    mask, reset = np.arange(T) % 5 != 1, np.arange(T) % 11 == 3
    mask[5:10] = False  # nothing valid on a whole device
    return {
        "plain": ({}, {}),
        "mask and reset": ({"mask": mask, "reset": reset}, {}),
        "reverse": ({"mask": mask, "reset": reset}, {"length": T - 5, "reverse": True}),
    }


def mesh_of(*sizes, names=(AXIS,)):
    return jax.make_mesh(sizes, names, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes))


def split_run(model, series=None, *, check_vma=True, scan=None, key=None, **shared):
    """`unroll` on eight devices, as a function of the whole series."""
    adjoint = sj.BPTT(over=AXIS, scan=scan)

    def of_part(params, xs, state, series):
        return sj.unroll(model, params, xs, state, **series, **shared, key=key, adjoint=adjoint)

    mapped = jax.shard_map(
        of_part,
        mesh=mesh_of(DEVICES),
        in_specs=(P(), P(AXIS), P(), P(AXIS)),
        out_specs=(P(), P(AXIS)),
        check_vma=check_vma,
    )
    return lambda params, xs, state: mapped(params, xs, state, series or {})


def whole_run(model, series=None, *, scan=None, **shared):
    return functools.partial(
        sj.unroll, model, adjoint=sj.BPTT(scan=scan), **(series or {}), **shared
    )


def compiled(run, second_order=False):
    """((state, ys), the gradient) of params, xs, h(-1)."""

    def found(*at):
        return outputs_and_gradient(run, *at, {})

    def of_gradient(*at):
        return sum(jnp.sum(jnp.cos(g).real) for g in floats(found(*at)))

    return jax.jit(grad(of_gradient, (0, 1, 2)) if second_order else found)


def the_whole(name):
    """Per options and way of scanning: the error."""
    model = model_of(name)
    assert jax.device_count() == DEVICES
    for said, (series, shared) in options().items():
        shared = shared | ({"key": jax.random.key(7)} if model.stochastic else {})
        theirs = compiled(whole_run(model, series, **shared))(*problem(model, T))
        for scan in ("loop", "associative"):
            ours = compiled(split_run(model, series, scan=scan, **shared))(*problem(model, T))
            yield {"where": f"{name}, {said}, {scan}", "error": relative_error(ours, theirs)}


def other_ways():
    """Second order; without the check of replication; keys of the caller's own; a batch."""
    for name in ("lru", "min-gru", "own"):
        model = model_of(name)
        at = problem(model, T)
        for scan in ("loop", "associative") if name == "own" else ("loop",):
            both = (run(model, scan=scan) for run in (split_run, whole_run))
            ours, theirs = (compiled(run, second_order=True)(*at) for run in both)
            yield {"where": f"second order, {name}", "error": relative_error(ours, theirs)}
        ours = compiled(split_run(model, check_vma=False))(*at)
        theirs = compiled(whole_run(model))(*at)
        yield {"where": f"unchecked, {name}", "error": relative_error(ours, theirs)}

    model = model_of("deep")
    params, xs, _ = problem(model, T)
    keys = jax.random.split(jax.random.key(3), T)

    # A batch on one axis of the devices and time on the other; the loss and its gradient inside.
    mesh = mesh_of(2, DEVICES // 2, names=("batch", AXIS))
    batch = jnp.stack([xs, -xs, xs / 2, xs**2])

    def loss(params, batch, keys, over):
        adjoint = sj.BPTT(over=over)
        each = lambda xs: sj.unroll(model, params, xs, key=keys, adjoint=adjoint)[1]
        total = jnp.sum(jnp.sin(jax.vmap(each)(batch)))
        return total if over is None else jax.lax.psum(total, ("batch", AXIS))

    inside = jax.shard_map(
        lambda *at: jax.value_and_grad(loss, (0, 1))(*at, AXIS),
        mesh=mesh,
        in_specs=(P(), P("batch", AXIS), P(AXIS)),
        out_specs=(P(), (P(), P("batch", AXIS))),
    )
    ours = jax.jit(inside)(params, batch, keys)
    theirs = jax.jit(lambda *at: jax.value_and_grad(loss, (0, 1))(*at, None))(params, batch, keys)
    yield {"where": "a batch, inside", "error": relative_error(ours, theirs)}


def a_million_steps(dtype):
    """Of decays that forget nothing, a little, and more."""
    model = sj.lru(I, 4, 2, r_min=0.9, dtype=jnp.dtype(dtype))
    params = model.init(jax.random.key(0))
    decay = 10.0 ** -np.array([1, 3, 5, 7])
    params = params | {"nu_log": jnp.asarray(np.log(decay), dtype)}
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((10**6, I)), dtype)
    at = params, xs, model.initial_state(params)
    cotangent = normal(jax.eval_shape(whole_run(model), *at), 1)

    def pulled(run, *at):  # of given cotangents: `weighted` is a sine of a large number
        outputs, pull = jax.vjp(run, *at)
        return outputs, pull(cotangent)

    theirs = jax.jit(functools.partial(pulled, whole_run(model)))(*at)
    # In float32 the powers of a that an associative scan makes by squaring round T times as far.
    for scan in ("loop", "associative") if dtype == "float64" else ("loop",):
        ours = jax.jit(functools.partial(pulled, split_run(model, scan=scan)))(*at)
        yield {"where": scan, "error": relative_error(ours, theirs)}


def communication():
    """What devices exchange for the gradient of a series of this length, and where."""
    masked = lambda time: {"mask": jnp.arange(time) % 5 != 1, "reset": jnp.arange(time) % 7 == 2}
    runs = ("lru", None), ("lru", masked), ("min-gru", None), ("deep", None)
    for name, series in runs:
        model = model_of(name)
        for time in (8 * DEVICES, 128 * DEVICES):
            params, xs, state = problem(model, time)
            split = split_run(model, series and series(time))
            program = compiled(split).lower(params, xs, state).compile().as_text()
            assert " while(" in program  # or the loops were not read
            yield {"name": name, "time": time, **collectives(program)}


# Running them.
start = functools.partial(start_file, __file__)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("own", "deep") else pytest.mark.slow) for n in AFFINE],
)
def test_the_parts_are_the_whole(name):
    """Values, and the gradient by parameters, inputs and h(-1)."""
    found = results(start(DEVICES, "the_whole", name))
    assert len(found) == 6
    for result in found:
        assert result["error"] <= 1e-10, result


def test_every_affine_cell_is_tried():
    affine = {name for name, case in BY_NAME.items() if getattr(case.model, "coefficients", None)}
    assert affine == set(AFFINE) - set(MADE)


def test_other_ways():
    found = results(start(DEVICES, "other_ways"))
    assert len(found) == 8
    for result in found:
        assert result["error"] <= 1e-9, result


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-3)])
def test_a_million_steps(dtype, bound):
    found = results(start(DEVICES, "a_million_steps", dtype))
    assert len(found) == (2 if dtype == "float64" else 1)
    for result in found:
        assert result["error"] <= bound, result


def test_communication_does_not_depend_on_the_number_of_steps():
    found = results(start(DEVICES, "communication"))
    for short, long in zip(found[::2], found[1::2], strict=True):
        assert short["time"] < long["time"]
        assert short["exchanged"] == long["exchanged"]
        assert short["in loops"] == long["in loops"] == []
        gathers = [shape for kind, shape in short["exchanged"] if kind == "all-gather"]
        assert len(gathers) == (4 if short["name"] == "deep" else 2)  # forward and back, a cell


REFUSED = {
    "lstm": lambda: sj.lstm(I, I),
    "in a stack": lambda: sj.stack(sj.lru(I, 4, I), sj.residual(sj.gru(I, I))),
    "a delay line": lambda: sj.branches(sj.min_gru(I, I), sj.tdnn(I, I), merge="sum"),
    "narx": lambda: sj.narx(I, 4, 2),
    "both directions": lambda: sj.bidirectional(sj.lru(I, 4, I)),
    "a step of one's own": lambda: sj.from_step(lambda k: (), lambda p, h, x: (h, x), lambda p: ()),
    "feedback": lambda: sj.feedback(sj.min_gru(2 * I, I)),
    "a mask drawn once": lambda: sj.dropout(0.5, shared_over_time=True),
    "a kind of the caller's own": lambda: CumulativeSum(),
}


@dataclasses.dataclass(frozen=True)
class CumulativeSum(sj.Model):
    """It looks across time, and says nothing of it."""

    input_spec = None

    def init(self, key):
        return ()

    def initial_state(self, params):
        return ()

    def scan(self, params, state, xs, steps, adjoint):
        return state, jnp.cumsum(xs, axis=0)


class Divisible(CumulativeSum):
    """It says that it can be split, and runs a nonlinear recurrence."""

    divisible = True

    def scan(self, params, state, xs, steps, adjoint):
        cell = sj.rnn(I, I)
        params = cell.init(jax.random.key(0))
        return cell.scan(params, cell.initial_state(params), xs, steps, adjoint)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split(name):
    model = REFUSED[name]()
    params = model.init(KEY)
    with pytest.raises(ValueError, match="over: expected None, or a model of which each"):
        sj.unroll(model, params, jnp.ones((4, I)), adjoint=sj.BPTT(over=AXIS))


def test_the_message_names_the_part_and_what_can_be_done():
    model = sj.stack(sj.lru(I, 4, I), sj.residual(sj.gru(I, I)))
    with pytest.raises(ValueError, match="over") as caught:
        sj.unroll(model, model.init(KEY), jnp.ones((4, I)), adjoint=sj.BPTT(over=AXIS))
    assert str(caught.value) == (
        "over: expected None, or a model of which each part is linear in its state (sj.lru, any "
        "cell with `coefficients`) or has none, got 'time' for gru(3, 3): split the batch over "
        "devices instead, or run the series in pieces, each from the state that the one before "
        "ended in"
    )


def on_one_device(model, xs_spec=None, **options):
    """`unroll` on a mesh of one device."""
    run = lambda params, xs: sj.unroll(model, params, xs, **options)[1]
    xs_spec = P(AXIS) if xs_spec is None else xs_spec
    return jax.shard_map(run, mesh=mesh_of(1), in_specs=(P(), xs_spec), out_specs=P(AXIS))


def test_what_does_not_fit():
    over = {"adjoint": sj.BPTT(over=AXIS)}
    model = sj.lru(I, 4, 2)
    params, xs = model.init(KEY), jnp.ones((4, I), model.dtype)
    name = r"over: expected the name of a mesh axis of the jax.shard_map that unroll runs in"
    with pytest.raises(ValueError, match=rf"{name} \(none here\), got 'time'"):
        sj.unroll(model, params, xs, **over)
    with pytest.raises(ValueError, match=rf"{name} \('time'\), got 'steps'"):
        on_one_device(model, adjoint=sj.BPTT(over="steps"))(params, xs)
    with pytest.raises(ValueError, match="xs: expected a part of the series on each device"):
        on_one_device(model, P(), **over)(params, xs)
    with pytest.raises(ValueError, match=r"length: expected .* in \[0, 4\], got 5"):
        on_one_device(model, length=5, **over)(params, xs)
    with pytest.raises(ValueError, match="over: expected None where a part of the model is not"):
        on_one_device(Divisible(), **over)((), xs)
    callback = sj.stack(model, lambda y: jax.pure_callback(lambda y: y, y, y))
    with pytest.raises(ValueError, match="over: expected None where steps run one"):
        on_one_device(callback, **over)(callback.init(KEY), xs)


WHOLE = {
    "length": jnp.array([4]),
    "key": jax.random.split(KEY, 1),
    "state": jnp.zeros((1, 4), "complex128"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_of_the_whole_series_and_not_the_same_on_all_devices(name):
    model = sj.stack(sj.lru(I, 4, 2), sj.dropout(0.5))
    params, xs = model.init(KEY), jnp.ones((4, I), jnp.float64)

    def run(params, xs, one):
        given = {name: one[0] if name != "state" else (one[0], ())}
        return sj.unroll(model, params, xs, **given, adjoint=sj.BPTT(over=AXIS))[1]

    for spec in (P(AXIS), P()):
        specs = {"in_specs": (P(), P(AXIS), spec), "out_specs": P(AXIS)}
        mapped = jax.shard_map(run, mesh=mesh_of(1), **specs)
        if spec == P():
            assert mapped(params, xs, WHOLE[name]).shape == (4, 2)
            continue
        with pytest.raises(ValueError, match=f"^{name}: expected what is the same on all devices"):
            mapped(params, xs, WHOLE[name])


@pytest.mark.parametrize("name", ["xs", "mask", "reset"])
def test_steps_that_explicit_axes_split(name):
    model = sj.lru(I, 4, 2)
    series = {"xs": jnp.ones((4, I), model.dtype), "mask": jnp.ones(4, bool)}
    series["reset"] = series["mask"]
    with jax.set_mesh(jax.make_mesh((1,), (AXIS,), axis_types=(jax.sharding.AxisType.Explicit,))):
        series[name] = jax.device_put(series[name], P(AXIS))
        message = rf"^{name}: expected a series whose steps are not split .*, split over 'time'$"
        with pytest.raises(ValueError, match=message):
            sj.unroll(model, model.init(KEY), **series)


@pytest.mark.parametrize("option", [{"chunk": 4}, {"truncate": 4}, {"clip": 1.0}])
def test_what_acts_step_by_step(option):
    (name,) = option
    with pytest.raises(ValueError, match=rf"{name}: expected None with over='time', where each"):
        sj.BPTT(over=AXIS, **option)


def test_chunk_starts():
    with pytest.raises(ValueError, match=r"store: .*'states' or .* where there are no chunks"):
        sj.BPTT(over=AXIS, store="chunk_starts")


if __name__ == "__main__":
    print_rows(globals())
