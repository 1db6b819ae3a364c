"""What seqjax uses of JAX that is not promised to stay, each name with what it is needed for.

Nothing else in seqjax reads a name that is private to JAX or whose spelling differs between the
versions that are supported. tests/engine/test_jax_names.py fails where one is gone or means
something else, so that no renamed attribute silently changes what is compiled.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, batching, mlir

__all__ = [
    "CALLBACKS",
    "Literal",
    "Primitive",
    "ad",
    "axes_of",
    "batching",
    "buffer_of",
    "eval_jaxpr",
    "explicit_mesh",
    "has_explicit_axes",
    "inner_jaxprs",
    "is_impure",
    "is_staged",
    "mapped_size",
    "matmul_precision",
    "mlir",
    "number_of_devices",
    "on_mesh",
    "part_of",
    "placed_as",
    "repeated",
    "sharding",
    "skipping",
    "type_of_result",
    "uses",
    "vary_over",
    "varying_axes",
    "zero_tangent",
]

# Runs the equations of a jaxpr on values. In `jax.core` in 0.8 to 0.12.
eval_jaxpr = jax.core.eval_jaxpr

# The primitives that call back into Python but have no effect in the jaxpr's own list of them.
CALLBACKS = {"pure_callback", "io_callback", "debug_callback", "debug_print"}


def part_of(jaxpr: Any, inputs: list, equations: list, outputs: list) -> Any:
    """Some equations of a jaxpr as one of their own. `Jaxpr.replace` is not documented."""
    return jaxpr.replace(constvars=[], invars=inputs, eqns=equations, outvars=outputs)


def skipping(jaxpr: Any, primitive: Primitive) -> Any:
    """A jaxpr in which an operation of one operand is the identity, at any depth.

    A function with a rule of its own (`custom_vjp`, `custom_jvp`) stays as it is.
    """
    if not uses(jaxpr, primitive.name):
        return jaxpr
    same: dict = {}
    read = lambda v: v if isinstance(v, Literal) else same.get(v, v)
    equations = []
    for equation in jaxpr.eqns:
        operands = [read(v) for v in equation.invars]
        if equation.primitive is primitive:
            same[equation.outvars[0]] = operands[0]
            continue
        params = equation.params
        if not equation.primitive.name.startswith("custom_"):
            params = jax.tree.map(lambda value: _inner_skipping(value, primitive), params)
        equations.append(equation.replace(invars=operands, params=params))
    return jaxpr.replace(eqns=equations, outvars=[read(v) for v in jaxpr.outvars])


def _inner_skipping(value: Any, primitive: Primitive) -> Any:
    if hasattr(value, "jaxpr"):  # a ClosedJaxpr
        return value.replace(jaxpr=skipping(value.jaxpr, primitive))
    return skipping(value, primitive) if hasattr(value, "eqns") else value


def is_impure(jaxpr: Any) -> bool:
    """Whether a jaxpr calls back into Python or names a mapped axis, at any depth.

    `Jaxpr.effects` holds the effects of callbacks, and a NamedAxisEffect for `lax.psum` and its
    kind. `pure_callback` has none, but may not have a batching rule either.
    """
    if jaxpr.effects:
        return True
    for equation in jaxpr.eqns:
        if equation.primitive.name in CALLBACKS:
            return True
        if any(map(is_impure, inner_jaxprs(equation))):
            return True
    return False


def uses(jaxpr: Any, name: str) -> bool:
    """Whether a primitive with a name that begins so is called, at any depth.

    A "custom_vjp_call" has a backward pass, which no jaxpr of the function shows.
    """
    return any(
        equation.primitive.name.startswith(name)
        or any(uses(inner, name) for inner in inner_jaxprs(equation))
        for equation in jaxpr.eqns
    )


def inner_jaxprs(equation: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters: bodies of loops, branches, called functions."""
    for value in jax.tree.leaves(tuple(equation.params.values())):
        inner = getattr(value, "jaxpr", value)  # ClosedJaxpr.jaxpr
        if hasattr(inner, "eqns"):
            yield inner


def number_of_devices(ctx: Any) -> int | None:
    """The devices that a program is lowered for; None inside `jax.shard_map`, on one device each.

    `LoweringRuleContext.module_context.axis_context` is a ShardingContext, which counts them, or
    inside `shard_map` an SPMDAxisContext, which does not.
    """
    axes = ctx.module_context.axis_context
    return axes.num_devices if type(axes).__name__ == "ShardingContext" else None


def mapped_size(array: Any) -> int:
    """How many arrays `jax.vmap` has put beside each other in a tracer, as far as can be seen.

    Of what explicit axes split, those of one device.
    """
    return _under_transformations(array)[1]


def is_staged(array: Any) -> bool:
    """Whether an array stands for a value to come: of a program that is being traced by `jit`."""
    return isinstance(_under_transformations(array)[0], jax.core.Tracer)


def _under_transformations(array: Any) -> tuple[Any, int]:
    """What `vmap` and `grad` have put into tracers, and the number of arrays that `vmap` did.

    A BatchTracer has `val` and `batch_dim`, a tracer of differentiation `primal`.
    """
    size = 1
    while isinstance(array, jax.core.Tracer):
        if hasattr(array, "batch_dim"):
            array, axis = array.val, array.batch_dim
            # Mapped, and not of a symbolic size, in `jax.export`.
            if isinstance(axis, int) and isinstance(array.shape[axis], int):
                size *= array.shape[axis] // _shards(array, axis)
        elif hasattr(array, "primal"):
            array = array.primal
        else:
            break
    return array, size


def matmul_precision() -> Any:
    """What `jax.default_matmul_precision` says here: an attribute of `jax.config`."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # made at run time


def varying_axes(array: Any) -> frozenset:
    """The axes of a `shard_map` over which an array varies: `manual_axis_type`, once `vma`."""
    aval = jax.typeof(array)
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return aval.vma


def vary_over(names: frozenset, array: Any) -> Any:
    """Inside `shard_map`: `array` counted as varying over these axes. Once `lax.pvary`."""
    missing = tuple(names - varying_axes(array))
    if not missing:
        return array
    if hasattr(lax, "pcast"):
        return lax.pcast(array, missing, to="varying")
    return lax.pvary(array, missing)  # type: ignore[attr-defined]  # gone in newer versions


def explicit_mesh(*arrays: Any) -> Any:
    """The mesh with axes of `jax.sharding.AxisType.Explicit` that an array lies on; None without.

    Such an array has its sharding in its type: `aval.sharding.mesh.axis_types`.
    """
    meshes = (jax.typeof(a).sharding.mesh for a in arrays)
    return next(filter(_is_explicit, meshes), None)


def _is_explicit(mesh: Any) -> bool:
    return jax.sharding.AxisType.Explicit in mesh.axis_types


def has_explicit_axes(*types: Any) -> bool:
    """Whether an array of one of these types (`jax.typeof`) lies on such a mesh."""
    return any(_is_explicit(aval.sharding.mesh) for aval in types)


def type_of_result(function: Any, *types: Any) -> Any:
    """The type of `function` at arguments of these types, its sharding with it."""
    (result,) = jax.make_jaxpr(function)(*types).out_avals
    return result


def _shards(array: Any, axis: int) -> int:
    """The parts that such a mesh splits an axis of an array into."""
    over = axes_of(array)[axis]
    names = over if isinstance(over, tuple) else () if over is None else (over,)
    return math.prod(jax.typeof(array).sharding.mesh.shape[name] for name in names)


def axes_of(array: Any) -> tuple:
    """The axes of such a mesh that each axis of an array is split over; None without."""
    return tuple(jax.typeof(array).sharding.spec)


def sharding(axes: tuple, *arrays: Any) -> Any:
    """Of what is split over these axes of the explicit mesh that an array lies on; None without.

    What `out_sharding` is, where JAX does not choose it.
    """
    mesh = explicit_mesh(*arrays)
    if mesh is None:
        return None
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def repeated(array: Any, sizes: tuple[int, ...], axes: tuple) -> Any:
    """`array` along new leading axes of these sizes, split over these mesh axes."""
    shape, kept = (*sizes, *array.shape), range(len(sizes), len(sizes) + array.ndim)
    place = sharding((*axes, *axes_of(array)), array)
    return lax.broadcast_in_dim(array, shape, tuple(kept), out_sharding=place)


def placed_as(array: Any, aval: Any) -> Any:
    """`array` split over such a mesh as one of type `aval` is: a cotangent as its primal."""
    if not _is_explicit(aval.sharding.mesh) or jax.typeof(array).sharding == aval.sharding:
        return array
    return jax.sharding.reshard(array, aval.sharding)


def on_mesh(mesh: Any, array: Any) -> Any:
    """`array`, replicated over `mesh` if its type has no mesh: a constant, in 0.8 `jnp.zeros`.

    `vmap` cannot give a loop's carry the sharding of the batch if it is not on the mesh.
    """
    if mesh is None or not jax.typeof(array).sharding.mesh.empty:
        return array
    return jax.sharding.reshard(
        array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )


def buffer_of(array: jax.Array) -> int:
    """Where an array is in memory: two arrays may be one buffer, e.g. after a device_put."""
    return array.addressable_data(0).unsafe_buffer_pointer()


def zero_tangent(primal: Any) -> Any:
    """What a JVP rule returns where there is no derivative. Once `Zero.from_primal_value`."""
    return ad.Zero(jax.typeof(primal).to_tangent_aval())
