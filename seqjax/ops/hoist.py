"""What a loop over time need not do at every step.

XLA leaves work on parameters inside a loop. Above all a transposed kernel is arranged anew for
every product with it, which takes longer than the product itself where the batch is small.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal

__all__ = ["hoist"]


def hoist(function: Callable, params: Any, *example: Any) -> Callable:
    """`function(params, …)` as a function of the rest: what depends on `params` alone is done now.

    Args:
      function: `(params, *args) -> result`, all pytrees of arrays.
      params: its first argument.
      *example: arguments of the shapes and dtypes that it will be called with; not computed with.

    >>> import jax.numpy as jnp
    >>> kernel = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    >>> back = hoist(lambda kernel, d: d @ kernel.T, kernel, jnp.zeros(2))   # transposed once
    >>> back(jnp.array([1.0, 1.0])).tolist()
    [3.0, 1.0]
    """
    # Traced anew each time, as the body of a loop is: JAX would keep the trace of `function`, and
    # what it closes over may have changed (chex puts another `stop_gradient` there for a while).
    traced = jax.make_jaxpr(lambda *at: function(*at), return_shape=True)
    closed, result = traced(params, *example)
    jaxpr, number = closed.jaxpr, len(jax.tree.leaves(params))
    given, varying = [*jaxpr.constvars, *jaxpr.invars[:number]], jaxpr.invars[number:]
    known, now, later = dict.fromkeys(given), [], []
    for equation in jaxpr.eqns:
        operands = [v for v in equation.invars if not isinstance(v, Literal)]
        # Not what depends on nothing: a constant is cheaper made than kept.
        if operands and all(v in known for v in operands) and not equation.effects:
            now.append(equation)
            known |= dict.fromkeys(equation.outvars)
        else:
            later.append(equation)
    once = jaxpr.replace(constvars=[], invars=given, eqns=now, outvars=list(known))
    always = jaxpr.replace(constvars=[], invars=[*known, *varying], eqns=later)
    values = jax.core.eval_jaxpr(once, (), *closed.consts, *jax.tree.leaves(params))

    def rest(*args):
        results = jax.core.eval_jaxpr(always, (), *values, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(result), results)

    return rest
