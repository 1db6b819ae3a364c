"""What `compare` measures of each library: one layer, ragged series, more layers, two directions.

A network holds one set of weights and one initial state for each of its layers. Of a library on
JAX the layers are put together by hand, as its users do where it has nothing for it; seqjax and
PyTorch use what they have.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

import seqjax as sj
from benchmarks import peers
from benchmarks.peers import GATES, Peer

LAYERS = {"two layers": 2, "two directions": 2, "three layers": 3}


class Problem(NamedTuple):
    """Of one kind of cell: weights and state by layer, series [B, T, I], ∂DIV/∂ys, lengths."""

    kind: str
    network: str
    weights: list[dict]
    xs: Any
    state: list[list]
    cotangent: Any
    lengths: Any

    @property
    def valid(self):
        """float32 [B, T, 1], 1 at the steps of each series."""
        steps = jnp.arange(self.xs.shape[1])
        return (steps[None, :, None] < self.lengths[:, None, None]).astype(jnp.float32)


def draw(kind: str, network: str, steps: int, batch: int, size: int) -> Problem:
    rng = np.random.default_rng(0)
    uniform = lambda *shape: jnp.asarray(rng.uniform(-1, 1, shape) / size**0.5, jnp.float32)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    columns = GATES[kind] * size
    layers = LAYERS.get(network, 1)
    shapes = {"kernel": (size, columns), "recurrent_kernel": (size, columns), "bias": (columns,)}
    weights = [{name: uniform(*shape) for name, shape in shapes.items()} for _ in range(layers)]
    state = [[normal(batch, size) for _ in range(1 + (kind == "lstm"))] for _ in range(layers)]
    width = 2 * size if network == "two directions" else size
    least = steps // 4 if network == "ragged" else steps
    lengths = jnp.asarray(rng.integers(least, steps + 1, batch), jnp.int32)
    xs, cotangent = normal(batch, steps, size), normal(batch, steps, width)
    problem = Problem(kind, network, weights, xs, state, cotangent, lengths)
    return problem._replace(cotangent=cotangent * problem.valid)


def build(name: str, problem: Problem) -> Peer | None:
    """A peer whose params and state are lists by layer; None where a library has no such cell."""
    kind, network, weights = problem.kind, problem.network, problem.weights
    if name == "natively batched" and network != "one layer":
        return None
    if name == "flax nnx, LSTMCell" and (kind, network) != ("lstm", "one layer"):
        return None
    make = peers.JAX_PEERS[name]
    options = {"mask": problem.valid[..., 0] > 0} if (name, network) == ("keras", "ragged") else {}
    layers = [make(kind, w, **options) for w in weights]
    if None in layers:
        return None
    convert = lambda weights: [p.convert(w) for p, w in zip(layers, weights, strict=True)]
    if name == "seqjax" and network != "one layer":
        return Peer(seqjax_network(problem), convert)

    def apply(params, xs, state):
        ys = layers[0].apply(params[0], xs, state[0])
        if network == "two directions":
            backward = layers[1].apply(params[1], jnp.flip(xs, 1), state[1])
            return jnp.concatenate([ys, jnp.flip(backward, 1)], axis=-1)
        for layer, of_layer, at in zip(layers[1:], params[1:], state[1:], strict=True):
            ys = layer.apply(of_layer, ys, at)
        return ys * problem.valid if network == "ragged" else ys

    return Peer(apply, convert)


def seqjax_network(problem: Problem):
    kind, size = problem.kind, problem.xs.shape[-1]
    cell = getattr(sj, kind)(size, size)
    of_cell = lambda state: sj.LSTMState(*state) if kind == "lstm" else state[0]
    if problem.network == "ragged":

        def ragged(params, xs, state):
            one = lambda xs, s, length: sj.unroll(cell, params[0], xs, s, length=length)[1]
            return jax.vmap(one)(xs, of_cell(state[0]), problem.lengths)

        return ragged
    if problem.network != "two directions":
        model, join = sj.stack(*[cell] * len(problem.weights)), tuple
    else:
        model, join = sj.bidirectional(cell), lambda two: dict(zip(DIRECTIONS, two, strict=True))

    def apply(params, xs, state):
        state = join([of_cell(s) for s in state])
        return jax.vmap(lambda xs, s: sj.unroll(model, join(params), xs, s)[1])(xs, state)

    return apply


DIRECTIONS = ("forward", "backward")


class Torch:
    """PyTorch's fused layers, with its own autograd."""

    def __init__(self, problem: Problem):
        size, network = problem.xs.shape[-1], problem.network
        number = len(problem.weights)
        both = network == "two directions"
        options = {"bidirectional": True} if both else {"num_layers": number}
        make = getattr(torch.nn, problem.kind.upper())
        self.layer = make(size, size, batch_first=True, **options)
        place = "cpu" if jax.default_backend() == "cpu" else "cuda"
        self.layer.to(place)
        as_torch = lambda a: torch.tensor(jax.device_get(a), device=place)
        self.names = ["l0", "l0_reverse"] if both else [f"l{n}" for n in range(number)]
        with torch.no_grad():
            for name, weights in zip(self.names, problem.weights, strict=True):
                self.part("weight_ih", name).copy_(as_torch(weights["kernel"].T))
                self.part("weight_hh", name).copy_(as_torch(weights["recurrent_kernel"].T))
                self.part("bias_ih", name).copy_(as_torch(weights["bias"]))
                self.part("bias_hh", name).zero_()
        self.xs = as_torch(problem.xs).requires_grad_()
        stacked = [jnp.stack(leaves) for leaves in zip(*problem.state, strict=True)]
        self.state = [as_torch(s).contiguous().requires_grad_() for s in stacked]
        self.cotangent = as_torch(problem.cotangent)
        self.lengths = as_torch(problem.lengths).long().cpu() if network == "ragged" else None

    def part(self, what, name):
        return getattr(self.layer, f"{what}_{name}")

    def outputs(self):
        state = peers.first(tuple(self.state))
        if self.lengths is None:
            return self.layer(self.xs, state)[0]
        utils, options = torch.nn.utils.rnn, {"batch_first": True}
        packed = utils.pack_padded_sequence(self.xs, self.lengths, enforce_sorted=False, **options)
        ys = self.layer(packed, state)[0]
        return utils.pad_packed_sequence(ys, total_length=self.xs.shape[1], **options)[0]

    def finished(self, result):
        """The result, once it is there: a GPU is not waited for otherwise."""
        if self.xs.is_cuda:
            torch.cuda.synchronize()
        return result

    def forward(self):
        with torch.no_grad():
            return self.finished(self.outputs())

    def gradient(self):
        kinds = ("bias_ih", "weight_ih", "weight_hh")
        at = [self.part(kind, name) for name in self.names for kind in kinds]
        at += [self.xs, *self.state]
        return self.finished(torch.autograd.grad((self.outputs() * self.cotangent).sum(), at))

    def gradient_of_weights(self):
        """In the structure of the shared weights, then xs and state."""
        found = iter([g.cpu().numpy() for g in self.gradient()])
        weights = [
            {"bias": next(found), "kernel": next(found).T, "recurrent_kernel": next(found).T}
            for _ in self.names
        ]
        xs, state = next(found), list(found)
        return weights, xs, [[s[layer] for s in state] for layer in range(len(self.names))]
