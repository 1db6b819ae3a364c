"""Writes tests/models/torch_reference.json: what PyTorch computes for its test.

python tools/make_torch_reference.py          (needs torch; the test does not)
"""

import json
import pathlib
import sys

import jax
import torch

jax.config.update("jax_enable_x64", True)
TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "models")]
from test_torch_reference import GATES, REFERENCE, P, inputs, weights  # noqa: E402  found by then

MAKE = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "rnn_tanh": lambda *sizes: torch.nn.RNN(*sizes, nonlinearity="tanh"),
    "rnn_relu": lambda *sizes: torch.nn.RNN(*sizes, nonlinearity="relu"),
    "lstm_projected": lambda *sizes: torch.nn.LSTM(*sizes, proj_size=P),
}


def tensor(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def reference(name):
    """Outputs, final state and the gradients of Σ ys·w + Σ final·w, in torch's own layout."""
    given = inputs(name)
    x, h, c = tensor(given["x"]), tensor(given["h"]), tensor(given["c"])
    module = MAKE[name](x.shape[1], h.shape[0]).double()
    with torch.no_grad():
        for key, value in weights(name).items():
            getattr(module, f"{key}_l0").copy_(torch.tensor(value))
    is_lstm = name.startswith("lstm")
    start = h @ module.weight_hr_l0.T if name == "lstm_projected" else h
    state = (start[None], c[None]) if is_lstm else start[None]
    ys, final = module(x, state)
    final = [s[0] for s in final] if is_lstm else [final[0]]
    loss = (ys * torch.tensor(given["w"])).sum()
    for s, w in zip(final, (given["w_h"], given["w_c"]), strict=False):
        loss = loss + (s * torch.tensor(w)).sum()
    loss.backward()
    gradients = {key: getattr(module, f"{key}_l0").grad for key in weights(name)}
    gradients |= {"x": x.grad, "h": h.grad} | ({"c": c.grad} if is_lstm else {})
    return {
        "ys": ys.tolist(),
        "final": [s.tolist() for s in final],
        "gradients": {key: value.tolist() for key, value in gradients.items()},
    }


if __name__ == "__main__":
    lines = [f'"torch": {json.dumps(torch.__version__)}']
    lines += [f"{json.dumps(name)}: {json.dumps(reference(name))}" for name in GATES]
    REFERENCE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
