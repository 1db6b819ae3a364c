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
                 et al. 2006): the loss is -log of the summed probability of all alignments, one
                 function of the whole series of outputs, and no sum over time.

The code is the running Python's standard library, split by files; the tags are exact, from
`tokenize` and `keyword`. Lines of 80 characters and more are left out, and so are those of
strings that span several lines, since nothing within the line says that it is in a string.
"""

import functools
import itertools
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    from _common import console, make_folder
    from _tagging.data import TAGS, VOCABULARY, Lines, read_code
    from _tagging.figure import draw
    from _tagging.options import parser
    from _tagging.scores import NETS, measure, show
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

parser.set_defaults(  # --help says what each option means
    hidden_size=128,
    batch_size=32,
    updates=800,
    seed=0,
    out="runs/tagging",
)
LEARNING_RATE = 1e-2  # it decays to 0


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
        """-log Σ over alignments Π over t y(t), per label. It is no sum of losses at each time,
        but its gradient ∇y(t) enters the recursion like any other.
        """
        padding = [jnp.where(a > 0, 0.0, 1.0) for a in (lines.symbols, lines.labels)]
        nats = optax.ctc_loss(logits, padding[0], lines.labels, padding[1], blank_id=0)
        return nats.sum() / jnp.sum(lines.labels > 0)

    loss = {"segmented": segmented, "unsegmented": unsegmented}[task]
    logits = lambda params, symbols: jax.vmap(lambda row: read(model, params, row))(symbols)
    return lambda params, lines: loss(logits(params, lines.symbols), lines)


def main(argv=None):
    options = parser.parse_args(argv)
    try:
        train, val, test = read_code(options.data)
    except ValueError as error:
        parser.error(f"--data: {error}")
    models = make_models(options.hidden_size)
    out = make_folder(parser, options.out)
    sizes = (len(part.tags) for part in (train, val, test))
    console.print("{:,} lines to train on, {:,} to validate, {:,} to test".format(*sizes))

    schedule = optax.cosine_decay_schedule(LEARNING_RATE, options.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    columns = ("{task.description}", BarColumn(None), MofNCompleteColumn(),
               "val {task.fields[val]:.3f} nats", TimeRemainingColumn())  # fmt: skip
    outputs, scores, seconds = {}, {}, {}
    with Progress(*columns, console=console, transient=True) as progress:
        for task, net in itertools.product(("segmented", "unsegmented"), NETS):
            bar = progress.add_task(f"{task}, {net}", total=options.updates, val=math.nan)
            model, rng = models[net], np.random.default_rng(options.seed)
            start, loss = time.perf_counter(), make_loss(model, task)
            step, validate = sj.train.make_step(loss, optimizer), jax.jit(loss)
            params = model.init(jax.random.key(options.seed))
            opt_state = optimizer.init(params)
            for update in range(1, options.updates + 1):
                rows = rng.integers(len(train.tags), size=options.batch_size)
                batch = Lines(*(a[rows] for a in train))
                params, opt_state, report = step(params, opt_state, batch)
                if not math.isfinite(report.loss):
                    sys.exit(f"The loss of update {update} is not finite.")
                if update % 100 == 0:
                    first = Lines(*(a[:256] for a in val))
                    progress.update(bar, val=float(validate(params, first)))
                progress.update(bar, advance=1)
            seconds[task, net] = time.perf_counter() - start
            predict = jax.jit(functools.partial(read, model, params))
            logits = jax.lax.map(predict, test.symbols, batch_size=256)
            outputs[task, net] = np.asarray(jax.nn.softmax(logits))
            scores[task, net] = measure(task, outputs[task, net].argmax(-1), test)
    show({net: parameters(models[net]) for net in NETS}, scores, seconds)
    draw(out / "tagging.png", test, outputs, scores)
    console.print(f"figure  {out / 'tagging.png'}")


if __name__ == "__main__":
    main()
