"""What a program is made of."""

import jax


def scans(jaxpr):
    """Every scan of a jaxpr, those in its sub-programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for value in jax.tree.leaves(tuple(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scans(inner)
