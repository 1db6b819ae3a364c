"""The tests run in float64, with every promotion that JAX can refuse refused."""

import math
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled and run once each: compile them quickly.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile("seqjax", deadline=None, derandomize=True)
settings.load_profile("seqjax")


# The fast tier (`pytest -m fast`), by the beginnings of names: rules, operations, errors, and of
# every model one run with its gradient.
FAST = (
    "engine/test_errors.py",
    "engine/test_history.py",
    "engine/test_hoist.py",
    "engine/test_jax_names.py",
    "engine/test_layout.py",
    "engine/test_messages.py",
    "engine/test_rows.py",
    "engine/test_rules.py",
    "engine/test_schedule.py::test_the_size_of_a_step",
    "engine/test_schedule.py::test_on_a_cpu",
    "laws/test_gradients.py::test_rule_equals_autodiff_of_a_plain_scan[BPTT(chunk=None",
    "models/test_bidirectional.py::test_it_is_two_runs",
    "storage/test_saving.py::test_a_damaged_file",
    "storage/test_saving.py::test_files_of_each_release",
    "storage/test_saving.py::test_trees",
    "models/test_torch_reference.py::test_outputs_states_and_gradients_are_those_of_pytorch",
)


def pytest_addoption(parser):
    parser.addoption("--share", default="1/1", help="K/N: every Nth test, from the Kth on")


def pytest_collection_modifyitems(config, items):
    share, shares = map(int, config.getoption("--share").split("/"))
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name.startswith(FAST) and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.fast)
    if shares > 1:
        others = [item for number, item in enumerate(items) if (number - share) % shares]
        config.hook.pytest_deselected(items=others)
        items[:] = items[share % shares :: shares]


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_code():
    """Thousands of compiled programs in one process exhaust its memory mappings."""
    yield
    if memory_mappings() > 10_000:
        jax.clear_caches()


def memory_mappings() -> float:
    """Of this process; Linux allows 65,530, other systems don't say."""
    try:
        return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return math.inf
