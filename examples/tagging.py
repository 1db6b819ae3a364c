"""Highlighting source code: what a name is depends on what comes after it.

    python examples/tagging.py                              # under three minutes, two cores
    python examples/tagging.py --updates 4000 --hidden-size 256
    python examples/tagging.py --data ~/my/project          # its *.py files

A network that reads forward and a bidirectional one (Schuster & Paliwal 1997), of about as many
parameters, learn two tasks on single lines of Python:

    segmented    every character has a tag. That of a name depends on its future: `foo(` is
                 called, `foo = ` assigned, `foo.` an object; `for` is a keyword, `format` not.
                 At the first characters of a name, who only reads forward must guess.
    unsegmented  the target is the sequence of the tags of the line's tokens, and nothing says
                 where they are. Learned with connectionist temporal classification (CTC; Graves
                 et al. 2006): the divergence is -log of the summed probability of all alignments,
                 one function of the whole series of outputs, and no sum over time.

The code is the running Python's standard library, split by files; the tags are exact, from
`tokenize` and `keyword`. Lines of 80 characters and more are left out, and so are those of
strings that span several lines, since nothing within the line says that it is in a string.
"""

import argparse
import itertools
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table
    from tagging_data import LENGTH, TAG, TAGS, VOCABULARY, Lines, read_code
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

console = Console(highlight=False, markup=False, soft_wrap=True)
NETS = ("forward-only", "bidirectional")
PLACES = range(1, 11)  # which character of a name
INK, PAPER = "#cdd6f4", "#1e1e2e"


def whole(low):
    def parse(text):
        if not text.isdecimal() or int(text) < low:
            message = f"expected an integer of at least {low}, got {text!r}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return parse


parser = argparse.ArgumentParser(
    description="Tags source code with a forward-only and a bidirectional GRU, then with CTC.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option = parser.add_argument
option(
    "--data", metavar="PATH", help="a Python file or a folder; the standard library if not given"
)
option("--hidden-size", type=whole(1), default=128, help="units of the forward-only net")
option("--batch-size", type=whole(1), default=32, help="lines in one update")
option("--updates", type=whole(1), default=800, help="of each of the four trainings")
option("--seed", type=whole(0), default=0, help="of parameters and batches")
option("--out", metavar="DIR", default="runs/tagging", help="for the figure")


# ---- The models, and what they learn -----------------------------------------------------


def make_models(units: int) -> dict[str, sj.Model]:
    """Of the bidirectional net as many units as fit into the parameters of the other one."""
    inputs, outputs = len(VOCABULARY), len(TAGS)
    forward = sj.stack(sj.gru(inputs, units), sj.dense(units, outputs))
    both = lambda n: sj.stack(sj.bidirectional(sj.gru(inputs, n)), sj.dense(2 * n, outputs))
    fits = lambda n: parameters(both(n)) <= parameters(forward)
    return {NETS[0]: forward, NETS[1]: both(next(filter(fits, range(units, 1, -1)), 1))}


def parameters(model: sj.Model) -> int:
    return sum(a.size for a in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def read(model: sj.Model, params, symbols) -> jax.Array:
    """Logits [T, tags] of one line [T]. One-hot vectors are made longer: each picks one row of
    the kernel, which is drawn so small that the GRU would hardly hear it at first.
    """
    xs = 5.0 * jax.nn.one_hot(symbols, len(VOCABULARY))
    adjoint = sj.BPTT(store="preactivations")  # at these sizes memory is no concern
    return sj.unroll(model, params, xs, length=jnp.sum(symbols > 0), adjoint=adjoint)[1]


def make_loss(model: sj.Model, task: str):
    def segmented(logits, lines):
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, lines.tags)
        return sj.train.masked_mean(nats, lines.symbols > 0)

    def unsegmented(logits, lines):
        """-log Σ over alignments Π over t y(t), per label. It is no sum of divergences at each
        time (notes, section 4); its gradient ∇y(t) enters the recursion like any other.
        """
        padding = [jnp.where(a > 0, 0.0, 1.0) for a in (lines.symbols, lines.labels)]
        nats = optax.ctc_loss(logits, padding[0], lines.labels, padding[1], blank_id=0)
        return nats.sum() / jnp.sum(lines.labels > 0)

    div = {"segmented": segmented, "unsegmented": unsegmented}[task]
    return lambda params, lines: div(
        jax.vmap(lambda symbols: read(model, params, symbols))(lines.symbols), lines
    )


def collapse(best) -> list[int]:
    """Greedy decoding of CTC: the most likely output of each step; no repetitions, no blanks."""
    return [int(k) for k, _ in itertools.groupby(best) if k]


def edit_distance(a: list, b: list) -> int:
    """How many insertions, deletions and substitutions make b of a (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def measure(task: str, best: np.ndarray, lines: Lines) -> dict[str, float]:
    """Shares of right or wrong answers, of the most likely outputs [B, T]."""
    if task == "unsegmented":
        wanted = [[k for k in row if k] for row in lines.labels.tolist()]
        found = [collapse(row) for row in np.where(lines.symbols > 0, best, 0).tolist()]
        errors = np.array([edit_distance(a, b) for a, b in zip(found, wanted, strict=True)])
        rate = errors.sum() / sum(map(len, wanted))
        return {"label error rate": rate, "lines without an error": np.mean(errors == 0)}
    places = np.where(lines.tags == TAG["defined"], 0, lines.places)
    chosen = {"all characters": lines.symbols > 0, "characters of names": places > 0}
    chosen |= {k: places == k for k in PLACES}
    return {k: (best == lines.tags)[a].mean() if a.any() else math.nan for k, a in chosen.items()}


# ---- Training, and what comes out --------------------------------------------------------


def draw(path: Path, test: Lines, outputs: dict, scores: dict):
    """Predicted tags of a few lines; accuracy by place in the name; CTC's outputs of a line."""
    figure = Figure(figsize=(12, 9.5), layout="constrained", facecolor=PAPER)
    code, below = figure.subfigures(2, 1, height_ratios=[1.25, 1], facecolor=PAPER)
    low = below.subfigures(1, 2, width_ratios=[1, 2.2], facecolor=PAPER)
    # Chosen by the code, not by how the nets do: the most tags that need the future.
    needy = np.isin(test.labels, [TAG[name] for name in ("called", "object", "assigned")]).sum(1)
    first = np.convolve(needy, np.ones(5), "valid").argmax()
    draw_code(code.subplots(), test, outputs, range(first, first + 5))
    draw_places(styled(low[0].subplots()), scores)
    short = np.count_nonzero(test.symbols, axis=1) <= 50
    draw_ctc(styled(low[1].subplots()), test, outputs, np.where(short, needy, 0).argmax())
    figure.savefig(path, dpi=150, facecolor=PAPER)


def draw_code(axes, test, outputs, rows):
    for i, (row, net) in enumerate(itertools.product(rows, NETS)):
        y, best = -i - 0.5 * (i // 2), outputs["segmented", net][row].argmax(-1)
        axes.text(-1.2, y, "→" if net == NETS[0] else "⇄", color=INK, ha="right", va="center")
        for x in range(np.count_nonzero(test.symbols[row])):
            character(axes, x, y, test.symbols[row, x], best[x])
            if best[x] != test.tags[row, x]:
                box = Rectangle((x - 0.5, y - 0.5), 1, 1, color="#f38ba8", alpha=0.4, linewidth=0)
                axes.add_patch(box)
    for i, (name, colour) in enumerate(TAGS.items()):
        axes.text(7.2 * i, -13, name, color=colour, fontsize=9, weight="bold")
    title = "→ forward-only, ⇄ bidirectional: code it has never seen, coloured by tag, errors boxed"
    axes.set_title(title, color=INK, loc="left", fontsize=11)
    axes.set(xlim=(-3, LENGTH), ylim=(-13.5, 0.8), facecolor=PAPER)
    axes.set_axis_off()


def draw_places(axes, scores):
    for net, colour in zip(NETS, ("#fab387", "#74a8fc"), strict=True):
        right = [100 * scores["segmented", net][place] for place in PLACES]
        axes.plot(PLACES, right, "o-", color=colour, label=net)
    axes.set_title("right tags of names", color=INK, loc="left", fontsize=11)
    axes.set_xlabel("character of the name", color=INK)
    axes.set_ylabel("%", color=INK)
    axes.set_xticks(PLACES)
    axes.legend(frameon=False, labelcolor=INK)


def draw_ctc(axes, test, outputs, row):
    """Of the bidirectional net: each token is said once, in a spike, and nobody told it where."""
    count = np.count_nonzero(test.symbols[row])
    likely = outputs["unsegmented", NETS[1]][row, :count]
    for tag, (name, colour) in list(enumerate(TAGS.items()))[1:]:
        if likely[:, tag].max() > 0.1:
            axes.fill_between(range(count), likely[:, tag], step="mid", color=colour, alpha=0.85)
            at = int(likely[:, tag].argmax())
            axes.text(at, 1.03, name, color=colour, fontsize=7, rotation=35)
    for x in range(count):
        character(axes, x, -0.08, test.symbols[row, x], test.tags[row, x])
    indent = int(np.argmax(test.tags[row] > 0))
    axes.set(xlim=(indent - 1, count), ylim=(-0.16, 1.25))
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks([])
    axes.set_title("CTC: the probability of each tag, learned without positions", color=INK,
                   loc="left", fontsize=11)  # fmt: skip


def styled(axes):
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.grid(alpha=0.15)
    return axes


def character(axes, x, y, symbol, tag):
    axes.text(x, y, VOCABULARY[symbol], color=[*TAGS.values()][tag], family="monospace",
              fontsize=9.5, ha="center", va="center_baseline", parse_math=False)  # fmt: skip


def main(argv=None):
    options = parser.parse_args(argv)
    out = Path(options.out)
    try:
        train, val, test = read_code(options.data)
    except ValueError as error:
        parser.error(f"--data: {error}")
    models = make_models(options.hidden_size)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: expected a folder to write to, got {options.out} ({error})")
    sizes = (len(part.tags) for part in (train, val, test))
    console.print("{:,} lines to train on, {:,} to validate, {:,} to test".format(*sizes))

    schedule = optax.cosine_decay_schedule(1e-2, options.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    columns = ("{task.description}", BarColumn(None), MofNCompleteColumn(),
               "val {task.fields[val]:.3f} nats", TimeRemainingColumn())  # fmt: skip
    outputs, scores, seconds = {}, {}, {}
    with Progress(*columns, console=console, transient=True) as progress:
        for task, net in itertools.product(("segmented", "unsegmented"), NETS):
            bar = progress.add_task(f"{task}, {net}", total=options.updates, val=math.nan)
            model, rng, start = (
                models[net],
                np.random.default_rng(options.seed),
                time.perf_counter(),
            )
            loss = make_loss(model, task)
            step, validate = sj.train.make_step(loss, optimizer), jax.jit(loss)
            params = model.init(jax.random.key(options.seed))
            opt_state = optimizer.init(params)
            for update in range(options.updates):
                rows = rng.integers(len(train.tags), size=options.batch_size)
                batch = Lines(*(a[rows] for a in train))
                params, opt_state, report = step(params, opt_state, batch)
                if not math.isfinite(report.loss):
                    sys.exit(f"The loss of update {update + 1} is not finite.")
                if update % 100 == 99:
                    progress.update(
                        bar, val=float(validate(params, Lines(*(a[:256] for a in val))))
                    )
                progress.update(bar, advance=1)
            seconds[task, net] = time.perf_counter() - start
            logits = jax.jit(lambda symbols, m=model, p=params: jax.lax.map(
                lambda row: read(m, p, row), symbols, batch_size=256))(test.symbols)  # fmt: skip
            outputs[task, net] = np.asarray(jax.nn.softmax(logits))
            scores[task, net] = measure(task, outputs[task, net].argmax(-1), test)
    show(models, scores, seconds)
    draw(out / "tagging.png", test, outputs, scores)
    console.print(f"figure  {out / 'tagging.png'}")


def show(models, scores, seconds):
    table = Table(title="On files that were not learned from")
    table.add_column("")
    for net in NETS:
        table.add_column(net, justify="right")

    def add(heading, figure):
        table.add_row(heading, *(figure(net) for net in NETS))

    percent = lambda task, key: lambda net: f"{100 * scores[task, net][key]:.1f} %"
    add("parameters", lambda net: f"{parameters(models[net]):,}")
    table.add_section()
    for key in ("all characters", "characters of names"):
        add(f"right tags, {key}", percent("segmented", key))
    for place in (1, 3, 6):
        add(f"… at character {place} of a name", percent("segmented", place))
    add("seconds", lambda net: f"{seconds['segmented', net]:.0f}")
    table.add_section()
    for key in ("label error rate", "lines without an error"):
        add(f"CTC, {key}", percent("unsegmented", key))
    add("seconds", lambda net: f"{seconds['unsegmented', net]:.0f}")
    console.print(table)
    console.print("Names without those behind `def` and `class`, which the past decides.")


if __name__ == "__main__":
    main()
