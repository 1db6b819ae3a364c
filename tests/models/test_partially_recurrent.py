"""Elman, Jordan and the explicit memory: what is copied, and what no gradient crosses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.comparison import assert_close, floats, relative_error
from support.oracles import gradient, weighted
from support.table import problem

import seqjax as sj

T, I, H, O = 8, 3, 4, 2  # noqa: E741
RNN = sj.rnn(I, H, dtype=jnp.float64)
ELMAN = sj.elman(I, H, dtype=jnp.float64)
DECAY = 0.7
JORDAN = sj.jordan(I, H, O, decay=DECAY, output_activation=jnp.sin, dtype=jnp.float64)
PARTIAL = {"elman": ELMAN, "jordan": JORDAN}
every_partial = pytest.mark.parametrize("model", PARTIAL.values(), ids=PARTIAL)


def test_elman_is_the_rnn_in_its_values():
    params, xs, state = problem(RNN, T)
    assert jax.tree.structure(ELMAN.init(jax.random.key(0))) == jax.tree.structure(params)
    ours, theirs = (sj.unroll(model, params, xs, state) for model in (ELMAN, RNN))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_of_elman_is_bptt_truncated_at_one_step():
    at = problem(RNN, T)
    elman, whole = gradient(ELMAN)(*at), gradient(RNN)(*at)
    truncated = gradient(RNN, adjoint=sj.BPTT(truncate=1))(*at)
    # d state, the last one, is zero: h(-1) is copied too.
    assert_close(elman._replace(state=None), truncated._replace(state=None), 1e-13)
    assert relative_error(elman[:2], whole[:2]) > 0.05
    np.testing.assert_array_equal(elman.state, 0)


@every_partial
@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.Autodiff()], ids=["bptt", "autodiff"])
def test_the_current_error_does_not_propagate_to_the_past(model, adjoint):
    params, xs, state = problem(model, T)
    jacobian = jax.jit(
        jax.jacrev(lambda xs: sj.unroll(model, params, xs, state, adjoint=adjoint)[1])
    )(xs)
    for t in range(T):
        reached = np.flatnonzero(np.any(jacobian[t], axis=(0, 2)))
        assert reached.tolist() == [t]
    # The past is not forgotten: it is only not learned from.
    other = sj.unroll(model, params, xs.at[0].add(1.0), state)[1]
    assert np.all(np.abs(other - sj.unroll(model, params, xs, state)[1]).max(1) > 0)


@every_partial
def test_the_backward_pass_has_no_loop(model):
    params, xs, state = problem(model, T)
    batch = jnp.stack([xs, xs])

    def energy(params, batch):
        return sum(jnp.sum(sj.unroll(model, params, xs, state)[1] ** 2) for xs in batch)

    def count(function):
        lowered = jax.jit(jax.vmap(function, (None, 0))).lower(params, batch[:, None])
        return lowered.as_text().count("stablehlo.while"), lowered.compile().as_text()

    forward, _ = count(energy)
    backward, compiled = count(jax.grad(energy, (0, 1)))
    assert (forward, backward) == (1, 1)  # the states themselves
    assert compiled.count(" while(") == 1
    params = RNN.init(jax.random.key(0))
    full = jax.grad(lambda params: jnp.sum(sj.unroll(RNN, params, xs)[1] ** 2))
    assert jax.jit(full).lower(params).as_text().count("stablehlo.while") == 2


@every_partial
def test_masked_steps_hand_the_final_state_back_to_the_last_valid_one(model):
    params, xs, state = problem(model, T)
    mask = jnp.array([1, 1, 0, 1, 1, 0, 0, 0], bool)
    masked = gradient(model, mask=mask)(params, xs, state)
    by_loop = gradient(model, mask=mask, adjoint=sj.Autodiff())(params, xs, state)
    assert_close(masked, by_loop, 1e-13)


def test_jordan_is_its_equations():
    params, xs, state = problem(JORDAN, T)
    last, ys = sj.unroll(JORDAN, params, xs, state)
    mean = np.array(state.mean)  # decay m(t-1) + (1 - decay) y(t-1)
    for t in range(T):
        h = np.tanh(xs[t] @ params["kernel"] + mean @ params["recurrent_kernel"] + params["bias"])
        y = np.sin(h @ params["output_kernel"] + params["output_bias"])
        np.testing.assert_allclose(ys[t], y, atol=1e-14)
        mean = DECAY * mean + (1 - DECAY) * y
    np.testing.assert_allclose(last.mean, mean, atol=1e-14)


def test_the_decay_of_jordan_is_no_parameter():
    names = set(JORDAN.init(jax.random.key(0)))
    assert names == {"kernel", "recurrent_kernel", "bias", "output_kernel", "output_bias"}


# The explicit memory variable, and the three systems that are special cases of it.
def hidden(params, x, m):
    z = sj.matmul(x, params["kernel"]) + sj.matmul(m, params["recurrent_kernel"]) + params["bias"]
    return jnp.tanh(z)


def jordan_output(params, h):
    return jnp.sin(sj.matmul(h, params["output_kernel"]) + params["output_bias"])


SPECIAL = {
    "rnn": (RNN, lambda params, y, h, m: h, lambda params, h: h, (H, H)),
    "elman": (ELMAN, lambda params, y, h, m: lax.stop_gradient(h), lambda params, h: h, (H, H)),
    "jordan": (
        JORDAN,
        # m(t) is the average that holds y(t-1), so it starts one step before.
        lambda params, y, h, m: lax.stop_gradient(DECAY * m + (1 - DECAY) * y),
        jordan_output,
        (O, O),
    ),
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.BPTT(chunk=3), sj.Autodiff()], ids=str)
def test_memory_has_the_others_as_special_cases(name, adjoint):
    """In their values, and in the gradient to parameters and inputs."""
    model, r, g, (outputs, memory) = SPECIAL[name]
    params, xs, _ = problem(model, T)
    zeros = lambda *sizes: tuple(jnp.zeros(size) for size in sizes)
    explicit = sj.memory(
        r,
        hidden,
        g,
        init=model.init,
        initial_state=lambda params: zeros(outputs, H, memory),
        input_spec=model.input_spec,
    )

    def run(model, params, xs):
        ys = sj.unroll(model, params, xs, adjoint=adjoint)[1]
        return weighted(ys), ys

    def everything(model):
        grad = jax.grad(lambda *at: run(model, *at), (0, 1), has_aux=True)
        return floats(jax.jit(grad)(params, xs))

    assert_close(everything(explicit), everything(model), 1e-12)


def test_memory_checks_what_the_functions_return():
    def make(**changed):
        functions = {"r": lambda p, y, h, m: h, "f": hidden, "g": lambda p, h: h} | changed
        start = lambda params: (jnp.zeros(H),) * 3
        spec = jax.ShapeDtypeStruct((I,), jnp.float64)
        return sj.memory(**functions, init=RNN.init, initial_state=start, input_spec=spec)

    params, xs = RNN.init(jax.random.key(0)), jnp.zeros((T, I))
    message = r"the \(y, h, m\) that g, f and r return\.y: expected float64\[4\], got float64\[2\]"
    with pytest.raises(ValueError, match=message):
        sj.unroll(make(g=lambda p, h: h[:2]), params, xs)
    with pytest.raises(TypeError, match="f: expected a function, got int 3"):
        make(f=3)
    pair = sj.memory(
        lambda *a: 0, hidden, lambda *a: 0, init=RNN.init, initial_state=lambda p: (1, 2)
    )
    with pytest.raises(TypeError, match=r"initial_state: expected a function that returns \(y, h"):
        sj.unroll(pair, params, xs)
