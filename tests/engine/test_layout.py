"""The house rules: imports point one way, names are what they seem, modules are short."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from support.table import CASES

import seqjax as sj

PACKAGE = pathlib.Path(sj.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")
}
# Each wing imports from those before it and from itself.
WINGS = [
    {
        "_types",
        "_messages",
        "_checks",
        "_tree",
        "_static",
        "_tokens",
        "_pickling",
        "_gradients",
        "_devices",
    },
    {"ops"},
    {"engine"},
    {"models"},
    {"compose"},
    {"decoding", "train", "testing", "interop", "storage"},
]
PUBLIC = [
    "BPTT",
    "Adjoint",
    "Autodiff",
    "Cell",
    "DropoutState",
    "JordanState",
    "LSTMState",
    "MemoryState",
    "Model",
    "NARXState",
    "SLSTMState",
    "beam_search",
    "bidirectional",
    "branches",
    "conv_lstm",
    "dense",
    "dropout",
    "elman",
    "embed",
    "export",
    "feedback",
    "from_step",
    "generate",
    "gru",
    "interop",
    "jordan",
    "layer_norm",
    "load",
    "lru",
    "lstm",
    "matmul",
    "memory",
    "min_gru",
    "min_lstm",
    "narx",
    "predict_ahead",
    "residual",
    "rg_lru",
    "rms_norm",
    "rnn",
    "s5",
    "sample",
    "save",
    "slstm",
    "stack",
    "static_partial",
    "tdnn",
    "teacher_force",
    "testing",
    "train",
    "trajectory",
    "unroll",
    "warm_start",
    "weight_drop",
    "zoneout",
]


def imported(path):
    """The modules of seqjax that a file imports, dotted, `seqjax` itself left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("seqjax"))
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "seqjax":
                yield from (f"seqjax.{a.name}" for a in node.names)
            elif (node.module or "").startswith("seqjax."):
                yield node.module


def wing(module):
    """The number of the wing of `engine/model`, or of `engine.model`."""
    first = re.split(r"[/.]", module)[0]
    (number,) = (n for n, names in enumerate(WINGS) if first in names)
    return number


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__init__"}))
def test_imports_point_one_way(module):
    for name in imported(MODULES[module]):
        assert name != "seqjax", f"{module} imports the whole package"
        assert wing(name.removeprefix("seqjax.")) <= wing(module), f"{module} imports {name}"


# One of them is public: its names are functions and modules, one for each framework.
INNER = {m for m in MODULES if m.endswith("/__init__")} - {"interop/__init__"}


@pytest.mark.parametrize("module", sorted(INNER))
def test_an_inner_init_imports_nothing(module):
    body = ast.parse(MODULES[module].read_text()).body
    assert all(isinstance(node, ast.Expr) for node in body)  # a docstring at most


def test_no_name_shadows_a_module():
    for module in MODULES:
        dotted = ".".join(["seqjax", *module.split("/")]).removesuffix(".__init__")
        parent, _, name = dotted.rpartition(".")
        found = importlib.import_module(dotted)
        assert found.__name__ == dotted
        if parent:  # what `import seqjax.ops.matmul as m` binds
            assert getattr(importlib.import_module(parent), name) is found, dotted


def test_what_is_public():
    assert sj.__all__ == PUBLIC
    assert {*PUBLIC} & {m.split("/")[0] for m in MODULES} == {"interop", "testing", "train"}
    public = {name for name in vars(sj) if not name.startswith("_")}
    wings = {m.split("/")[0] for m in MODULES}
    assert public - wings <= {*PUBLIC}


FRAMEWORKS = ["equinox", "flax", "haiku", "keras", "onnx", "torch"]


def test_interop_imports_no_framework():
    assert sj.interop.__all__ == sorted(["check", *FRAMEWORKS])
    for framework in FRAMEWORKS:
        assert getattr(sj.interop, framework).__all__ == ["into", "read", "write"]
    others = {"torch", "keras", "flax", "haiku", "equinox", "onnx", "safetensors", "h5py"}
    code = f"import sys, seqjax; print({others} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_is_short_and_says_why_types_are_ignored(module):
    lines = MODULES[module].read_text().splitlines()
    assert len(lines) <= 300
    for number, line in enumerate(lines, 1):
        if "# type: ignore" in line:
            assert re.search(r"# type: ignore\[[\w-]+\]  # \w+", line), f"{module}:{number}"


OF_OWN_FUNCTIONS = {
    "structured-without-rules",
    "own-step",
    "memory",
    "stack-with-own",
    "stochastic",
}
PRINTED = [case for case in CASES if case.name not in OF_OWN_FUNCTIONS]
NAMES = {name: getattr(sj, name) for name in PUBLIC} | {"bfloat16": jnp.bfloat16}
NAMES |= {f.__name__: f for f in (jax.nn.relu, jax.nn.elu, jax.nn.glu, jax.nn.softmax, jnp.tanh)}
NAMES |= {f.__name__: f for f in (jax.nn.hard_sigmoid, jax.nn.soft_sign)}
NAMES |= {f.__name__: f for f in (jax.nn.initializers.zeros, jax.nn.initializers.ones)}


@pytest.mark.parametrize("case", PRINTED, ids=lambda case: case.name)
def test_repr_is_the_call_that_makes_the_model(case):
    for dtype in (jnp.float64, jnp.bfloat16):
        model = case.make(dtype)
        assert eval(repr(model), NAMES) == model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_call_of_a_model_makes_it_again(case):
    of_own_functions = case.name == "memory"  # whose initial parameters are cast from outside
    for model in (case.model,) if of_own_functions else (case.model, case.model.astype("bfloat16")):
        assert (model.call is None) == (case.name == "structured-without-rules")
        assert model.call is None or model.call() == model
