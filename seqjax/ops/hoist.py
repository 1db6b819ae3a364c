"""What a loop over time need not do at every step.

A function that runs inside a loop over time is traced once, and its equations are sorted by what
they depend on: on parameters alone, they run once, before the loop; on what is known of a step
beforehand, they run for all steps in parallel; the rest is all that the loop has to do. XLA does
not do so: it leaves work on parameters inside a loop, above all a transposed kernel, which is
arranged anew for every product with it.

Only dependence is looked at: a function of the user's own, or a rule with a `custom_vjp` in it, is
computed as it stands, be it linear or not.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from seqjax._types import PyTree
from seqjax.ops._jax import CALLBACKS, Literal, Primitive, eval_jaxpr, part_of, skipping

__all__ = ["Hoisted", "hoist"]


class Hoisted(NamedTuple):
    """A function in three parts, and what it closes over.

    Attributes:
      once: `once(closed_over, params) -> values`.
      per_step: `per_step(values, known) -> values of this step`, without effects; for `vmap`.
      rest: `rest(values, values of this step, *args) -> result`.
      closed_over: the arrays that the function closes over: to be handed to `once`, which makes
        them arguments like any other. A `custom_vjp` cannot close over what is differentiated.
      result: the structure of the result, its leaves without values.
      skipped: whether an operation was taken for the identity.
      of_params: the structure of the result: which leaves depend on parameters and nothing else.
    """

    once: Callable[[list, PyTree], list]
    per_step: Callable[[list, PyTree], list]
    rest: Callable[..., PyTree]
    closed_over: list
    result: PyTree
    skipped: bool
    of_params: PyTree


def hoist(
    function: Callable,
    params: PyTree,
    known: PyTree,
    *args: PyTree,
    without: Primitive | None = None,
) -> Hoisted:
    """Sorts the equations of `function(params, known, *args)`.

    Args:
      function: of pytrees of arrays, to a pytree of arrays.
      params: what does not change over time.
      known: an example of what is known of a step before the loop.
      *args: examples of what only the loop knows. Of all examples only the types are used.
      without: an operation of one operand to take for the identity.

    >>> import jax.numpy as jnp
    >>> kernel = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> hoisted = hoist(lambda kernel, _, d: d @ kernel.T, kernel, (), jnp.zeros(2))
    >>> transposed = hoisted.once(hoisted.closed_over, kernel)
    >>> hoisted.rest(transposed, [], jnp.array([1.0, 1.0])).tolist()
    [3.0, 1.0]
    """
    # Traced anew each time, as the body of a loop is: JAX would keep the trace of `function`, and
    # what it closes over may have changed.
    traced = jax.make_jaxpr(lambda *at: function(*at), return_shape=True)
    closed, result = traced(params, known, *args)
    jaxpr = closed.jaxpr if without is None else skipping(closed.jaxpr, without)
    numbers = [len(jax.tree.leaves(tree)) for tree in (params, known)]
    inputs = (
        [*jaxpr.constvars, *jaxpr.invars[: numbers[0]]],
        jaxpr.invars[numbers[0] : sum(numbers)],
        jaxpr.invars[sum(numbers) :],
    )
    level = {variable: number for number, group in enumerate(inputs) for variable in group}
    equations: tuple[list, list, list] = ([], [], [])
    for equation in jaxpr.eqns:
        operands = [level[v] for v in equation.invars if not isinstance(v, Literal)]
        # What depends on nothing is done in the loop: a constant is cheaper made than kept.
        number = max(operands, default=2)
        if equation.effects or equation.primitive.name in CALLBACKS:
            number = 2
        equations[number].append(equation)
        level |= dict.fromkeys(equation.outvars, number)

    def needed(number: int) -> list:
        """What `equations` of higher numbers, and the result, read of those up to this one."""
        read = [v for later in equations[number + 1 :] for e in later for v in e.invars]
        read += jaxpr.outvars
        found = [v for v in read if not isinstance(v, Literal) and level[v] <= number]
        return list(dict.fromkeys(found))

    from_once, from_step = needed(0), [v for v in needed(1) if level[v] == 1]
    run_once = part_of(jaxpr, [*inputs[0]], equations[0], from_once)
    run_step = part_of(jaxpr, [*from_once, *inputs[1]], equations[1], from_step)
    run_rest = part_of(
        jaxpr, [*from_once, *from_step, *inputs[2]], equations[2], list(jaxpr.outvars)
    )
    structure = jax.tree.structure(result)

    def once(closed_over: list, params: PyTree) -> list:
        return eval_jaxpr(run_once, (), *closed_over, *jax.tree.leaves(params))

    def per_step(values: list, known: PyTree) -> list:
        return eval_jaxpr(run_step, (), *values, *jax.tree.leaves(known))

    def rest(values: list, of_step: list, *args: PyTree) -> PyTree:
        results = eval_jaxpr(run_rest, (), *values, *of_step, *jax.tree.leaves(args))
        return jax.tree.unflatten(structure, results)

    skipped = jaxpr is not closed.jaxpr
    of_params = [not isinstance(v, Literal) and level[v] == 0 for v in jaxpr.outvars]
    of_params = jax.tree.unflatten(structure, of_params)
    return Hoisted(once, per_step, rest, list(closed.consts), result, skipped, of_params)
