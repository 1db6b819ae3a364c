"""Weights in safetensors files, as the hubs have them."""

import jax
import jax.numpy as jnp
import pytest
from support.ported import assert_equal

import seqjax as sj

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_files_in_the_layout_of_pytorch(dtype, tmp_path):
    model = sj.stack(
        sj.embed(7, 3, dtype=dtype), sj.gru(3, 4, dtype=dtype), sj.dense(4, 7, dtype=dtype)
    )
    params = model.init(jax.random.key(0))
    layers = ("tokens", "encoder", "head")
    arrays = sj.interop.torch.write(model, params, layers=layers, numpy=True)
    safetensors.save_file(arrays, tmp_path / "model.safetensors")
    loaded = safetensors.load_file(tmp_path / "model.safetensors")
    read, read_params = sj.interop.torch.read(loaded, layers=layers, kinds={"tokens": "embed"})
    assert read == model
    assert_equal(read_params, params)
