"""Who remembers, and why: every recurrent system of the library on two problems of memory.

    python examples/long_memory.py                             # under three minutes, two cores
    python examples/long_memory.py --adding-length 600 --copy-length 1000 --updates 20000  # hours

    adding  a series of T numbers from [0, 1], two of them marked: at the end, say their sum
    copy    ten symbols, a blank of T steps that ends with a mark: now say the ten symbols

They are Hochreiter & Schmidhuber's (1997, "Long short-term memory"), in the version of Bai et al.
2018, arXiv:1803.01271, whose lengths are `--adding-length 600 --copy-length 1000`.

The figure has the learning curves, and below them the reason: ∂loss/∂h(t), of the loss of the last
step alone. What to remember of step t is learned from nothing else. Jordan's and Elman's
networks have none of it before the last step: "the current error does not propagate to the past".
"""

import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    from _common import console, make_folder
    from _long_memory.figure import draw
    from _long_memory.gradients import gradient_norms
    from _long_memory.options import parser
    from _long_memory.problems import adding, copy
    from _long_memory.systems import SYSTEMS, make_system
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

parser.set_defaults(  # --help says what each option means
    problems=["adding", "copy"],
    systems=list(SYSTEMS),
    adding_length=80,
    copy_length=50,
    hidden_size=64,
    batch_size=32,
    updates=1200,
    learning_rate=1e-2,
    seed=0,
    out="runs/long_memory",
)
EXPLAINED = """
Loss: of 2,048 new series, so ± 3 % on adding; squared error there, nats per step on copy.
Chance: of the best answer without memory. Reach: how many steps before the last one ‖∂loss/∂h(t)‖
is still, after training, 1 % of what it is there. Where that is 0, no number of updates helps. The
others may need more --updates, most of all on copy, where there are ten symbols to keep, or luck:
one seed is shown, and NARX learns copy from some (--seed 1) and not at all from others (--seed 2).
Bai et al. 2018: adding, T = 600, and copy, T = 1000, of some 70,000 and 16,000 parameters."""


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


def main(argv=None):
    options = parser.parse_args(argv)
    out = make_folder(parser, options.out)
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
                model = make_system(name, problem.shape, options.hidden_size)
                params = model.init(jax.random.key(options.seed))
                before = gradient_norms(problem, model, params, *tests[0])
                params, losses = train(problem, model, params, options, progress)
                after = gradient_norms(problem, model, params, *tests[0])
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
