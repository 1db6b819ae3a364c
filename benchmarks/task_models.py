"""The models of `tasks`: each kind of recurrence, of as many units as a number of parameters buys.

Nonlinear recurrences stand alone between input and readout. Linear ones have their nonlinearity
around them, as in the papers: two blocks [layer norm, recurrence, GLU, +] between two dense layers.
"""

import bisect

import jax

import seqjax as sj
from benchmarks.task_problems import Task

try:
    from _long_memory.systems import make_system
except ImportError as missing:
    raise SystemExit(f"{missing}. This needs: pip install 'seqjax[bench]'") from None

LINEAR = ("min_gru", "min_lstm", "rg_lru", "lru", "s5")
FED_BACK = ("narx", "memory")  # on adding and copying alone, as in examples/long_memory.py
KINDS = ("rnn", "lstm", "gru", "slstm", *LINEAR, *FED_BACK)
BLOCKS = 2
MOST_UNITS = 1024  # NARX, whose recurrence is its few outputs, could pay for thousands


def fitted(kind: str, task: Task, most: int, dropout: float) -> tuple[sj.Model, int]:
    """(model, units): as many units, in fours, as `most` parameters allow."""
    sizes = range(4, MOST_UNITS + 1, 4)
    size = lambda units: parameters(make_model(kind, task, units, dropout))
    count = bisect.bisect_right(sizes, most, key=size)
    if count == 0:
        raise ValueError(f"parameters: expected enough for 4 units of {kind}, got {most}")
    return make_model(kind, task, sizes[count - 1], dropout), sizes[count - 1]


def parameters(model: sj.Model) -> int:
    return sum(a.size for a in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def make_model(kind: str, task: Task, units: int, dropout: float) -> sj.Model:
    if kind in FED_BACK:
        if task.remember is None:
            raise ValueError(f"models: expected another one for {task.title}, got {kind}")
        return make_system(kind, (task.steps, task.inputs, task.outputs), units)
    drop = [sj.dropout(dropout)] if dropout else []
    readout = [*drop, sj.dense(units, task.outputs)]
    if kind in LINEAR:
        read = sj.embed if task.reads_tokens else sj.dense
        return sj.stack(
            read(task.inputs, units), *(block(kind, units, drop) for _ in range(BLOCKS)), *readout
        )
    if task.reads_tokens:
        return sj.stack(sj.embed(task.inputs, units), cell(kind, units, units, task), *readout)
    return sj.stack(cell(kind, task.inputs, units, task), *readout)


def block(kind: str, units: int, drop: list[sj.Model]) -> sj.Model:
    sizes = {"rg_lru": 1, "min_gru": 2, "min_lstm": 2}.get(kind, 3)
    recurrence = getattr(sj, kind)(*[units] * sizes)
    gate = sj.dense(units, 2 * units), jax.nn.glu
    return sj.residual(sj.stack(sj.layer_norm(units), recurrence, *gate, *drop))


def cell(kind: str, inputs: int, units: int, task: Task) -> sj.Cell:
    """Gates that keep at first: for up to `task.remember` steps if that is known."""
    options = dict(task.initial) if kind in ("rnn", "lstm", "gru") else {}
    if kind in ("lstm", "gru") and task.remember:
        options["chrono"] = task.remember
    elif kind in ("lstm", "slstm"):
        options["forget_bias"] = {"lstm": 1.0, "slstm": 3.0}[kind]
    return getattr(sj, kind)(inputs, units, **options)
