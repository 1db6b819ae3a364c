"""A character-level language model: a stacked LSTM that learns to write by reading.

    python examples/char_rnn.py                             # two minutes on two CPU cores
    python examples/char_rnn.py --data shakespeare.txt --val-fraction 0.1
    python examples/char_rnn.py --resume                    # goes on where a run was stopped
    python examples/char_rnn.py --sample 500 --prime "def "

It is trained by truncated back-propagation through time: the text is cut into parallel
streams, each update reads the next few characters of every stream, and the LSTM's state is
carried from one update to the next, so that it remembers further than the gradient reaches.

The default text is the source code of the running Python's own standard library. Ctrl-C
finishes the update, saves a checkpoint and exits with status 0; `--resume` then continues
exactly, with the losses of a run that was never interrupted.

References: Karpathy 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks", and
char-rnn; Graves 2013, arXiv:1308.0850; Williams & Peng 1990 (truncated BPTT).
"""

import argparse
import itertools
import math
import shutil
import signal
import sys
import sysconfig
import time
import zlib
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    import orbax.checkpoint as ocp
    from char_rnn_figures import draw_activation, draw_curves
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

console = Console(highlight=False, markup=False, soft_wrap=True)
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # all characters that are not in the vocabulary


def number(kind, low, high=math.inf):
    """What argparse makes of the text of an option: a number within bounds."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:
            noun = "an integer" if kind is int else "a number"
            bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected {noun} {bounds}, got {text!r}")
        return value

    return parse


parser = argparse.ArgumentParser(
    description="Trains a character-level LSTM language model, and writes text with it.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option, size, rate = parser.add_argument, number(int, 1), number(float, 1e-9)
option("--data", metavar="FILE", help="a text in UTF-8; Python's standard library if not given")
option("--val-fraction", type=number(float, 0.001, 0.5), default=0.05, help="the text's end")
option("--hidden-size", type=size, default=128, help="units of each LSTM layer")
option("--layers", type=size, default=2, help="LSTM layers")
option("--batch-size", type=size, default=32, help="parallel streams")
option("--seq-length", type=size, default=64, help="characters of a stream in one update")
option("--steps", type=size, default=2200, help="updates, in total")
option("--learning-rate", type=rate, default=1e-2, help="peak: it warms up and decays to 0")
option("--grad-clip", type=rate, default=1.0, help="largest norm of the gradient")
option("--seed", type=number(int, 0), default=0, help="of parameters and samples")
option("--eval-every", type=size, default=275, help="updates between validations, with a sample")
option("--out", metavar="DIR", default="runs/char_rnn", help="for checkpoint and figures")
task = parser.add_mutually_exclusive_group().add_argument
task("--resume", action="store_true", help="continue from the checkpoint in --out")
task("--overwrite", action="store_true", help="start anew, over the checkpoint in --out")
task("--sample", type=size, metavar="N", help="write N characters with the checkpoint in --out")
option("--prime", default="", metavar="TEXT", help="what the sample begins with")
option(
    "--temperature", type=number(float, 0), default=0.7, help="0 takes the most likely character"
)
option("--top-k", type=size, metavar="K", help="sample among the K most likely characters")
option("--top-p", type=number(float, 1e-6, 1.0), metavar="P", help="sample from this nucleus")
# What a checkpoint remembers of the options; --resume may change those of the second line.
FIXED = ("data", "val_fraction", "hidden_size", "layers", "batch_size", "seq_length", "seed")
REMEMBERED = (*FIXED, "steps", "learning_rate", "grad_clip", "eval_every")


# ---- The text ----------------------------------------------------------------------------


def read_text(path: str | None, limit: int = 5_000_000) -> str:
    if path is not None:
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--data: expected a text file in UTF-8, got {path} ({error})")
    root = Path(sysconfig.get_paths()["stdlib"])
    # Without other people's packages, tests, and what is tables or prose rather than code.
    skip = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    skip |= {"encodings", "pydoc_data", "lib2to3"}
    files = [f.relative_to(root) for f in root.rglob("*.py")]
    files = [f for f in files if not skip & set(f.parts)]
    # In the order of a checksum of their names: mixed, so that the validation text at the end
    # is like the rest, yet the same in every run.
    files.sort(key=lambda f: zlib.crc32(f.as_posix().encode()))
    return "".join((root / f).read_text("utf-8", errors="replace") for f in files)[:limit]


def make_vocabulary(text: str, largest: int) -> str:
    """All characters; if they are too many, the most frequent ones and UNKNOWN."""
    counts = Counter(text)
    if len(counts) <= largest:
        return "".join(sorted(counts))
    del counts[UNKNOWN]
    return "".join(sorted(c for c, _ in counts.most_common(largest - 1))) + UNKNOWN


def encode(text: str, vocabulary: str) -> np.ndarray:
    """int32 [len(text)]: the number of each character; -1 if there is not even UNKNOWN."""
    numbers = {c: i for i, c in enumerate(vocabulary)}
    return np.array([numbers.get(c, numbers.get(UNKNOWN, -1)) for c in text], np.int32)


# ---- The model ---------------------------------------------------------------------------


def make_model(vocabulary_size: int, hidden_size: int, layers: int) -> sj.Model:
    sizes = [vocabulary_size] + [hidden_size] * layers
    # A forget bias of 1 lets the gradient through from the first update on.
    cells = [sj.lstm(i, h, forget_bias=1.0) for i, h in itertools.pairwise(sizes)]
    return sj.stack(*cells, sj.dense(hidden_size, vocabulary_size))


def one_hot(symbols, count: int) -> jax.Array:
    """One-hot vectors, made longer. Each picks one row of the kernel, and that is drawn so small
    that the LSTM would hardly hear it at first: 2.7 instead of 3.4 bits after 250 updates.
    """
    return 5.0 * jax.nn.one_hot(symbols, count)


def make_loss(model: sj.Model):
    # Pre-activations are kept, not computed twice: at these sizes memory is no concern.
    adjoint = sj.BPTT(store="preactivations")

    def loss(params, states, symbols):
        """Nats per character over symbols [B, T + 1], and the state of each stream after it."""
        xs = one_hot(symbols[:, :-1], *model.input_spec.shape)
        read = lambda state, xs: sj.unroll(model, params, xs, state, adjoint=adjoint)
        states, logits = jax.vmap(read)(states, xs)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, symbols[:, 1:])
        return nats.mean(), states

    return loss


def make_writer(model: sj.Model, vocabulary: str, options):
    @jax.jit(static_argnames="length")
    def generate(params, prompt, key, length):
        how = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
        how["encode"] = lambda symbol: one_hot(symbol, len(vocabulary))
        return sj.generate(model, params, prompt, length, key=key, **how)[1]

    def write(params, key, length: int, prime: str = "") -> str:
        # A text with nothing before it begins a new line.
        prompt = encode(prime or ("\n" if "\n" in vocabulary else vocabulary[0]), vocabulary)
        if (prompt < 0).any():
            strange = "".join(sorted(set(prime) - set(vocabulary)))
            parser.error(f"--prime: expected characters of the text learned, got {strange!r}")
        written = generate(params, prompt, key, length).tolist()
        if -1 in written:
            parser.error("the model has no finite logits: no character can be drawn")
        return "".join(vocabulary[i] for i in written)

    return write


# ---- Checkpoints -------------------------------------------------------------------------


def open_checkpoints(options) -> ocp.CheckpointManager:
    folder = Path(options.out).resolve() / "checkpoint"
    exists = folder.is_dir() and any(folder.iterdir())
    if (options.resume or options.sample) and not exists:
        parser.error(f"--out: expected a folder with a checkpoint, got {options.out}")
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif exists and not (options.resume or options.sample):
        how = "--resume continues it, --overwrite starts anew"
        parser.error(f"--out: expected a folder without a checkpoint, got {options.out}; {how}")
    keep = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder, options=keep)


def save(checkpoints, step: int, notes: dict, **trees):
    if step != checkpoints.latest_step():
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items = ocp.args.Composite(notes=ocp.args.JsonSave(notes), **items)
        checkpoints.save(step, args=items)


def restore(checkpoints, name: str, like=None):
    """One item of the checkpoint: the notes, or a tree of arrays that looks like `like`."""
    args = ocp.args.JsonRestore() if like is None else ocp.args.StandardRestore(like)
    items = ocp.args.Composite(**{name: args})
    return checkpoints.restore(checkpoints.latest_step(), args=items)[name]


# ---- Training ----------------------------------------------------------------------------


def train(options, checkpoints):
    batch, span, out = options.batch_size, options.seq_length, Path(options.out)

    # The text: parallel streams to train on, others to validate, at most 100,000 characters.
    text = read_text(options.data)
    cut = len(text) - int(len(text) * options.val_fraction)
    val_batch = min(batch, (len(text) - cut) // (span + 1))
    if cut < batch * (span + 1) or not val_batch:
        parser.error(f"--data: expected at least --batch-size × (--seq-length + 1) = "
                     f"{batch * (span + 1):,} characters to train on and {span + 1:,} to validate, "
                     f"got {cut:,} and {len(text) - cut:,}")  # fmt: skip
    vocabulary = make_vocabulary(text, 256 if options.data else 100)
    symbols = encode(text, vocabulary)
    streams = symbols[: cut // batch * batch].reshape(batch, -1)
    val = symbols[cut:][: (len(text) - cut) // val_batch * val_batch].reshape(val_batch, -1)
    val_pieces = min(val.shape[1] - 1, max(100_000 // val_batch, span)) // span
    val = np.stack([val[:, i * span : (i + 1) * span + 1] for i in range(val_pieces)])

    # The model, its optimizer, and what is compiled once.
    model = make_model(len(vocabulary), options.hidden_size, options.layers)
    loss = make_loss(model)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, min(100, options.steps // 10), options.steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(options.grad_clip), optax.adam(schedule))
    step = sj.train.make_step(loss, optimizer, has_aux=True)
    write = make_writer(model, vocabulary, options)

    def initial_states(params, count):
        state = model.initial_state(params)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state)

    @jax.jit
    def evaluate(params):
        read = lambda states, symbols: loss(params, states, symbols)[::-1]
        nats = jax.lax.scan(read, initial_states(params, val_batch), val)[1]
        return nats.mean() / math.log(2)

    @jax.jit
    def activations(params, symbols):
        def read(state, symbol):
            state, _ = model.step(params, state, one_hot(symbol, len(vocabulary)))
            return state, jnp.stack([lstm.c for lstm in state[: options.layers]])

        return jnp.tanh(jax.lax.scan(read, model.initial_state(params), symbols)[1])

    # Where the training begins, or stands. Nothing else is carried from update to update: the
    # place in the streams and the keys of the samples follow from the number of updates.
    init_key, sample_key = jax.random.split(jax.random.key(options.seed))
    params = model.init(init_key)
    opt_state, states = optimizer.init(params), initial_states(params, batch)
    done, history, checksum = 0, {"loss": [], "grad_norm": [], "val": []}, zlib.crc32(text.encode())
    if options.resume:
        done, notes = checkpoints.latest_step(), restore(checkpoints, "notes")
        if notes["checksum"] != checksum:
            parser.error("--resume: expected the text that the checkpoint was trained on, got "
                         f"another one from {options.data or 'the standard library'}")  # fmt: skip
        if options.steps < done:
            parser.error(f"--steps: expected at least {done}, which are done, got {options.steps}")
        history = notes["history"]
        params = restore(checkpoints, "params", params)
        opt_state, states = restore(checkpoints, "carried", (opt_state, states))

    notes = {"options": {name: getattr(options, name) for name in REMEMBERED},
             "vocabulary": vocabulary, "checksum": checksum, "history": history}  # fmt: skip

    name = Path(options.data).name if options.data else "Python's standard library"
    title = f"LSTM, {options.layers} × {options.hidden_size} units, on {name}"
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    per_epoch = (streams.shape[1] - 1) // span
    alphabet = f"{len(vocabulary)} characters"
    if UNKNOWN in vocabulary:
        others = np.mean(symbols == vocabulary.index(UNKNOWN))
        alphabet += f", the last of them {UNKNOWN}: any other one, {others:.4%} of the text"
    console.print(f"text        {name}: {cut:,} characters to train on, {val[:, :, 1:].size:,} of "
                  f"{len(text) - cut:,} to validate")  # fmt: skip
    console.print(f"vocabulary  {alphabet}")
    console.print(f"model       {title}: {count:,} parameters, {jax.devices()[0].device_kind}")
    console.print(f"training    {options.steps:,} updates of {batch} × {span} characters, "
                  f"{options.steps / per_epoch:.2g} epochs; Ctrl-C saves and stops")  # fmt: skip
    if options.resume:
        console.print(f"resumed     after update {done:,}")

    interrupted = False

    def interrupt(signum, frame):
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one is obeyed at once

    default_interrupt = signal.signal(signal.SIGINT, interrupt)
    columns = ("{task.fields[loss]:.2f} bits/char", "val {task.fields[val]:.2f}",
               "|grad| {task.fields[norm]:.2f}", "{task.fields[speed]:,.0f} chars/s")  # fmt: skip
    columns = (BarColumn(None), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    seconds = []
    with Progress(*columns, console=console, transient=True) as progress:
        fields = {"loss": math.nan, "val": math.nan, "norm": math.nan, "speed": 0}
        bar = progress.add_task("", total=options.steps, completed=done, **fields)
        while done < options.steps and not interrupted:
            start, at = time.perf_counter(), done % per_epoch * span
            if at == 0:
                states = initial_states(params, batch)  # the streams begin again
            piece = streams[:, at : at + span + 1]
            params, opt_state, report = step(params, opt_state, states, piece)
            states, done = report.aux, done + 1
            history["loss"].append(float(report.loss) / math.log(2))
            history["grad_norm"].append(float(report.grad_norm))
            if not math.isfinite(history["loss"][-1]):
                sys.exit(f"The loss of update {done} is not finite: try a lower --learning-rate.")
            seconds.append(time.perf_counter() - start)
            speed = batch * span / np.median(seconds[-50:])  # not the mean: the first compiles
            recent = np.mean(history["loss"][-50:])
            fields = {"loss": recent, "norm": history["grad_norm"][-1], "speed": speed}
            progress.update(bar, completed=done, **fields)
            if done % options.eval_every == 0 or done == options.steps:
                history["val"].append((done, float(evaluate(params))))
                progress.update(bar, val=history["val"][-1][1])
                console.print(f"\n── update {done:,}: {recent:.3f} bits/char in training, "
                              f"{history['val'][-1][1]:.3f} in validation, {speed:,.0f} chars/s ──",
                              style="bold cyan")  # fmt: skip
                length = 1000 if done == options.steps else 200
                console.print(write(params, jax.random.fold_in(sample_key, done), length))
                save(checkpoints, done, notes, params=params, carried=(opt_state, states))
        save(checkpoints, done, notes, params=params, carried=(opt_state, states))
    signal.signal(signal.SIGINT, default_interrupt)
    if done < options.steps:
        command = f"{Path(sys.argv[0]).name} --out {options.out} --resume"
        console.print(f"Stopped after update {done:,}, which is saved. To continue: {command}")
        return

    draw_curves(out / "curves.png", history, title, options.grad_clip)
    unseen = text[cut:][:20_000]
    cells = np.array(activations(params, encode(unseen, vocabulary)))
    what = draw_activation(out / "activation.png", cells, unseen)
    console.print(f"\ncurves      {out / 'curves.png'}")
    console.print(f"activation  {out / 'activation.png'}: {what}")
    console.print(f"checkpoint  {out / 'checkpoint'}: --sample 1000 writes more")


def write_sample(options, checkpoints):
    notes = restore(checkpoints, "notes")
    vocabulary, trained = notes["vocabulary"], argparse.Namespace(**notes["options"])
    model = make_model(len(vocabulary), trained.hidden_size, trained.layers)
    params = restore(checkpoints, "params", jax.eval_shape(model.init, jax.random.key(0)))
    write = make_writer(model, vocabulary, options)
    text = write(params, jax.random.key(options.seed), options.sample, options.prime)
    print(options.prime + text)


def main(argv=None):
    def parse(remembered=None):
        options = parser.parse_args(argv, remembered)
        options.data = options.data and str(Path(options.data).resolve())
        return options

    options = parse()
    with open_checkpoints(options) as checkpoints:
        if options.sample:
            return write_sample(options, checkpoints)
        if options.resume:
            remembered = restore(checkpoints, "notes")["options"]
            options = parse(argparse.Namespace(**remembered))  # the command line overrides them
            for name in FIXED:
                if getattr(options, name) != remembered[name]:
                    parser.error(f"--{name.replace('_', '-')}: expected {remembered[name]}, which "
                                 f"the checkpoint has, got {getattr(options, name)}")  # fmt: skip
        train(options, checkpoints)


if __name__ == "__main__":
    main()
