"""What the results must be: plain scans and loops over a model's own step, and their gradients."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from support.comparison import floats
from support.table import normal

import seqjax as sj
from seqjax.compose.bidirectional import Bidirectional
from seqjax.compose.stack import Stack


def naive(model, params, xs, state, truncate=None):
    """A scan over the model's own step: neither hoisting nor anything else of `unroll`.

    With `truncate` the state that is carried is cut before the steps k, 2k, … It may be traced.
    """
    if isinstance(model, Stack) and not model.causal:
        last = []
        for layer, p, s in zip(model.models, params, state, strict=True):
            s, xs = naive(layer, p, xs, s, truncate)
            last.append(s)
        return tuple(last), xs
    if isinstance(model, Bidirectional):
        forth = naive(model.forward, params["forward"], xs, state["forward"], truncate)
        back = naive(model.backward, params["backward"], xs[::-1], state["backward"], truncate)
        return {"forward": forth[0], "backward": back[0]}, merged(model, forth[1], back[1][::-1])

    def step(carry, x):
        t, s = carry
        if truncate is not None:
            held = jax.tree.map(lax.stop_gradient, s)
            now = (t > 0) & (t % truncate == 0)
            s = jax.tree.map(lambda a, b: jnp.where(now, a, b), held, s)
        s, y = model.step(params, s, x)
        return (t + 1, s), y

    (_, state), ys = lax.scan(step, (jnp.array(0), state), xs)
    return state, ys


def merged(model, forth, back):
    """The outputs of a bidirectional model, from those of its two nets."""
    return {
        "concat": lambda: jnp.concatenate([forth, back], axis=1),
        "mean": lambda: (forth + back) / 2,
        "product": lambda: forth * back,
    }[model.merge]()


def loop(model, params, xs, state, *, valid, reset, reverse, truncate, keys=None):
    """What the options mean, one step after the other, in plain Python."""
    time = len(valid)
    how = {"valid": valid, "reset": reset, "reverse": reverse, "truncate": truncate}
    of_part = lambda n: None if keys is None else [jax.random.fold_in(key, n) for key in keys]
    if isinstance(model, Stack):
        last = []
        for number, (layer, p, s) in enumerate(zip(model.models, params, state, strict=True)):
            s, xs = loop(layer, p, xs, s, **how, keys=of_part(number))
            last.append(s)
        return tuple(last), xs
    if isinstance(model, Bidirectional):
        forth = loop(model.forward, params["forward"], xs, state["forward"], **how, keys=of_part(0))
        how |= {
            "keys": of_part(1),
            "reset": of_the_other_way(valid, reset, reverse),
            "reverse": not reverse,
        }
        how |= {"keys": of_part(1)}
        back = loop(model.backward, params["backward"], xs, state["backward"], **how)
        return {"forward": forth[0], "backward": back[0]}, merged(model, forth[1], back[1])
    ys = [None] * time
    order = [t for t in range(time) if valid[t]]
    for number, t in enumerate(order[::-1] if reverse else order):
        if truncate is not None and number and number % truncate == 0:
            state = jax.tree.map(jax.lax.stop_gradient, state)
        if reset[t]:
            state = model.initial_state(params)
        key = {"key": keys[t]} if keys is not None and model.stochastic else {}
        state, ys[t] = _step(model)(params, state, jax.tree.map(lambda a, t=t: a[t], xs), **key)
    x = jax.tree.map(lambda a: a[0], xs)
    y = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.step, params, state, x)[1])
    ys = [y if step is None else step for step in ys]
    return state, jax.tree.map(lambda *steps: jnp.stack(steps), *ys)


@functools.cache
def _step(model):
    """Compiled, and so is its derivative, once for all steps of a loop."""
    return jax.jit(model.step)


def of_the_other_way(valid, reset, reverse):
    """Where a net that reads the other way comes into another series."""
    order = [t for t in range(len(valid)) if valid[t]]
    order = order[::-1] if reverse else order
    other = np.zeros(len(valid), bool)
    for before, after in itertools.pairwise(order):
        other[before] = reset[after]
    return other


class Gradient(NamedTuple):
    """Of a loss by the arguments of `unroll`; the leaves that are no numbers are of float0."""

    params: Any
    xs: Any
    state: Any


def weighted(outputs, seed=5):
    """A loss of everything that a run returns: another random weight for every number."""
    weights = normal(jax.tree.map(lambda a: a, outputs), seed)
    pairs = zip(floats(weights), floats(outputs), strict=True)
    return jnp.sin(sum(jnp.sum(jnp.real(w * y)) for w, y in pairs))


class Parts(NamedTuple):
    """A complex array, for `jax.grad`, which takes none."""

    real: jax.Array
    imag: jax.Array


def grad(function, argnums=0, *, has_aux=False):
    """`jax.grad` by leaves of any dtype: of integers float0, of complex ones ∂/∂x - i ∂/∂y."""
    parts = lambda a: Parts(a.real, a.imag) if jnp.iscomplexobj(a) else a
    whole = lambda p: jax.lax.complex(*p) if isinstance(p, Parts) else p
    joined = lambda tree: jax.tree.map(whole, tree, is_leaf=lambda p: isinstance(p, Parts))
    conjugate = lambda a: jnp.conj(a) if a.dtype != jax.dtypes.float0 else a

    def gradient(*args):
        of_parts = lambda *args: function(*joined(args))
        found = jax.grad(of_parts, argnums, has_aux, allow_int=True)(*jax.tree.map(parts, args))
        found, aux = found if has_aux else (found, None)
        found = jax.tree.map(conjugate, joined(found))
        return (found, aux) if has_aux else found

    return gradient


def gradient_of(run, loss=weighted):
    """Jitted: (params, xs, state) to the gradient of `loss(run(params, xs, state))`."""
    gradient = jax.jit(grad(lambda *at: loss(run(*at)), (0, 1, 2)))
    return lambda *at: Gradient(*gradient(*at))


def gradient(model, loss=weighted, **options):
    """Jitted: (params, xs, state) to the gradient of `loss(state, ys)` of a run of `model`."""
    return gradient_of(functools.partial(sj.unroll, model, **options), loss)


def clipper(bound):
    """An identity that clips its cotangent: what `BPTT(clip=bound)` does to each state."""

    @jax.custom_vjp
    def clipped(tree):
        return tree

    def backward(_, cotangent):
        clip = lambda c: c if c.dtype == jax.dtypes.float0 else jnp.clip(c, -bound, bound)
        return (jax.tree.map(clip, cotangent),)

    clipped.defvjp(lambda tree: (tree, None), backward)
    return clipped


def outputs_and_gradient(run, params, xs, state, options):
    """((state, ys), the gradient by numbers) of `run`, a model or what stands for it."""
    run = functools.partial(sj.unroll, run) if isinstance(run, sj.Model) else run

    def loss(params, xs, state):
        outputs = run(params, xs, state, **options)
        return weighted(outputs), outputs

    grads, outputs = grad(loss, (0, 1, 2), has_aux=True)(params, xs, state)
    numbers = jax.tree.map(lambda g: None if g.dtype == jax.dtypes.float0 else g, grads)
    return outputs, Gradient(*numbers)
