"""`check_cell` passes what is right and names what is wrong."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from cases import every_model

import seqjax as sj
from seqjax.models.lstm import Gates


@every_model
def test_every_model_is_proved(case):
    """Rows 1 and 2 of the proof: rule = autodiff = finite differences."""
    model = case.make(jnp.float32)  # whatever its dtype, it is proved in float64
    sj.testing.check_cell(model, jnp.zeros(3), draws=2)


LSTM = sj.lstm(3, 4)


def spoilt(**rules):
    return dataclasses.replace(LSTM, **rules)


def negated(rule, leaf):
    def spoilt_rule(*arguments):
        dz, d_state = rule(*arguments)
        return dz._replace(**{leaf: -getattr(dz, leaf)}), d_state

    return spoilt_rule


@pytest.mark.parametrize("gate", Gates._fields)
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
    with pytest.raises(AssertionError, match="activate_vjp: dz: expected the structure"):
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
    own = sj.cell(lambda key: jnp.array(0.3), step, lambda w: jnp.array(0.0))
    message = "finite differences, .*d params: by hand .*, differences .*d xs: by hand"
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
        jax.grad(lambda params: cell.unroll(params, xs)[1].sum())(params)

    def grown(z, prev):
        h, c = LSTM.activate(z, prev)
        return sj.LSTMState(jnp.append(h, h), c)

    message = r"the state that activate returns\.h: expected float\d\d\[4\], got float\d\d\[8\]"
    for call in (sj.testing.check_cell, lambda cell: cell.unroll(params, xs)):
        with pytest.raises(ValueError, match=message):
            call(spoilt(activate=grown, activate_vjp=None))
