"""To every public function, every wrong thing: the argument is named."""

import dataclasses
import inspect
import os
import re
import tempfile

import jax
import jax.numpy as jnp
import optax
import pytest
from support.wrong import (
    CELL,
    DTYPES,
    HIGHPASS,
    KEY,
    LSTM,
    MASK,
    NARX,
    NARX_PARAMS,
    OWN_FUNCTION,
    PARAMS,
    SAMPLING,
    SIZES,
    SYMBOLS,
    UNROLL,
    XS,
    YS,
    Dataset,
    ForeignTensor,
    bptt,
    branches,
    stack,
    told,
)

import seqjax as sj

FILE = os.path.join(tempfile.mkdtemp(), "model")
sj.save(FILE, LSTM, PARAMS)
LAYER_INITS = {"kernel_init": None, "bias_init": None}
FUNCTIONS = {
    "gate_activation": jax.nn.sigmoid,
    "activation": jnp.tanh,
    "recurrent_dropout": 0.5,
}
INITS = {**LAYER_INITS, "recurrent_init": None}
# Every public function with arguments that it takes.
CALLS = {
    "BPTT": (
        bptt,
        {"chunk": None, "store": None, "truncate": None, "clip": None, "scan": None, "over": None},
    ),
    "Cell": (
        sj.Cell,
        {f.name: getattr(CELL, f.name) for f in dataclasses.fields(sj.Cell) if f.name[0] != "_"}
        | {"feedthrough": CELL.project, "draw": CELL.init},
    ),
    "beam_search": (
        sj.beam_search,
        {
            "model": SYMBOLS,
            "params": SYMBOLS.init(KEY),
            "prompt": jnp.array([1]),
            "length": 2,
            "beams": 2,
            "state": None,
            "stop": None,
            "length_penalty": 0.0,
            "process_logits": None,
            "encode": None,
        },
    ),
    "bidirectional": (
        sj.bidirectional,
        {"forward": LSTM, "backward": LSTM, "merge": "concat"},
    ),
    "conv_lstm": (
        sj.conv_lstm,
        {"input_shape": (4, 3), "channels": 2, "kernel_size": 3, "forget_bias": 1.0}
        | {**INITS, "use_bias": True, **DTYPES},
    ),
    "branches": (branches, {"models[0]": LSTM, "models[1]": LSTM, "merge": "sum"}),
    "feedback": (sj.feedback, {"model": sj.gru(4, 3), "merge": "concat"}),
    "from_step": (
        sj.from_step,
        {
            "init": LSTM.init,
            "step": LSTM.step,
            "initial_state": LSTM.initial_state,
            "input_spec": None,
            "stochastic": False,
        },
    ),
    "dropout": (sj.dropout, {"rate": 0.5, "shared_over_time": True}),
    "dense": (
        sj.dense,
        {
            "input_size": 3,
            "output_size": 4,
            "activation": None,
            **LAYER_INITS,
            "use_bias": True,
            **DTYPES,
        },
    ),
    "elman": (sj.elman, {**SIZES, "activation": jnp.tanh, **INITS, "use_bias": True, **DTYPES}),
    "embed": (sj.embed, {"vocabulary_size": 5, "features": 3, **DTYPES}),
    "export": (
        sj.export,
        {"model": LSTM, "params": PARAMS, "x": XS[0], "platforms": ["cpu"]},
    ),
    "load": (sj.load, {"path": FILE, "functions": {"f": OWN_FUNCTION}}),
    "save": (
        sj.save,
        {"path": FILE, "model": LSTM, "params": PARAMS, "functions": {"f": OWN_FUNCTION}},
    ),
    "generate": (
        sj.generate,
        {
            "model": SYMBOLS,
            "params": SYMBOLS.init(KEY),
            "prompt": jnp.array([1]),
            "length": 2,
            "key": KEY,
            "state": None,
            "stop": None,
            "process_logits": None,
            "encode": None,
            **SAMPLING,
        },
    ),
    "gru": (
        sj.gru,
        {
            **SIZES,
            "reset_after": True,
            "layer_norm": True,
            **FUNCTIONS,
            "forget_bias": None,
            "chrono": 30.0,
            **INITS,
            "use_bias": True,
            "learn_initial_state": True,
            **DTYPES,
        },
    ),
    "jordan": (
        sj.jordan,
        {
            **SIZES,
            "output_size": 2,
            "decay": 0.5,
            "activation": jnp.tanh,
            "output_activation": None,
            **INITS,
            **DTYPES,
        },
    ),
    "lstm": (
        sj.lstm,
        {
            **SIZES,
            "peepholes": True,
            "coupled": True,
            "projection_size": 2,
            "layer_norm": False,
            **FUNCTIONS,
            "forget_bias": 1.0,
            "chrono": None,
            **INITS,
            "use_bias": True,
            "learn_initial_state": True,
            **DTYPES,
        },
    ),
    "layer_norm": (sj.layer_norm, {"size": 3, "eps": 1e-5, **DTYPES}),
    "matmul": (sj.matmul, {"x": XS, "kernel": jnp.ones((3, 2)), "bias": None}),
    "lru": (
        sj.lru,
        {**SIZES, "output_size": 2, "r_min": 0.0, "r_max": 1.0, "max_phase": 6.0}
        | {"kernel_init": None, **DTYPES},
    ),
    "min_gru": (
        sj.min_gru,
        {**SIZES, "positive_candidate": True, "learn_initial_state": True}
        | {**LAYER_INITS, "use_bias": True, **DTYPES},
    ),
    "min_lstm": (
        sj.min_lstm,
        {**SIZES, "positive_candidate": True, "learn_initial_state": True}
        | {**LAYER_INITS, "use_bias": True, **DTYPES},
    ),
    "rg_lru": (
        sj.rg_lru,
        {
            "size": 4,
            "heads": 2,
            "c": 8.0,
            "a_min": 0.9,
            "a_max": 0.99,
            **LAYER_INITS,
            "use_bias": True,
            "learn_initial_state": True,
            **DTYPES,
        },
    ),
    "s5": (
        sj.s5,
        {
            **SIZES,
            "output_size": 2,
            "blocks": 2,
            "dt_min": 0.001,
            "dt_max": 0.1,
            "timesteps": True,
            "kernel_init": None,
            **DTYPES,
        },
    ),
    "memory": (
        sj.memory,
        dict.fromkeys(("r", "f", "g", "init", "initial_state"), OWN_FUNCTION)
        | {"input_spec": None},
    ),
    "narx": (
        sj.narx,
        {
            "input_size": 3,
            "hidden": 4,
            "output_size": 2,
            "input_delays": (0, 1),
            "output_delays": (1, 2),
            "activation": jnp.tanh,
            "output_activation": None,
            **INITS,
            **DTYPES,
        },
    ),
    "rnn": (
        sj.rnn,
        {
            **SIZES,
            "activation": jnp.tanh,
            **INITS,
            "use_bias": True,
            "learn_initial_state": True,
            **DTYPES,
        },
    ),
    "residual": (sj.residual, {"model": sj.gru(3, 3)}),
    "rms_norm": (sj.rms_norm, {"size": 3, "eps": 1e-5, **DTYPES}),
    "sample": (sj.sample, {"key": KEY, "logits": jnp.ones(3), **SAMPLING}),
    "slstm": (
        sj.slstm,
        {**SIZES, "heads": 2, "forget_gate": "sigmoid", "forget_bias": 1.0}
        | {**INITS, "use_bias": True, **DTYPES},
    ),
    "stack": (stack, {"models[0]": LSTM, "models[1]": sj.dense(4, 2)}),
    "tdnn": (
        sj.tdnn,
        {
            "input_size": 3,
            "output_size": 4,
            "delays": (0, 2),
            "activation": None,
            **LAYER_INITS,
            "use_bias": True,
            **DTYPES,
        },
    ),
    "teacher_force": (
        sj.teacher_force,
        {
            "model": NARX,
            "params": NARX_PARAMS,
            "xs": XS,
            "measured_ys": YS,
            "state": None,
            "forced": None,
            "mask": None,
        },
    ),
    "trajectory": (sj.trajectory, {"model": LSTM, **UNROLL, "perturb": None}),
    "predict_ahead": (
        sj.predict_ahead,
        {
            "model": NARX,
            "params": NARX_PARAMS,
            "xs": XS,
            "measured_ys": YS,
            "state": None,
            "steps_ahead": 2,
            "length": None,
            "mask": None,
            "reset": None,
            "reverse": False,
        },
    ),
    "unroll": (sj.unroll, {"model": LSTM, **UNROLL}),
    "weight_drop": (
        sj.weight_drop,
        {"params": PARAMS, "key": KEY, "rate": 0.5, "names": ("recurrent_kernel",)},
    ),
    "zoneout": (sj.zoneout, {"cell": LSTM, "rate": 0.5}),
    "warm_start": (sj.warm_start, {"model": NARX, "xs": XS, "measured_ys": YS}),
    "testing.check_cell": (
        sj.testing.check_cell,
        {"model": HIGHPASS, "x": jnp.ones(()), "draws": 1, "steps": 2},
    ),
    "train.data_parallel": (sj.train.data_parallel, {"devices": jax.devices()}),
    "train.make_step": (
        sj.train.make_step,
        {"loss": OWN_FUNCTION, "optimizer": optax.sgd(0.1), "has_aux": False},
    ),
    "train.masked_mean": (sj.train.masked_mean, {"values": jnp.ones(5), "mask": MASK}),
    # What models do.
    "Model.step": (
        LSTM.step,
        {"params": PARAMS, "state": None, "x": XS[0], "key": KEY, "reset": jnp.array(True)},
    ),
    "dense.step": (
        sj.dense(3, 2).step,
        {"params": sj.dense(3, 2).init(KEY), "state": (), "x": XS[0]},
    ),
    "embed.step": (
        sj.embed(5, 2).step,
        {"params": sj.embed(5, 2).init(KEY), "state": (), "x": jnp.array(3)},
    ),
    "Model.astype": (LSTM.astype, {"dtype": jnp.float32}),
    **{
        f"{name}.init": (model.init, {"key": KEY})
        for name, model in {
            "lstm": LSTM,
            "dense": sj.dense(3, 2),
            "embed": sj.embed(3, 2),
            "layer_norm": sj.layer_norm(3),
            "rms_norm": sj.rms_norm(3),
            "branches": sj.branches(LSTM),
            "tdnn": sj.tdnn(3, 2),
            "narx": NARX,
            "jordan": sj.jordan(3, 4, 2, decay=0.1),
            "stack": SYMBOLS,
            "bidirectional": sj.bidirectional(LSTM),
        }.items()
    },
    **{
        f"{name}.initial_state": (model.initial_state, {"params": model.init(KEY)})
        for name, model in {
            "lstm": sj.lstm(3, 4, learn_initial_state=True),
            "stack": SYMBOLS,
            "bidirectional": sj.bidirectional(LSTM),
        }.items()
    },
}
NOT_CALLED = {  # classes that hold what is given, and have no checks of their own
    "Adjoint", "Autodiff", "DropoutState", "Model", "JordanState", "LSTMState", "MemoryState",
    "NARXState", "SLSTMState", "interop", "static_partial", "testing", "train",
    "train.DataParallel", "train.Report",
}  # fmt: skip
WRONG = {
    "a tensor": ForeignTensor(4, 4),
    "a dataset": Dataset(4, 4),
    "a nested list": [[1.0, 2.0], [3.0, 4.0]],
    "None": None,
    "a string": "neither",
}
# Where one of them is right after all.
NONE_FITS = re.compile(
    "(initial_)?state|length|mask|reset|forced|dtype|param_dtype|chunk|store|truncate|clip|top_k|"
    "top_p|bias|forget_bias|chrono|projection_size|(kernel|recurrent|bias)_init|"
    "output_activation|backward|stop|process_logits|encode|input_spec|(pre)?activate_vjp|"
    "coefficients|feedthrough|draw|scan|over|functions|x"
)
FITS = {
    ("BPTT", "over", "a string"),
    ("Cell", "name", "a string"),
    ("Cell", "name", "init"),  # a static_partial, as the call of a factory is
    ("Cell", "name", "initial_state"),
    ("dense", "activation", "None"),
    ("narx", "hidden", "output_delays"),
    ("tdnn", "activation", "None"),
    ("train.data_parallel", "devices", "None"),
    ("load", "path", "a string"),
    ("save", "path", "a string"),
    ("unroll", "key", "None"),
    ("trajectory", "key", "None"),
    ("trajectory", "perturb", "None"),
    ("weight_drop", "key", "None"),
    ("Model.step", "key", "None"),
}


def kind(value) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return (
        "function" if callable(value) and not isinstance(value, sj.Model) else type(value).__name__
    )


def cases():
    """Every argument of every function, and what is wrong in its place."""
    for name, (_, arguments) in CALLS.items():
        for argument, right in arguments.items():
            others = {
                n: v for n, v in arguments.items() if v is not None and kind(v) != kind(right)
            }
            for what, wrong in {**WRONG, **dict([*others.items()][:2])}.items():
                fits = what == "None" and NONE_FITS.fullmatch(argument)
                if not fits and (name, argument, what) not in FITS:
                    yield pytest.param(name, argument, wrong, id=f"{name}-{argument}-{what}")


def test_every_public_function_is_called():
    public = {*sj.__all__, *(f"testing.{name}" for name in sj.testing.__all__)}
    public |= {f"train.{name}" for name in sj.train.__all__}
    assert public <= {*CALLS, *NOT_CALLED}
    for name, (function, arguments) in CALLS.items():
        known = inspect.signature(function).parameters.values()
        if name in public and all(
            p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in known
        ):
            assert {p.name for p in known} - {"seed", "_pairs"} == set(arguments), name
        function(**arguments)


@pytest.mark.parametrize(("name", "argument", "wrong"), [*cases()])
def test_a_wrong_argument_is_named(name, argument, wrong):
    function, arguments = CALLS[name]
    message = told(lambda: function(**arguments | {argument: wrong}))
    known = "|".join(map(re.escape, arguments))
    assert re.match(rf"({known})(\W.*)?: expected .*, got ", message), message
