"""The tests run in float64, with every promotion that JAX can refuse refused."""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled and run once each: compile them quickly.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile("seqjax", deadline=None, derandomize=True)
settings.load_profile("seqjax")


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_code():
    """Thousands of compiled programs in one process exhaust its memory mappings."""
    yield
    jax.clear_caches()
