"""The tasks of `tasks`: their data, what is minimized, and what is scored."""

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
try:
    from _char_rnn.model import initial_states
    from _char_rnn.text import read_data
    from _long_memory.problems import Problem, adding, copy
    from _music.data import KEYS, Rolls, batches, read_rolls
    from _music.model import loud, mean_nats, nats, orthogonal
except ImportError as missing:
    raise SystemExit(f"{missing}. This needs: pip install 'seqjax[bench]'") from None


class Budget(NamedTuple):
    """What a model may have: parameters at most, updates, series in each, and how it learns."""

    parameters: int
    updates: int
    batch: int
    learning_rate: float
    dropout: float = 0.0


class Task(NamedTuple):
    """A task, but for its data.

    Attributes:
      title: its name in tables.
      score: what is scored, in words.
      inputs: features of x(t), or how many tokens there are.
      outputs: of the readout.
      budget: by default.
      load: `load(file) -> Data`; the file is None for generated series.
      published: scores of others, by kind of model.
      steps: of a series, if all have as many and it is generated.
      remember: for how many steps gates should keep at first, if that is known.
      reads_tokens: whether x(t) is an integer.
      initial: what the kernels of rnn, lstm and gru start from, where that is not the default.
    """

    title: str
    score: str
    inputs: int
    outputs: int
    budget: Budget
    load: Callable
    published: dict[str, float]
    steps: int | None = None
    remember: int | None = None
    reads_tokens: bool = False
    initial: Mapping = MappingProxyType({})


class Data(NamedTuple):
    """The data of a task.

    Attributes:
      batches: `batches(seed, budget)` yields the batch of each update.
      loss: `loss(model, params, carried, keys, *batch) -> (scalar, carried)`.
      evaluate: `evaluate(model, params, part) -> score`, of "valid" or "test".
      carried: `carried(model, params, batch_size)`, what goes from update to update.
      validated: whether the parameters that are best on "valid" are the ones that are tested.
    """

    batches: Callable
    loss: Callable
    evaluate: Callable
    carried: Callable = lambda model, params, size: ()
    validated: bool = False


# Generated series.
EVALUATED = (16, 128)  # pieces of so many series


def generated(problem: Problem, budget: Budget, score: str, published: dict) -> Task:
    """A problem of `examples/long_memory.py`; scored is the loss of new series."""
    steps, inputs, outputs = problem.shape

    def batches(seed: int, budget: Budget) -> Iterator[tuple]:
        for update in range(budget.updates):
            key = jax.random.fold_in(jax.random.key(seed), update)
            yield problem.draw(jax.random.split(key, budget.batch))

    def loss(model, params, carried, keys, xs, targets):
        read = lambda xs, key: sj.unroll(model, params, xs, key=key)[1]
        return jnp.mean(jax.vmap(problem.losses)(jax.vmap(read)(xs, keys), targets)), carried

    @functools.partial(jax.jit, static_argnums=0)
    def evaluated(model, params, xs, targets):
        read = lambda xs: sj.unroll(model, params, xs)[1]
        return jnp.mean(jax.vmap(problem.losses)(jax.vmap(read)(xs), targets))

    def evaluate(model, params, part):
        del part  # no update comes that far
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 2**31 - 1), EVALUATED)
        return float(np.mean([evaluated(model, params, *problem.draw(k)) for k in keys]))

    load = lambda file: Data(batches, loss, evaluate)
    return Task(problem.title, score, inputs, outputs, budget, load, published, steps, steps)


def parity(length: int, budget: Budget) -> Task:
    """Whether the number of ones so far is odd, at every step.

    In training the count starts anew after 4 steps, then after 8, …: a series has that many
    `reset`s. From half of the updates on it has none. Scored is the last step of whole series.
    """
    first, last = 2, int(math.log2(length))

    def draw(rng, count, period):
        bits = rng.integers(0, 2, (count, length // period, period))
        odd = np.cumsum(bits, axis=2) % 2
        return (2.0 * bits - 1).reshape(count, length, 1).astype(np.float32), odd.reshape(count, -1)

    def batches(seed: int, budget: Budget) -> Iterator[tuple]:
        rng = np.random.default_rng(seed)
        for update in range(budget.updates):
            doublings = int(2 * (last - first) * update / budget.updates)
            period = 2 ** min(last, first + doublings)
            yield *draw(rng, budget.batch, period), np.arange(length) % period == 0

    def loss(model, params, carried, keys, xs, odd, reset):
        read = lambda xs, key: sj.unroll(model, params, xs, reset=reset, key=key)[1]
        logits = jax.vmap(read)(xs, keys)[..., 0]
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, odd)), carried

    @functools.partial(jax.jit, static_argnums=0)
    def right(model, params, xs, odd):
        logits = jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(xs)[:, -1, 0]
        return jnp.mean((logits > 0) == odd[:, -1])

    def evaluate(model, params, part):
        pieces, count = EVALUATED
        rng = np.random.default_rng([2**31 - 1, part == "test"])
        draws = (draw(rng, count, length) for _ in range(pieces))
        return 100 * float(np.mean([right(model, params, *series) for series in draws]))

    load = lambda file: Data(batches, loss, evaluate)
    score = "% right at the last step"
    return Task(f"parity, T = {length}", score, 1, 1, budget, load, {}, length)


# Music.
def music(title: str, budget: Budget, span: int, published: dict[str, float]) -> Task:
    """Which of the 88 keys sound at the next step; training reads at most `span` steps of a piece.

    Scored is -log of the probability of all keys, in mean over the frames of all pieces.
    """

    def load(file) -> Data:
        rolls = read_rolls(file)

        def batches_of(seed: int, budget: Budget) -> Iterator[tuple]:
            rng = np.random.default_rng(seed)
            return itertools.islice(
                batches(rolls["train"], rng, budget.batch, span), budget.updates
            )

        def evaluate(model, params, part):
            return float(mean_nats(model, params, rolls[part]))

        return Data(batches_of, loss, evaluate, validated=True)

    def loss(model, params, carried, keys, *rolls):
        return sj.train.masked_mean(*nats(model, params, Rolls(*rolls), keys)), carried

    initial = {"kernel_init": loud, "recurrent_init": orthogonal}
    return Task(title, "nats per frame", KEYS, KEYS, budget, load, published, initial=initial)


# Text.
def text(title: str, budget: Budget, span: int, vocabulary: int, published: dict) -> Task:
    """The next character: streams of text, whose states are carried from update to update."""

    def load(file) -> Data:
        def read(batch):
            options = {"data": str(file), "val_fraction": 0.1, "batch_size": batch}
            return read_data(argparse.Namespace(**options, seq_length=span))

        val = read(budget.batch).val

        def batches(seed: int, budget: Budget) -> Iterator[tuple]:
            del seed  # streams are read in their order
            streams = read(budget.batch).streams
            per_epoch = (streams.shape[1] - 1) // span
            for update in range(budget.updates):
                at = update % per_epoch * span
                yield streams[:, at : at + span + 1], at == 0

        def evaluate(model, params, part):
            del part  # there are two parts: the last tenth is not trained on
            return float(per_character(model, params, val))

        return Data(batches, loss, evaluate, initial_states)

    def loss(model, params, states, keys, symbols, begins):
        beginning = initial_states(model, params, len(symbols))
        states = jax.tree.map(functools.partial(jnp.where, begins), beginning, states)
        read = lambda state, xs, key: sj.unroll(model, params, xs, state, key=key)
        states, logits = jax.vmap(read)(states, symbols[:, :-1], keys)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, symbols[:, 1:])
        return jnp.mean(nats), states

    @functools.partial(jax.jit, static_argnums=0)
    def per_character(model, params, pieces):
        def piece(states, symbols):
            read = lambda state, xs: sj.unroll(model, params, xs, state)
            states, logits = jax.vmap(read)(states, symbols[:, :-1])
            nats = optax.softmax_cross_entropy_with_integer_labels(logits, symbols[:, 1:])
            return states, jnp.mean(nats)

        return jnp.mean(
            jax.lax.scan(piece, initial_states(model, params, pieces.shape[1]), pieces)[1]
        )

    return Task(title, "nats per character", vocabulary, vocabulary, budget, load, published,
                reads_tokens=True)  # fmt: skip


# Published figures are those of Bai et al. 2018 (arXiv:1803.01271), table 1, of models of 70,000
# parameters (adding), 300,000 (JSB) and 1,000,000 (Nottingham); those of the minimal units are of
# Feng et al. 2024 (arXiv:2410.01201). Budgets are what two cores can train 33 times in an hour or
# two, and smaller where theirs are larger.
TASKS = {
    "adding_200": generated(adding(200), Budget(20_000, 2000, 32, 1e-2), "MSE", {}),
    "adding_600": generated(
        adding(600), Budget(20_000, 2000, 32, 5e-3), "MSE",
        {"lstm": 0.164, "gru": 5.3e-5, "rnn": 0.177},
    ),
    "copy_200": generated(
        copy(200), Budget(16_000, 3000, 32, 5e-3), "nats per step", {}
    ),
    "parity_256": parity(256, Budget(10_000, 1000, 32, 1e-2)),
    "jsb": music(
        "JSB chorales", Budget(300_000, 2000, 8, 5e-3, 0.5), 64,
        {"lstm": 8.45, "gru": 8.43, "rnn": 8.91},
    ),
    "nottingham": music(
        "Nottingham", Budget(300_000, 1000, 16, 5e-3, 0.5), 128,
        {"lstm": 3.29, "gru": 3.46, "rnn": 4.05},
    ),
    "shakespeare": text(
        "Tiny Shakespeare", Budget(150_000, 1000, 32, 3e-3, 0.1), 128, 65,
        {"min_gru": 1.548, "min_lstm": 1.555},
    ),
}  # fmt: skip
FILES = {
    "jsb": "jsb_chorales.npz",
    "nottingham": "nottingham.npz",
    "shakespeare": "tinyshakespeare.txt",
}
