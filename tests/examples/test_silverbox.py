"""benchmarks/silverbox.py: both scorings, the sizes of the nets, and their table in the docs."""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import seqjax as sj
from benchmarks import silverbox

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
ROWS = json.loads(silverbox.FIGURES.read_text())


def test_the_docs_have_the_table_of_the_committed_results():
    assert silverbox.table(ROWS) in PAGE


def test_each_net_has_a_row_of_three_seeds():
    assert list(ROWS) == list(silverbox.NETS)
    for name, row in ROWS.items():
        net = silverbox.NETS[name]
        leaves = jax.tree.leaves(net.model.init(jax.random.key(0)))
        assert row["parameters"] == sum(leaf.size for leaf in leaves)
        assert row["call"] == net.call
        assert row["options"]["samples"] == silverbox.TRAINING_SAMPLES
        for tests in row["rmse_mv"].values():
            assert all(len(seeds) == 3 for seeds in tests.values())


def test_the_small_nets_are_of_the_published_sizes():
    for name in ("gru_4", "lstm_16", "rnn_16", "fir_mlp_4"):
        row = ROWS[name]
        second_bias = 16 if row["kind"] == "rnn" else 0
        assert row["parameters"] + second_bias == row["published_parameters"]


def test_what_the_docs_say_in_words_is_true_of_the_rows():
    def better(name):
        found, theirs = (ROWS[name][of]["all"] for of in ("rmse_mv", "published_rmse_mv"))
        return {test for test in silverbox.TESTS if max(found[test]) < theirs[test]}

    everywhere = set(silverbox.TESTS)
    assert better("gru_4") == better("rnn_16") == everywhere
    assert better("lstm_16") == everywhere - {"arrow"}
    assert better("fir_mlp_4") == {"multisine"}
    small, large = (ROWS[name]["rmse_mv"]["all"] for name in ("lstm_16", "lstm_32"))
    for test in silverbox.TESTS:  # "no better": within the spread of the seeds
        gain = np.mean(small[test]) - np.mean(large[test])
        assert gain < np.std(small[test], ddof=1) + np.std(large[test], ddof=1)


def test_lags():
    found = silverbox.lagged(np.array([1.0, 2.0, 3.0]), 2)
    np.testing.assert_array_equal(found, [[1, 0], [2, 1], [3, 2]])


@pytest.mark.parametrize(("lags", "delays"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_scoring(lags, delays):
    """Scored as "all": the samples whose lags lie inside the record; against a loop in NumPy."""
    model = sj.tdnn(lags, 1, delays=range(delays), dtype="float32")
    net = silverbox.Net("rnn", "call", model, lags)
    draw = np.random.default_rng(0)
    parts = ("training", "validation", *silverbox.TESTS)
    data = {part: tuple(draw.standard_normal((2, 200)).astype(np.float32)) for part in parts}
    options = argparse.Namespace(
        updates=1, batch=2, span=9, samples=200, learning_rate=0.0, seeds=2, nets=[], data=None
    )
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as the script runs
        row = silverbox.train(net, data, 10.0, options)
        seeds = [model.init(jax.random.key(seed)) for seed in range(2)]
    for seed, params in enumerate(seeds):
        kernel, bias = np.array(params["kernel"], float), float(params["bias"][0])
        for test in silverbox.TESTS:
            x, y = data[test]
            at = lambda t, x=x: x[t] if t >= 0 else 0.0
            errors = [
                bias
                + sum(kernel[d, k, 0] * at(t - d - k) for d in range(delays) for k in range(lags))
                - y[t]
                for t in range(200)
            ]
            for scoring, begin in (("all", lags + delays - 2), ("after 50", 50)):
                expected = 10 * np.sqrt(np.mean(np.square(errors[begin:])))
                assert row["rmse_mv"][scoring][test][seed] == pytest.approx(expected, abs=2e-3)
