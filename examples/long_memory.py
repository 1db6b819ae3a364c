"""Who remembers, and why: every recurrent system of the library on two problems of memory.

    python examples/long_memory.py                             # under three minutes, two cores
    python examples/long_memory.py --adding-length 600 --copy-length 1000 --updates 20000  # hours

    adding  a series of T numbers from [0, 1], two of them marked: at the end, say their sum
    copy    ten symbols, a blank of T steps that ends with a mark: now say the ten symbols

They are Hochreiter & Schmidhuber's (1997, "Long short-term memory"), in the version of Bai et al.
2018, arXiv:1803.01271, whose lengths are `--adding-length 600 --copy-length 1000`.

The figure has the learning curves, and below them the reason: ∂DIV/∂h(t), DIV being the error of
the last step alone. What to remember of step t is learned from nothing else. Jordan's and Elman's
networks have none of it before the last step: "the current error does not propagate to the past".
"""

import argparse
import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

console = Console(highlight=False, markup=False, soft_wrap=True)
SYSTEMS = {  # the colour of each in the figure, and what it remembers by
    "jordan": ("#8c6d31", "a fixed average of its outputs, which no gradient crosses"),
    "elman": ("#e7969c", "a copy of its hidden units, which no gradient crosses"),
    "narx": ("#7b4173", "its outputs, fed back after 1, 2, 4, 8, 16 steps: shortcuts in time"),
    "memory": ("#31a354", "averages of its hidden units, over spans that it learns"),
    "rnn": ("#fd8d3c", "its hidden units, which every step multiplies by W11: gradients vanish"),
    "gru": ("#3182bd", "its state, which a gate can keep as it is"),
    "lstm": ("#d62728", "its cell state, which a gate can keep as it is"),
}
EXPLAINED = """
Loss: of 2,048 new series, so ± 3 % on adding; squared error there, nats per step on copy.
Chance: of the best answer without memory. Reach: how many steps before the last one ‖∂DIV/∂h(t)‖
is still, after training, 1 % of what it is there. Where that is 0, no number of updates helps. The
others may need more --updates, most of all on copy, where there are ten symbols to keep, or luck:
one seed is shown, and NARX learns copy from some (--seed 1) and not at all from others (--seed 2).
Bai et al. 2018: adding, T = 600, and copy, T = 1000, of some 70,000 and 16,000 parameters."""


class Problem(NamedTuple):
    """A problem of one length. Series come in batches, their losses one by one."""

    title: str
    shape: tuple[int, int, int]  # of a series: steps, inputs, outputs
    draw: Callable  # keys [N] -> (xs [N, steps, I], targets [N, …])
    losses: Callable  # (ys [steps, O], target) -> of the steps that count, the last one last
    chance: float  # the loss of the best answer that remembers nothing
    published: dict[str, str]  # Bai et al.'s losses, if this is their length


def adding(length):
    def draw(key):
        value_key, place_key = jax.random.split(key)
        values = jax.random.uniform(value_key, (length,))
        first, further = jax.random.randint(place_key, (2,), jnp.array([0, 1]), length)
        places = jnp.stack([first, (first + further) % length])
        marks = jnp.zeros_like(values).at[places].set(1)
        return jnp.stack([values, marks], axis=1), values[places].sum(keepdims=True)

    losses = lambda ys, target: (ys[-1] - target) ** 2
    title, shape, chance = f"adding, T = {length}", (length, 2, 1), 1 / 6  # papers say 0.1767
    published = {"rnn": "0.177", "gru": "5.3e-5", "lstm": "0.164"} if length == 600 else {}
    return Problem(title, shape, jax.jit(jax.vmap(draw)), losses, chance, published)


def copy(length, count=10, mark=9):
    def draw(key):
        said = jax.random.randint(key, (count,), 1, mark)
        fill = lambda symbol, times: jnp.full(times, symbol, said.dtype)
        read = jnp.concatenate([said, fill(0, length - 1), fill(mark, count + 1)])
        xs = jax.nn.one_hot(read, mark + 1)
        return xs, jnp.concatenate([fill(0, length + count), said])

    shape = length + 2 * count, mark + 1, mark + 1
    losses = optax.softmax_cross_entropy_with_integer_labels
    chance = count * math.log(mark - 1) / shape[0]
    published = {"rnn": "0.0202", "gru": "0.0197", "lstm": "0.0204"} if length == 1000 else {}
    return Problem(f"copy, T = {length}", shape, jax.jit(jax.vmap(draw)), losses, chance, published)


def make_system(name, shape, size):
    """The model, and its y(t) as a function of (params, h(t))."""
    steps, inputs, outputs = shape
    dense = sj.dense(size, outputs)
    if name == "narx":
        model = sj.narx(inputs, size, outputs, input_delays=(0,), output_delays=(1, 2, 4, 8, 16))
        return model, lambda params, state: state.ys[-1]
    if name == "jordan":
        model = sj.jordan(inputs, size, outputs, decay=0.9)
        return model, model.readout
    if name == "memory":
        model = leaky_memory(sj.rnn(inputs, size, activation=jax.nn.relu), dense, steps)
        return model, model.readout
    cell = getattr(sj, name)(inputs, size)
    if name in ("gru", "lstm"):
        cell = dataclasses.replace(cell, init=functools.partial(patient, cell.init, steps))
    read = lambda params, state: dense.step(params[1], (), cell.readout(params[0], state[0]))[1]
    return sj.stack(cell, dense), read


def patient(init, steps, key):
    # Gates that keep for 1 … steps at first: Tallec & Ollivier 2018, arXiv:1804.11188. With
    # forget_bias=1 the LSTM is at chance on adding after 1500 updates; after 4000 it is not.
    init_key, keep_key = jax.random.split(key)
    params = init(init_key)
    gates = params["kernel"].shape[1] // len(params["recurrent_kernel"])
    first, keep, *others = jnp.split(params["bias"], gates)  # LSTM: i, f, g, o; GRU: r, z, n
    keep = jnp.log(jax.random.uniform(keep_key, keep.shape, minval=1, maxval=steps))
    return params | {"bias": jnp.concatenate([-keep if gates == 4 else first, keep, *others])}


def leaky_memory(rnn, dense, steps):
    """m(t) = a m(t-1) + (1 - a) h(t-1), with an a for each unit; h(t) = relu(W1 x + W11 m + b)."""
    (size,), both = dense.input_spec.shape, sj.stack(rnn, dense)
    return sj.memory(
        r=lambda params, y, h, m: h + jax.nn.sigmoid(params[2]) * (m - h),
        f=lambda params, x, m: rnn.step(params[0], m, x)[1],
        g=lambda params, h: dense.step(params[1], (), h)[1],
        init=lambda key: (*both.init(key), jnp.log(jnp.geomspace(1, steps, size))),
        initial_state=lambda params: tuple(map(jnp.zeros, (dense.output_size, size, size))),
    )


def mean_loss(problem, model, params, xs, targets):
    ys = jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(xs)
    return jnp.mean(jax.vmap(problem.losses)(ys, targets))


def train(problem, model, params, options, progress):
    """The parameters after `--updates` updates, each on a new batch, and the losses."""
    loss = functools.partial(mean_loss, problem, model)
    rate = optax.cosine_decay_schedule(options.learning_rate, options.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    step, opt_state, losses = sj.train.make_step(loss, optimizer), optimizer.init(params), []
    key, (bar,) = jax.random.key(options.seed), progress.task_ids
    for update in range(options.updates):
        keys = jax.random.split(jax.random.fold_in(key, update), options.batch_size)
        params, opt_state, report = step(params, opt_state, *problem.draw(keys))
        losses.append(report.loss)
        progress.advance(bar)
        if update % 50 == 0:  # to look at a loss is to wait for it
            progress.update(bar, loss=float(report.loss) / problem.chance)
    return params, jax.device_get(losses)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def gradients(losses, model, output, params, xs, targets):
    """∂DIV/∂h(t), a pytree of [N, steps, …]: that by an ε(t) = 0, added to h(t), and an input."""

    def step(params, state, inputs):
        x, epsilon = inputs
        state = jax.tree.map(jnp.add, model.step(params, state, x)[0], epsilon)
        return state, output(params, state)

    nudged = sj.from_step(model.init, step, model.initial_state)

    def div(epsilons, xs, target):
        return losses(sj.unroll(nudged, params, (xs, epsilons))[1], target)[-1]

    zeros = lambda leaf: jnp.zeros((xs.shape[1], *leaf.shape), leaf.dtype)
    epsilons = jax.tree.map(zeros, model.initial_state(params))
    return jax.vmap(jax.grad(div), (None, 0, 0))(epsilons, xs, targets)


def gradient_norms(problem, model, output, params, xs, targets):
    """‖∂DIV/∂h(t)‖ for every t, DIV being the loss of the last step; the mean over series."""
    leaves = jax.tree.leaves(gradients(problem.losses, model, output, params, xs, targets))
    # In float64, for in float32 the square of 1e-23 is 0, which here has a meaning.
    squares = [np.square(leaf, dtype=np.float64).reshape(*leaf.shape[:2], -1) for leaf in leaves]
    return np.sqrt(np.concatenate(squares, axis=2).sum(2)).mean(0)


def draw(path, problems, results, updates):
    figure = Figure(figsize=(6.4 * len(problems), 8.4), layout="constrained")
    columns = figure.subplots(2, len(problems), squeeze=False, height_ratios=[1, 1.2]).T
    window = 1 + updates // 50
    for problem, (top, bottom) in zip(problems, columns, strict=True):
        for name, (losses, before, after) in results[problem.title].items():
            colour = SYSTEMS[name][0]
            mean = np.convolve(losses, np.ones(window) / window, "valid") / problem.chance
            top.plot(np.arange(window, updates + 1), mean, color=colour, label=name)
            for norms, style, width in ((before, ":", 1.1), (after, "-", 1.8)):
                shown = np.where(norms > 1e-12 * norms[-1], norms / norms[-1], math.nan)
                if not norms[:-1].any():
                    shown[:-1] = 3e-13 if name == "jordan" else 1e-13  # to see both
                bottom.plot(shown, style, color=colour, linewidth=width)
        top.axhline(1, color="black", linestyle="--", linewidth=1, label="chance")
        top.set(yscale="log", xlabel="updates", ylabel="loss ÷ chance", title=problem.title)
        top.set_ylim(top=1.5)
        top.yaxis.set_major_formatter("{x:g}")
        bottom.set_title("how the last step's error depends on h(t) (dotted: untrained)")
        bottom.set(yscale="log", xlabel="t", ylabel="‖∂DIV/∂h(t)‖, last is 1", ylim=(4e-14, None))
        bottom.axhspan(4e-14, 1e-12, color="0.92", zorder=0)
        bottom.text(0.02, 4.5e-13, "exactly 0", transform=bottom.get_yaxis_transform())
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
    handles = columns[0][0].get_legend_handles_labels()
    figure.legend(*handles, ncols=8, frameon=False, loc="outside lower center")
    figure.savefig(path, dpi=150)


def number(kind, low):
    """What argparse makes of the text of an option: a number that is large enough."""

    def parse(text):
        with contextlib.suppress(ValueError):
            if low <= kind(text) < math.inf:
                return kind(text)
        noun = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"expected {noun} of at least {low}, got {text!r}")

    return parse


parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.description = "Compares how well recurrent systems remember, and shows why."
option, size, length = parser.add_argument, number(int, 1), number(int, 2)
option("--problems", nargs="+", choices=("adding", "copy"), default=["adding", "copy"])
option("--systems", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS))
option("--adding-length", type=length, metavar="T", default=80, help="published: 600")
option("--copy-length", type=length, metavar="T", default=50, help="published: 1000")
option("--hidden-size", type=size, metavar="H", default=64)
option("--batch-size", type=size, metavar="N", default=32, help="new series in every update")
option("--updates", type=size, metavar="N", default=1200, help="for each system and problem")
option("--learning-rate", type=number(float, 1e-9), default=1e-2, help="it decays to 0")
option("--seed", type=number(int, 0), default=0, help="of parameters and training series")
option("--out", metavar="DIR", default="runs/long_memory", help="for the figure")


def main(argv=None):
    options = parser.parse_args(argv)
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: expected a folder, got {out} ({error.strerror})")
    problems = [make(getattr(options, f"{make.__name__}_length")) for make in (adding, copy)
                if make.__name__ in options.problems]  # fmt: skip
    names = [name for name in SYSTEMS if name in options.systems]
    # The same for every seed, and no update comes that far.
    test_keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 2**31 - 1), (32, 64))
    table = Table(title=f"{options.updates:,} updates, {options.hidden_size} hidden units")
    for heading in ("", "test loss", "chance", "÷ chance", "reach", "Bai et al."):
        table.add_column(heading, justify="right" if heading else "left")
    columns = ("{task.description}", BarColumn(None), MofNCompleteColumn(),
               "loss ÷ chance {task.fields[loss]:.3f}", TimeRemainingColumn())  # fmt: skip
    results = {problem.title: {} for problem in problems}
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task("", total=len(problems) * len(names) * options.updates, loss=math.nan)
        for problem in problems:
            table.add_row(problem.title)
            tests = [problem.draw(keys) for keys in test_keys]
            for name in names:
                progress.update(progress.task_ids[0], description=f"{problem.title}: {name}")
                model, output = make_system(name, problem.shape, options.hidden_size)
                params = model.init(jax.random.key(options.seed))
                before = gradient_norms(problem, model, output, params, *tests[0])
                params, losses = train(problem, model, params, options, progress)
                after = gradient_norms(problem, model, output, params, *tests[0])
                results[problem.title][name] = losses, before, after
                test = jax.jit(functools.partial(mean_loss, problem, model))
                loss = np.mean([test(params, *series) for series in tests])
                back = np.flatnonzero(after[::-1] >= 0.01 * after[-1]).max(initial=0)
                table.add_row(f"  {name}", f"{loss:.3g}", f"{problem.chance:.3g}",
                              f"{loss / problem.chance:.3f}", f"{back} of {len(after) - 1}",
                              problem.published.get(name, "–"))  # fmt: skip
            table.add_section()
    console.print(table, EXPLAINED)
    sizes = [f"{p.title} ({'as' if p.published else 'not as'} published)" for p in problems]
    console.print(f"Lengths here: {', '.join(sizes)}.")
    console.print("\nEach remembers by", *(f"  {n:7} {SYSTEMS[n][1]}" for n in names), sep="\n")
    draw(out / "long_memory.png", problems, results, options.updates)
    console.print(f"\nfigure  {out / 'long_memory.png'}")


if __name__ == "__main__":
    main()
