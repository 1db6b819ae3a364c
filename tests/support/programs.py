"""What a program is made of."""

from seqjax.ops._jax import inner_jaxprs


def scans(jaxpr):
    """Every scan of a jaxpr, those in its sub-programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for inner in inner_jaxprs(equation):
            yield from scans(inner)
