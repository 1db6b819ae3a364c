"""`check_cell` passes what is right and names what is wrong."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from support.table import two_now

import seqjax as sj
from seqjax.models.lstm import Gates


@two_now
def test_every_model_is_proved(case):
    """Rows 1 and 2 of the proof: rule = autodiff = finite differences."""
    model = case.make(jnp.float32)  # whatever its dtype, it is checked in float64
    x = jnp.zeros(3) if model.input_spec is None else None
    sj.testing.check_cell(model, x, draws=2)


LSTM = sj.lstm(3, 4)


def spoilt(**rules):
    return dataclasses.replace(LSTM, **rules)


def negated(rule, leaf):
    def spoilt_rule(*arguments):
        dz, d_state = rule(*arguments)
        return dz._replace(**{leaf: -getattr(dz, leaf)}), d_state

    return spoilt_rule


@pytest.mark.parametrize("gate", [name for name in Gates._fields if len(name) == 1])
def test_a_wrong_gate_is_named_with_its_time_and_error(gate):
    message = rf"activate_vjp: dz\.{gate} at t=\d, element \[\d\] is off: by hand .*, autodiff .*"
    with pytest.raises(AssertionError, match=message + r"relative error 2\.0e\+00"):
        sj.testing.check_cell(spoilt(activate_vjp=negated(LSTM.activate_vjp, gate)))


def test_a_swap_of_h_and_c_is_seen():
    def swapped(*arguments):
        dz, d_state = LSTM.activate_vjp(*arguments)
        return dz, sj.LSTMState(d_state.c, d_state.h)

    with pytest.raises(AssertionError, match=r"activate_vjp: dh_prev\.[hc] at t="):
        sj.testing.check_cell(spoilt(activate_vjp=swapped))


def test_a_small_error_of_the_recurrent_rule_is_seen_also_inside_a_stack():
    def nearly(*arguments):
        return jax.tree.map(lambda d: d * (1 + 1e-8), LSTM.preactivate_vjp(*arguments))

    model = sj.stack(sj.gru(3, 3), spoilt(preactivate_vjp=nearly))
    with pytest.raises(AssertionError, match=r"models\[1\]\.preactivate_vjp: dh_prev\.h at t="):
        sj.testing.check_cell(model)


def test_a_rule_of_the_wrong_shape_or_structure_is_named():
    def short(*arguments):
        dz, d_state = LSTM.activate_vjp(*arguments)
        return dz._replace(f=dz.f[:2]), d_state

    with pytest.raises(AssertionError, match=r"dz\.f: expected shape \(6, 4\), got \(6, 2\)"):
        sj.testing.check_cell(spoilt(activate_vjp=short))
    rule = lambda *arguments: (tuple(LSTM.activate_vjp(*arguments)[0]), arguments[1])
    with pytest.raises(AssertionError, match=r"activate_vjp: dz: expected Gates\(.*, got a tuple"):
        sj.testing.check_cell(spoilt(activate_vjp=rule))


def test_a_rule_that_gives_nan_is_named():
    def undefined(*arguments):
        dz, d_state = LSTM.activate_vjp(*arguments)
        return dz._replace(g=dz.g * jnp.nan), d_state

    with pytest.raises(AssertionError, match=r"activate_vjp: dz\.g at t=.* by hand nan"):
        sj.testing.check_cell(spoilt(activate_vjp=undefined))


@jax.custom_jvp
def tripled(x):
    return 3 * x


tripled.defjvps(lambda tangent, answer, x: 2 * tangent)  # wrong, and autodiff believes it


def test_finite_differences_see_what_autodiff_believes():
    step = lambda w, h, x: ((h := jnp.tanh(h + tripled(w * x))), h)
    own = sj.from_step(lambda key: jnp.array(0.3), step, lambda w: jnp.array(0.0))
    message = "finite differences, .*d params: BPTT .*, differences .*d xs: BPTT"
    with pytest.raises(AssertionError, match=re.compile(message)):
        sj.testing.check_cell(own, jnp.array(0.0))


def test_a_rule_that_is_no_pair_and_a_state_of_another_shape_are_named():
    def no_pair(z, prev, new, d):
        return LSTM.activate_vjp(z, prev, new, d)[0].i

    message = r"activate_vjp: expected a function that returns \(dz, dh_prev\), got float"
    with pytest.raises(TypeError, match=message):
        sj.testing.check_cell(spoilt(activate_vjp=no_pair))
    cell, xs = spoilt(activate_vjp=no_pair), jnp.ones((5, 3))
    params = cell.init(jax.random.key(0))
    with pytest.raises(TypeError, match=message):
        jax.grad(lambda params: sj.unroll(cell, params, xs)[1].sum())(params)

    def grown(z, prev):
        h, c = LSTM.activate(z, prev)
        return sj.LSTMState(jnp.append(h, h), c)

    message = r"the state that activate returns\.h: expected float\d\d\[4\], got float\d\d\[8\]"
    for call in (sj.testing.check_cell, lambda cell: sj.unroll(cell, params, xs)):
        with pytest.raises(ValueError, match=message):
            call(spoilt(activate=grown, activate_vjp=None))


# What `check_cell` proves beside real cells that run in float64.
def lru(decay_rule, dtype=jnp.complex64):
    """A linear recurrence of complex states, of which the real part is put out."""

    def init(key):
        return {"decay": jnp.full(4, 0.5 + 0.3j, dtype), "kernel": jnp.ones((3, 4), dtype)}

    return sj.Cell(
        init=init,
        initial_state=lambda params: jnp.zeros_like(params["decay"]),
        project=lambda params, x: x.astype(params["kernel"].dtype) @ params["kernel"],
        preactivate=lambda params, h_prev, u: params["decay"] * h_prev + u,
        preactivate_vjp=decay_rule,
        activate=lambda z, h_prev: z,
        readout=lambda params, h: jnp.real(h),
        input_spec=jax.ShapeDtypeStruct((3,), jnp.float32),
    )


def test_a_rule_of_complex_states_is_checked():
    """By JAX's convention, in which a cotangent is not conjugated."""
    conjugated = lru(lambda params, h_prev, u, z, dz: dz * jnp.conj(params["decay"]))
    with pytest.raises(AssertionError, match="preactivate_vjp: dh_prev at t="):
        sj.testing.check_cell(conjugated)


def test_a_right_cell_of_complex_states_passes():
    sj.testing.check_cell(lru(lambda params, h_prev, u, z, dz: dz * params["decay"]))


def rotated(rotate):
    """A real state, turned by complex parameters and inputs."""

    def step(params, h, x):
        h = jnp.tanh(h / 2 + jnp.real(rotate(params) * x))
        return h, params * h.astype(params.dtype)

    init = lambda key: jnp.array([0.5 + 0.2j, 0.1 - 0.7j], jnp.complex64)
    return sj.from_step(init, step, lambda params: jnp.real(jnp.zeros_like(params)))


def test_complex_parameters_inputs_and_outputs_are_checked():
    x = jnp.zeros(2, jnp.complex64)
    sj.testing.check_cell(rotated(lambda params: params), x, draws=2, steps=3)

    @jax.custom_jvp
    def off(params):
        return params

    off.defjvps(lambda tangent, answer, params: jnp.conj(tangent))
    with pytest.raises(AssertionError, match=r"finite differences, .*: d params: BPTT"):
        sj.testing.check_cell(rotated(off), x)


def test_integer_inputs_stay_integers():
    """A token embedding, whose input is a scalar or [1]."""
    for shape in ((), (1,)):
        spec = jax.ShapeDtypeStruct(shape, jnp.int32)
        model = sj.from_step(
            lambda key: jax.random.normal(key, (5, 4)),
            lambda table, h, x: ((h := jnp.tanh(h + table[x].reshape(-1))), h),
            lambda table: jnp.zeros_like(table[0]),
            input_spec=spec,
        )
        sj.testing.check_cell(model, draws=1, steps=2)
        assert model.astype(jnp.bfloat16).input_spec == spec
        structured = sj.Cell(
            init=model.init,
            initial_state=model.initial_state,
            project=lambda table, x: table[x].reshape(-1),
            preactivate=lambda table, h, u: h + u,
            activate=lambda z, h: jnp.tanh(z),
            input_spec=spec,
        )
        assert structured.astype(jnp.bfloat16).input_spec == spec
        sj.testing.check_cell(structured, draws=1, steps=2)


READOUT = sj.dense(3, 2, dtype=jnp.float32)


def insistent(readout=READOUT, scale=1.0, activate=jnp.tanh):
    """A cell that calls the step of a built-in model, which insists on its dtype."""
    return sj.Cell(
        init=readout.init,
        initial_state=lambda params: jnp.zeros_like(params["bias"]),
        project=lambda params, x: readout.step(params, (), x)[1],
        preactivate=lambda params, h_prev, u: h_prev + u,
        activate=lambda z, h_prev: activate(z),
        activate_vjp=lambda z, h_prev, h, dh: (dh * (scale * (1 - h * h)), None),
        input_spec=readout.input_spec,
    )


def test_a_model_that_refuses_float64_is_proved_in_float32_with_a_warning():
    said = (
        r"checked in float32, since the model refuses float64: params\['bias'\]: expected float32"
    )
    with pytest.warns(UserWarning, match=said):
        sj.testing.check_cell(insistent(), draws=2, steps=3)
    with pytest.raises(AssertionError, match=r"activate_vjp: dz at t=.*relative error 1\.\de-03"):
        sj.testing.check_cell(insistent(scale=1.001))
    with pytest.raises(TypeError, match=r"model: expected one that runs in float64 .*got bfloat16"):
        sj.testing.check_cell(insistent(sj.dense(3, 2, dtype=jnp.bfloat16)))


def test_differences_in_float32_see_what_autodiff_believes():
    slow = lambda z: tripled(z) / 4
    step = lambda params, h, x: (h := slow(READOUT.step(params, (), x)[1]), h)
    model = sj.from_step(READOUT.init, step, lambda params: params["bias"])
    with pytest.raises(AssertionError, match=r"finite differences, .*d params\['bias'\]: BPTT"):
        sj.testing.check_cell(model, READOUT.input_spec)
