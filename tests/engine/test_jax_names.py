"""What JAX does not promise: each name that `seqjax.ops._jax` reads still means what it did."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from seqjax.ops import _jax

PACKAGE = pathlib.Path(_jax.__file__).parent.parent
PRIVATE = ("jax._src", "jax.core", "jax.extend", "jax.interpreters")


def test_one_module_alone_reads_what_is_private_to_jax():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "_jax.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(PRIVATE), path
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith(PRIVATE) for a in node.names), path
            if isinstance(node, ast.Attribute) and node.attr in ("_src", "interpreters", "vma"):
                raise AssertionError(f"{path}:{node.lineno}")


def test_part_of_a_jaxpr_runs():
    closed = jax.make_jaxpr(lambda x, y: (jnp.sin(x) * y, x))(1.0, 2.0)
    jaxpr = closed.jaxpr
    first = _jax.part_of(jaxpr, jaxpr.invars[:1], jaxpr.eqns[:1], jaxpr.eqns[0].outvars)
    (value,) = _jax.eval_jaxpr(first, (), jnp.array(1.0))
    assert float(value) == pytest.approx(0.8414709848)


def test_an_operation_is_skipped():
    negative = _jax.Primitive("negative of a test")
    negative.def_abstract_eval(lambda a: a)
    jaxpr = jax.make_jaxpr(lambda x: (negative.bind(x) * 2, negative.bind(x)))(1.0).jaxpr
    without = _jax.skipping(jaxpr, negative)
    assert [float(a) for a in _jax.eval_jaxpr(without, (), jnp.array(3.0))] == [6.0, 3.0]
    inside = jax.jit(lambda x: lax.fori_loop(0, 2, lambda _, a: negative.bind(a) + 1, x))
    jaxpr = jax.make_jaxpr(inside)(1.0).jaxpr
    (value,) = _jax.eval_jaxpr(_jax.skipping(jaxpr, negative), (), jnp.array(3.0))
    assert value == 5


def printing(x):
    jax.debug.print("{}", x)
    return x


def callback(x):
    return jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((), jnp.float64), x)


@pytest.mark.parametrize(
    ("function", "impure"),
    [
        (jnp.sin, False),
        (jax.nn.relu, False),
        (printing, True),
        (callback, True),
        (jax.jit(callback), True),
        (lambda x: lax.fori_loop(0, 3, lambda _, a: callback(a), x), True),
        (lambda x: lax.fori_loop(0, 3, lambda _, a: jnp.sin(a), x), False),
    ],
)
def test_what_calls_back_is_seen_at_any_depth(function, impure):
    assert _jax.is_impure(jax.make_jaxpr(function)(jnp.array(1.0)).jaxpr) == impure


def test_a_named_axis_is_seen():
    def look(x):
        assert _jax.is_impure(jax.make_jaxpr(lambda x: lax.pmean(x, "batch"))(x).jaxpr)
        assert not _jax.is_impure(jax.make_jaxpr(jnp.sin)(x).jaxpr)
        return x

    jax.vmap(look, axis_name="batch")(jnp.ones(3))


def test_a_custom_vjp_is_seen_at_any_depth():
    rule = jax.custom_vjp(lambda x: x)
    rule.defvjp(lambda x: (x, None), lambda _, g: (g,))
    for function, found in [(rule, True), (jax.jit(rule), True), (jax.jit(jnp.sin), False)]:
        assert _jax.uses(jax.make_jaxpr(function)(1.0).jaxpr, "custom_vjp_call") == found


def test_the_devices_of_a_program_are_counted():
    seen = []
    probe = _jax.Primitive("probe of a test")
    probe.def_abstract_eval(lambda a: a)

    def lower(ctx, a):
        seen.append(_jax.number_of_devices(ctx))
        return [a]

    _jax.mlir.register_lowering(probe, lower)
    jax.jit(probe.bind).lower(jnp.ones(3))
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    mapped = jax.shard_map(probe.bind, mesh=mesh, in_specs=spec, out_specs=spec)
    jax.jit(mapped).lower(jnp.ones(3))
    assert seen == [1, None]


def test_the_precision_in_force_is_read():
    assert _jax.matmul_precision() is None
    with jax.default_matmul_precision("highest"):
        assert _jax.matmul_precision() == "highest"


def test_the_buffer_of_an_array_is_seen():
    array = jnp.ones(3)
    same = jax.device_put(array, jax.devices()[0])
    assert same is not array
    assert _jax.buffer_of(same) == _jax.buffer_of(array) != _jax.buffer_of(jnp.copy(array))


def test_what_is_staged():
    seen = []
    look = lambda a: seen.append(_jax.is_staged(a)) or jnp.sin(a)
    jax.vmap(jax.grad(look))(jnp.ones(3))
    jax.grad(lambda a: jnp.sum(jax.vmap(look)(a)))(jnp.ones(3))
    assert seen == [False, False]
    jax.jit(look)(1.0)
    jax.jit(jax.vmap(jax.grad(look)))(jnp.ones(3))
    jax.make_jaxpr(lambda a: look(a))(1.0)
    assert seen[2:] == [True, True, True]


def test_axes_that_an_array_varies_over():
    def look(x):
        assert _jax.varying_axes(x) == {"batch"}
        assert _jax.varying_axes(jnp.ones(3)) == frozenset()
        (name,) = _jax.varying_axes(_jax.vary_over(frozenset({"batch"}), jnp.ones(3)))
        assert name == "batch"
        return x

    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    jax.jit(jax.shard_map(look, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.ones(3))


def test_explicit_axes_are_seen():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    off, on = jnp.ones(3), jax.device_put(jnp.ones((2, 3)), sharding)
    assert _jax.has_explicit_axes(jax.typeof(off), jax.typeof(on))
    assert not _jax.has_explicit_axes(jax.typeof(off))
    assert _jax.axes_of(on) == ("batch", None)
    assert _jax.axes_of(off) == (None,)
    spec = jax.sharding.PartitionSpec(None, "batch")
    assert _jax.sharding((None, "batch"), off, on).spec == spec
    assert _jax.sharding((None, "batch"), off) is None

    def look(on):
        assert _jax.type_of_result(lambda a: jnp.sin(a).T, jax.typeof(on)).sharding.spec == spec
        common = _jax.on_mesh(_jax.explicit_mesh(on), off)
        assert _jax.axes_of(_jax.repeated(common, (2,), ("batch",))) == ("batch", None)
        return on

    with jax.set_mesh(mesh):
        jax.jit(look)(on)
    assert _jax.repeated(off, (2, 4), (None, None)).shape == (2, 4, 3)


def test_a_constant_comes_onto_the_mesh_of_others():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def look(x):
        assert jax.typeof(jnp.array(0)).sharding.mesh.empty
        (found,) = {_jax.explicit_mesh(jnp.array(0), x), _jax.explicit_mesh(x)}
        assert jax.typeof(_jax.on_mesh(found, jnp.array(0))).sharding.mesh == found
        assert _jax.on_mesh(found, x) is x  # and is not replicated
        return x

    with jax.set_mesh(mesh):
        jax.jit(look)(jax.device_put(jnp.ones(3), sharding))
    constant = jnp.array(0)
    assert _jax.on_mesh(_jax.explicit_mesh(constant), constant) is constant
