"""A character-level language model: a stacked LSTM that learns to write by reading.

    python examples/char_rnn.py                             # two minutes on two CPU cores
    python examples/char_rnn.py --data shakespeare.txt --val-fraction 0.1
    python examples/char_rnn.py --resume                    # goes on where a run was stopped
    python examples/char_rnn.py --sample 500 --prime "def "

It is trained by truncated back-propagation through time: the text is cut into parallel
streams, each update reads the next few characters of every stream, and the LSTM's state is
carried from one update to the next, so that it remembers further than the gradient reaches.

The default text is the source code of Python's standard library. Ctrl-C finishes the update,
saves a checkpoint and exits with status 0; `--resume` then continues as if there had been none.

References: Karpathy 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks", and
char-rnn; Graves 2013, arXiv:1308.0850; Williams & Peng 1990 (truncated BPTT).
"""

import math
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

import seqjax as sj

try:
    from _char_rnn.checkpoints import interruptible, open_checkpoints, restore, resume, save
    from _char_rnn.devices import claim_cores, open_devices, split, split_if_divisible
    from _char_rnn.figures import draw
    from _char_rnn.model import initial_states, make_model
    from _char_rnn.options import parse, parser
    from _char_rnn.report import console, describe, progress_bar, record, stopped
    from _char_rnn.sampling import make_writer, write_sample
    from _char_rnn.text import read_data
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

parser.set_defaults(  # --help says what each option means
    val_fraction=0.05,
    embedding_size=64,
    hidden_size=128,
    layers=2,
    batch_size=32,
    seq_length=64,
    steps=2200,
    learning_rate=1e-2,
    grad_clip=1.0,
    seed=0,
    eval_every=275,
    temperature=0.7,
    out="runs/char_rnn",
)


def make_loss(model: sj.Model):
    adjoint = sj.BPTT(store="preactivations")  # fastest, and at these sizes memory is no concern

    def loss(params, states, symbols):
        """Nats per character over symbols [B, T + 1], and the state of each stream after it."""
        read = lambda state, xs: sj.unroll(model, params, xs, state, adjoint=adjoint)
        states, logits = jax.vmap(read)(states, symbols[:, :-1])
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, symbols[:, 1:])
        return nats.mean(), states

    return loss


def train(options, checkpoints) -> bool:
    """Whether all updates are done: not if it was told to stop."""
    devices = open_devices(options)
    batch, span, out = options.batch_size, options.seq_length, Path(options.out)
    data = read_data(options)
    model = make_model(len(data.vocabulary), options)
    loss = make_loss(model)
    warmup = min(100, options.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, warmup, options.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(options.grad_clip), optax.adam(rate))
    step = sj.train.make_step(loss, optimizer, has_aux=True)
    write = make_writer(model, data.vocabulary, options)
    val = split_if_divisible(devices, data.val.swapaxes(0, 1))

    @jax.jit
    def evaluate(params, val):
        swap = lambda nats, states: (states, nats)
        read = lambda states, symbols: swap(*loss(params, states, symbols))
        states = initial_states(model, params, len(val))
        return jax.lax.scan(read, states, val.swapaxes(0, 1))[1].mean() / math.log(2)

    # Where the training begins, or stands. Nothing else is carried from update to update: the
    # place in the streams and the keys of the samples follow from the number of updates.
    init_key, sample_key = jax.random.split(jax.random.key(options.seed))
    params = devices.everywhere(model.init(init_key))
    start_states = lambda: split(devices, initial_states(model, params, batch))
    carried = devices.everywhere(optimizer.init(params)), start_states()
    done, history = 0, {"loss": [], "grad_norm": [], "val": []}
    if options.resume:
        done, history, params, carried = resume(checkpoints, options, data, params, carried)
    opt_state, states = carried
    title = describe(options, data, params, done, devices)
    per_epoch, seconds, reports = (data.streams.shape[1] - 1) // span, [], []
    with interruptible() as interrupted, progress_bar(done, options.steps) as (progress, bar):
        while done < options.steps and not interrupted(done):
            start, at = time.perf_counter(), done % per_epoch * span
            states = states if at else start_states()  # the streams begin again
            piece = split(devices, data.streams[:, at : at + span + 1])
            params, opt_state, report = step(params, opt_state, states, piece)
            states, done = report.aux, done + 1
            validates = done % options.eval_every == 0 or done == options.steps
            reports.append(report._replace(aux=None))
            record(history, reports, but=0 if validates or not seconds else 1)
            seconds.append(time.perf_counter() - start)
            speed = batch * span / np.median(seconds[-50:])  # not the mean: the first compiles
            recent, norm = np.mean(history["loss"][-50:]), history["grad_norm"][-1]
            progress.update(bar, completed=done, loss=recent, norm=norm, speed=speed)
            if validates:
                bits = float(evaluate(params, val))
                history["val"].append((done, bits))
                progress.update(bar, val=bits)
                said = f"{recent:.3f} bits/char in training, {bits:.3f} in validation, {speed:,.0f}"
                console.print(f"\n── update {done:,}: {said} chars/s ──", style="bold cyan")
                length = 1000 if done == options.steps else 200
                console.print(write(params, jax.random.fold_in(sample_key, done), length))
                save(checkpoints, options, data, done, history, params, (opt_state, states))
        record(history, reports)
        save(checkpoints, options, data, done, history, params, (opt_state, states))
    if done < options.steps:
        console.print(stopped(options, done))
    elif jax.process_index() == 0:
        drawn = draw(out, history, title, options, model, params, data)
        console.print(f"\n{drawn}\ncheckpoint  {out / 'checkpoint'}: --sample 1000 writes more")
    return done == options.steps


def main(argv=None):
    options = parse(argv)
    with open_checkpoints(options) as checkpoints:
        if options.sample:
            return write_sample(options, checkpoints)
        if options.resume:
            options = parse(argv, remembered=restore(checkpoints, "notes")["options"])
        return train(options, checkpoints)


if __name__ == "__main__":
    claim_cores(parse(None))
    main()
