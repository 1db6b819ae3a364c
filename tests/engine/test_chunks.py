"""A series in chunks: all of one length, none of them padded where that can be helped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.programs import scans

from seqjax._tree import length_of
from seqjax.engine.chunks import scan_chunks, truncation
from seqjax.engine.recurrence import Steps


def run(time, size, steps):
    """What `scan_chunks` returns of a sum over valid steps, and the length of each chunk traced."""
    lengths = []

    def chunk(total, inputs):
        xs, (valid, reset, *_) = inputs
        lengths.append((length_of(xs), valid is None))
        valid = jnp.ones(len(xs), bool) if valid is None else valid
        again = jnp.zeros(len(xs), bool) if reset is None else reset
        return total + jnp.sum(jnp.where(valid, xs, 0)) + 1000 * jnp.sum(again), xs

    xs = jnp.arange(1, time + 1)
    total, ys = scan_chunks(chunk, jnp.zeros((), xs.dtype), xs, steps, size)
    np.testing.assert_array_equal(ys, xs)
    return int(total), *lengths[-1]


@pytest.mark.parametrize(
    ("time", "size", "length", "whole"),
    [
        (80, None, 80, True),
        (80, 80, 80, True),
        (80, 100, 80, True),
        (80, 40, 40, True),
        (80, 30, 20, True),  # a divisor: nothing is padded
        (101, 30, 26, False),  # a prime number: three steps are
        (7, 1, 1, True),
    ],
)
def test_chunks_have_one_length(time, size, length, whole):
    """`whole`: no step is padding, so that no mask is needed."""
    assert run(time, size, Steps()) == (time * (time + 1) // 2, length, whole)


@pytest.mark.parametrize(("size", "number"), [(None, 0), (80, 0), (100, 0), (40, 1)])
def test_a_series_that_is_one_chunk_is_no_loop(size, number):
    chunk = lambda total, inputs: (total + jnp.sum(inputs[0]), inputs[0])
    run = lambda xs: scan_chunks(chunk, jnp.zeros(()), xs, Steps(), size)
    assert len(list(scans(jax.make_jaxpr(run)(jnp.ones(80)).jaxpr))) == number


def test_of_a_symbolic_number_of_steps_the_chunks_have_the_size_that_is_asked_for():
    lengths = []

    def chunk(total, inputs):
        lengths.append(length_of(inputs[0]))
        return total + jnp.sum(jnp.where(inputs[1].valid, inputs[0], 0)), inputs[0]

    run = jax.jit(lambda xs: scan_chunks(chunk, jnp.zeros(()), xs, Steps(), 30))
    exported = export.export(run)(jax.ShapeDtypeStruct(export.symbolic_shape("t"), jnp.float64))
    assert set(lengths) == {30}
    total, ys = exported.call(jnp.ones(80))
    assert (float(total), ys.shape) == (80.0, (80,))


def test_padding_is_neither_valid_nor_a_reset():
    valid, reset = np.arange(101) != 5, np.arange(101) >= 99
    total, length, _ = run(101, 30, Steps(jnp.asarray(valid), jnp.asarray(reset)))
    assert (total, length) == (101 * 51 - 6 + 2000, 26)


@pytest.mark.parametrize(
    ("valid", "every", "cuts"),
    [
        (None, 1, [0, 1, 1, 1, 1]),
        (None, 2, [0, 0, 1, 0, 1]),
        (None, 4, [0, 0, 0, 0, 1]),
        ([1, 0, 1, 1, 1], 2, [0, 0, 0, 1, 0]),
        ([0, 1, 0, 1, 1], 1, [0, 0, 0, 1, 1]),
        (None, 5, None),
        (None, 9, None),
        (None, None, None),
    ],
)
def test_truncation_counts_valid_steps(valid, every, cuts):
    found = truncation(None if valid is None else jnp.array(valid, bool), 5, every)
    assert (None if found is None else found.astype(int).tolist()) == cuts
