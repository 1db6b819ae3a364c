"""A network that learns polyphonic music, and writes a piece of its own.

    python examples/music.py                                # made-up chorales
    python examples/music.py --data jsb_chorales.npz        # Bach's; under three minutes, two cores

At each step it reads which of the 88 keys of a piano sound, and says with which probability each
of them sounds at the next one. Pieces differ in length: a batch is ragged, and `length=` says
where each ends. Dropout draws from `key=`, in training alone. The parameters that are best on
the validation pieces are kept.

To write, what was drawn is fed back: it begins with the opening of a test piece and goes on as the
network does. The piece is left as a picture and as a MIDI file.

An .npz file of piano rolls has, for each of train, valid and test, the pieces end to end,
`np.packbits(keys, axis=1)`, uint8 [frames, 11], and their steps, `train_lengths` and so on.
Boulanger-Lewandowski et al. 2012, arXiv:1206.6392, have such data, Bach's chorales among them.
Scored is, as there, -log of the probability of the next step, in mean over all test steps; to be
compared: Bai et al. 2018, arXiv:1803.01271.
"""

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
    from _music.data import PARTS, Rolls, batches, composed, padded, read_rolls
    from _music.figure import draw
    from _music.midi import write_midi
    from _music.model import make_model, mean_nats, nats, probabilities, write
    from _music.options import parser
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

parser.set_defaults(  # --help says what each option means
    hidden_size=200,
    layers=1,
    dropout=0.5,
    batch_size=8,
    span=64,
    steps=2000,
    learning_rate=5e-3,
    seed=0,
    eval_every=100,
    length=48,
    opening=8,
    voices=4,
    temperature=0.7,
    tempo=150.0,
    out="runs/music",
)


def read_parts(path: str | None) -> dict[str, Rolls]:
    if path is None:
        counts = {"train": 200, "valid": 40, "test": 40}
        return {part: padded(composed(n, seed)) for seed, (part, n) in enumerate(counts.items())}
    try:
        return read_rolls(path)
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"--data: expected an .npz file of piano rolls, got {path} ({error})")


def unmoved(parts: dict[str, Rolls]) -> float:
    """The score of who knows how often each key sounds, and listens to nothing."""
    heard = lambda rolls: np.concatenate([r[1:n] for r, n in zip(*rolls, strict=True)])
    often = (heard(parts["train"]).sum(0) + 1) / (len(heard(parts["train"])) + 2)
    now = heard(parts["test"]).mean(0)
    return -float(np.sum(now * np.log(often) + (1 - now) * np.log(1 - often)))


def train(model: sj.Model, parts: dict[str, Rolls], options):
    """The parameters that were best in validation, and their score there."""

    def loss(params, rolls, keys):
        return sj.train.masked_mean(*nats(model, params, rolls, keys))

    warmup = options.steps // 20
    rate = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warmup, options.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    step, key = sj.train.make_step(loss, optimizer), jax.random.key(options.seed)
    params = kept = model.init(key)
    opt_state, best, recent = optimizer.init(params), math.inf, []
    rng = np.random.default_rng(options.seed)
    drawn = batches(parts["train"], rng, options.batch_size, options.span)
    columns = (BarColumn(None), MofNCompleteColumn(), "{task.fields[loss]:.2f} nats/step",
               "valid {task.fields[valid]:.2f}", TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=options.steps, loss=math.nan, valid=math.nan)
        for update in range(1, options.steps + 1):
            keys = jax.random.split(jax.random.fold_in(key, update), options.batch_size)
            params, opt_state, report = step(params, opt_state, next(drawn), keys)
            recent.append(report.loss)
            progress.advance(bar)
            if update % options.eval_every == 0 or update == options.steps:
                mean = float(np.mean(jax.device_get(recent)))
                recent.clear()
                if not math.isfinite(mean):
                    sys.exit(f"The loss before update {update} is not finite: "
                             "try a lower --learning-rate.")  # fmt: skip
                valid = float(mean_nats(model, params, parts["valid"]))
                progress.update(bar, loss=mean, valid=valid)
                console.print(f"update {update:5,}  {mean:6.3f} nats/step in training, "
                              f"{valid:.3f} in validation")  # fmt: skip
                if valid < best:
                    best, kept = valid, jax.tree.map(jnp.copy, params)
    return kept, best


def main(argv=None):
    options = parser.parse_args(argv)
    parts, out = read_parts(options.data), make_folder(parser, options.out)
    model = make_model(options.hidden_size, options.layers, options.dropout)
    for part in PARTS:
        pieces, steps = len(parts[part].lengths), parts[part].lengths.sum()
        console.print(f"{part:9} {pieces:,} pieces, {steps:,} steps")
    begun = time.perf_counter()
    params, valid = train(model, parts, options)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    test = float(mean_nats(model, params, parts["test"]))
    console.print(f"\nmodel     {options.layers} × {options.hidden_size} LSTM units, {count:,} "
                  f"parameters, {time.perf_counter() - begun:.0f} s")  # fmt: skip
    console.print(f"scores    {valid:.3f} nats/step in validation, {test:.3f} on the test pieces; "
                  f"without listening {unmoved(parts):.2f}")  # fmt: skip

    lengths = parts["test"].lengths
    first, second = np.argsort(np.abs(lengths - np.median(lengths)), kind="stable")[:2]
    piece, opening = (parts["test"].keys[n, : lengths[n]] for n in (first, second))
    opening, key = opening[: options.opening], jax.random.key(options.seed)
    how = options.length, options.voices, options.temperature
    new = write(model, params, opening, key, *how)
    written = np.concatenate([opening, np.asarray(new)])
    write_midi(out / "music.mid", written, options.tempo)
    title = f"LSTM, {options.layers} × {options.hidden_size} units: {test:.2f} nats per step"
    draw(out / "music.png", piece, np.asarray(probabilities(model, params, piece)), written,
         len(opening), title)  # fmt: skip
    console.print(f"figure    {out / 'music.png'}\nmusic     {out / 'music.mid'}")


if __name__ == "__main__":
    main()
