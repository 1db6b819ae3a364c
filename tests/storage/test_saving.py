"""Models in files: the same again to the bit, or a clear error."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import CASES
from test_own_kind import Residual

import seqjax as sj
from seqjax.storage.model_json import FACTORIES, model_of

safetensors = pytest.importorskip("safetensors")
save_file = pytest.importorskip("safetensors.numpy").save_file

RELEASES = Path(__file__).parent / "releases"
KEY = jax.random.key(0)
MODEL = sj.stack(sj.embed(4, 3), sj.lstm(3, 4, forget_bias=1.0), jnp.tanh, sj.dense(4, 4))
PARAMS = MODEL.init(KEY)


def own_functions(call):
    """The functions in a model that are nobody's but the table's, and those that JAX made."""
    for value in (*call.args, *call.keywords.values()):
        if isinstance(value, sj.Model):
            yield from own_functions(value.call) if value.call else ()
        elif isinstance(value, sj.static_partial):
            yield from own_functions(value)
        elif isinstance(value, tuple):
            yield from own_functions(sj.static_partial(tuple, *value))
        elif "<locals>" in getattr(value, "__qualname__", ""):
            yield value


MODELS = [case for case in CASES if case.model.call is not None]


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_every_model_comes_back(case, tmp_path):
    functions = {f"mine{n}": f for n, f in enumerate(own_functions(case.model.call))}
    for model in (case.model, case.model.astype(jnp.bfloat16)):
        if case.name == "memory" and model is not case.model:
            continue  # its call does not say that its initial parameters are cast: refused, below
        params = model.init(KEY)
        with_keys = case.name in ("own-step", "stack-with-own", "stochastic")
        state = None if with_keys else model.initial_state(params)
        file = tmp_path / "model"
        sj.save(file, model, params, functions=functions, state=state)
        loaded = sj.load(file, functions=functions)
        assert loaded.model == model
        assert_close(loaded.params, params, 0)
        assert_close(loaded.trees, {"state": state}, 0)
        if functions:
            with pytest.raises(
                ValueError, match=r"expected the function that was saved as 'mine\d'"
            ):
                sj.load(file)
            with pytest.raises(ValueError, match=r"argument \d: expected a function of jax\.nn or"):
                sj.save(file, model, params)


def test_trees(tmp_path):
    tree = {
        "state": sj.LSTMState(jnp.ones(2), np.zeros(2, np.float16)),
        "a/b": [1, 2.5, True, None, "text", ()],
        "a": {"b": jnp.arange(3, dtype=jnp.bfloat16), "~": np.array(1 + 2j)},
        "empty": jnp.zeros((0, 3)),
        "complex": np.array([complex(-0.0, np.inf), complex(np.inf, -0.0)], np.complex64),
        "big-endian": np.arange(3, dtype=">i4"),
        "of another order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    sj.save(tmp_path / "f", MODEL, PARAMS, tree=tree, vocabulary=list("abcd"))
    trees = sj.load(tmp_path / "f").trees
    assert trees["vocabulary"] == list("abcd")
    assert type(trees["tree"]["state"]) is sj.LSTMState
    for ours, theirs in zip(jax.tree.leaves(trees["tree"]), jax.tree.leaves(tree), strict=True):
        assert isinstance(ours, jax.Array) == isinstance(theirs, jax.Array)
    assert trees["tree"]["a/b"] == tree.pop("a/b") == trees["tree"].pop("a/b")
    assert trees["tree"]["of another order"].dtype == jnp.float64
    assert_close(trees["tree"], tree, 0)


class Saved(Residual):
    """A kind of model of the user's own that says what makes it."""

    @property
    def call(self):
        return sj.static_partial(Saved, self.inner)


Own = namedtuple("Own", "w")
REFUSED = [
    (lambda: {"tree": {1, 2}}, TypeError, "tree: expected a dict, list, tuple or state of seqjax,"),
    (lambda: {"tree": {"k": [KEY]}}, TypeError, "tree/k/0: .* jax.random.key_data makes numbers"),
    (lambda: {"tree": {1: 2}}, TypeError, "tree: expected a dict"),
    (lambda: {"tree": Own(2)}, TypeError, r"tree: expected a dict, .* got Own\(w\)"),
    (lambda: {"tree": float("nan")}, TypeError, "tree: expected"),
    (lambda: {"tree": np.array(["a"])}, TypeError, "tree: expected one of float16, .* got str"),
    (lambda: {"params": PARAMS[:3]}, ValueError, "params: expected a tuple of 4, got a tuple of 3"),
    (
        lambda: {"model": sj.stack(lambda x: x)},
        ValueError,
        "stack, argument 0: expected a function",
    ),
    (
        lambda: {"model": sj.lstm(3, 4, kernel_init=jax.nn.initializers.orthogonal())},
        ValueError,
        "lstm, kernel_init: expected a function of jax.nn or jax.numpy, or one of yours",
    ),
    (lambda: {"path": "nowhere/f"}, ValueError, "path: expected a file in a folder that exists"),
    (lambda: {"functions": {"f": 3}}, TypeError, r"functions\['f'\]: expected a function"),
]


@pytest.mark.parametrize(("given", "kind", "message"), REFUSED)
def test_what_cannot_be_saved(given, kind, message, tmp_path):
    arguments = {"path": tmp_path / "f", "model": MODEL, **given()}
    params = {"params": arguments["model"].init(KEY)} if "model" in given() else {"params": PARAMS}
    with pytest.raises(kind, match=message):
        sj.save(**params | arguments)
    assert not [*tmp_path.iterdir()]


def test_a_model_of_which_a_part_was_replaced_is_refused(tmp_path):
    cell = sj.rnn(3, 4)
    other = dataclasses.replace(cell, readout=lambda params, h: 2 * h)
    with pytest.raises(ValueError, match="model: expected what a factory makes, and nothing repl"):
        sj.save(tmp_path / "f", other, other.init(KEY))


def test_the_model_is_readable_without_seqjax(tmp_path):
    sj.save(tmp_path / "f", MODEL, PARAMS)
    with safetensors.safe_open(tmp_path / "f", "numpy") as file:
        tree = json.loads(file.metadata()["model"])
        kernel = file.get_tensor("params/3/kernel")
    lstm = {"call": "lstm", "args": [3, 4], "options": {"forget_bias": 1.0, "dtype": "float64"}}
    assert tree["call"] == "stack"
    assert tree["args"][1:3] == [lstm, {"function": "jax.numpy.tanh"}]
    assert_close(kernel, np.asarray(PARAMS[3]["kernel"]), 0)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    sj.save(tmp_path / "f", MODEL, PARAMS)
    before = (tmp_path / "f").read_bytes()

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        sj.save(tmp_path / "f", MODEL, jax.tree.map(lambda p: p + 1, PARAMS))
    assert [*tmp_path.iterdir()] == [tmp_path / "f"]
    assert (tmp_path / "f").read_bytes() == before


def test_a_damaged_file_loads_nothing(tmp_path):
    file = tmp_path / "f"
    sj.save(file, MODEL, PARAMS, note="a note")
    whole = file.read_bytes()
    draw = np.random.default_rng(0)
    for end in (0, 3, 8, 100, *draw.integers(0, len(whole), 20), len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"expected a whole safetensors file, got .*f: "):
            sj.load(file)
    for at in (*draw.integers(8, len(whole), 200), len(whole) - 1):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(draw.integers(8))
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match="path: expected a"):
            sj.load(file)
    file.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="path: expected a whole safetensors file"):
        sj.load(file)


def rewritten(file, **changes):
    """The file again, as another program would write it."""
    with safetensors.safe_open(file, "numpy") as old:
        arrays = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118  not a dict
        save_file(arrays, file, {**(old.metadata() or {}), **changes})


def test_files_of_others(tmp_path):
    file = tmp_path / "f"
    save_file({"weight": np.ones(3)}, file)
    with pytest.raises(ValueError, match=r"a file that sj\.save wrote .* by another program"):
        sj.load(file)
    sj.save(file, MODEL, PARAMS)
    rewritten(file, format="2", seqjax="9.0.0")
    with pytest.raises(ValueError, match=r"not later than this .* of seqjax 9\.0\.0 \(format 2\)"):
        sj.load(file)
    sj.save(file, MODEL, PARAMS)
    rewritten(file, trees='{"more": 1}')
    with pytest.raises(ValueError, match=r"as sj\.save wrote it, got .*f, which was changed"):
        sj.load(file)


HARMFUL = [
    {"call": "save", "args": ["x"]},
    {"call": "os.system", "args": ["true"]},
    {"call": "stack", "args": [{"function": "jax.numpy.save"}]},
    {"call": "stack", "args": [{"function": "os.system"}]},
    {"call": "stack", "args": [{"function": "jax.nn.initializers.os"}]},
    {"call": "stack", "args": [{"function": "jax.nn.__loader__"}]},
    {"call": "stack", "args": [{"partial": {"function": "builtins.eval"}, "args": ["1"]}]},
    {"call": {"given": "x"}},
    {"state": "Model", "fields": {}},
    {"call": ["lstm"]},
    3,
]


@pytest.mark.parametrize("tree", HARMFUL, ids=str)
def test_nothing_but_models_is_made(tree):
    with pytest.raises((ValueError, TypeError), match=r"(model|functions|models.*): expected"):
        model_of(tree, {})


def test_every_factory_of_the_table_can_be_saved():
    def names(call):
        yield call.func.__name__
        for value in call.args:
            if isinstance(value, sj.Model) and value.call:
                yield from names(value.call)

    assert {name for case in MODELS for name in names(case.model.call)} == {*FACTORIES}


def test_a_kind_of_model_of_ones_own(tmp_path):
    model = sj.stack(Saved(sj.gru(3, 3)), Saved(sj.dense(3, 3)))
    sj.save(tmp_path / "f", model, model.init(KEY), functions={"residual": Saved})
    assert sj.load(tmp_path / "f", functions={"residual": Saved}).model == model
    with pytest.raises(ValueError, match=r"a factory: expected .* got the class Saved"):
        sj.save(tmp_path / "f", model, model.init(KEY))


def test_float64_where_it_is_not_enabled(tmp_path):
    model = sj.dense(2, 3, dtype=jnp.float32)
    sj.save(tmp_path / "f", model, model.init(KEY), a=jnp.ones(2), mean=np.ones(2))
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64 in a: set jax_enable_x64"):
        sj.load(tmp_path / "f")
    sj.save(tmp_path / "f", model, model.init(KEY), mean=np.ones(2))
    with jax.enable_x64(False):
        assert sj.load(tmp_path / "f").trees["mean"].dtype == np.float64


def test_without_safetensors():
    code = """
import sys
sys.modules["safetensors"] = sys.modules["safetensors.numpy"] = None
import jax, seqjax as sj
cell = sj.rnn(3, 4)
for run in (lambda: sj.save("f", cell, cell.init(jax.random.key(0))), lambda: sj.load("f")):
    try:
        run()
    except ImportError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [
        f"{verb}: needs safetensors: pip install 'seqjax[save]'" for verb in ("save", "load")
    ]


@pytest.mark.parametrize("file", sorted(RELEASES.glob("*.safetensors")), ids=lambda f: f.stem)
def test_files_of_each_release_are_read(file):
    model, params, trees = sj.load(file)
    outputs = jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(trees["xs"])
    assert_close(outputs, trees["ys"], 1e-6)


def test_this_release_has_its_file():
    assert (RELEASES / f"{sj.__version__}.safetensors").exists()
