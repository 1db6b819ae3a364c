"""Every optimizer of optax steps as in a loop of one's own, whatever it needs and shares."""

import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from support.comparison import assert_close

import seqjax as sj


@pytest.fixture(autouse=True)
def _optax_promotes():
    """Optimizers of optax mix dtypes and ranks; seqjax itself does not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


X, Y = np.ones((4, 2)), np.arange(12.0).reshape(4, 3)
SGD = optax.sgd(0.1)


def start():
    return {"w": jnp.arange(6.0).reshape(2, 3) / 5}


def loss(params, x, y):
    return jnp.mean((x @ params["w"] - y) ** 2)


# What the factories require. Those of a name that is not here are called without.
REQUIRED = {
    "adv_optimizer": SGD,
    "base_optimizer": SGD,
    "clipping": 0.1,
    "decay": 0.9,
    "f": lambda update, params=None: update,
    "freeze_mask": {"w": False},
    "inner": SGD,
    "inner_factory": optax.adam,
    "learning_rate": 0.1,
    "mask": True,
    "max_backtracking_steps": 3,
    "max_consecutive_errors": 2,
    "max_delta": 1.0,
    "max_linesearch_steps": 3,
    "max_norm": 1.0,
    "measure": lambda *args: 1.0,
    "measure_name": "measured",
    "optimizer": SGD,
    "param_labels": "all",
    "should_transform_fn": lambda step: step < 5,
    "step_size": 0.1,
    "step_size_fn": lambda step: 0.1,
    "threshold": 1.0,
    "transforms": {"all": SGD},
    "tx": SGD,
}
OF_MY_OWN = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.polyak_sgd()),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(0.1))),
    "noisy": lambda: optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(0.1),
    "dog": lambda: optax.contrib.dog(1.0),
    "dowg": lambda: optax.contrib.dowg(1.0),
    "hutchinson": optax.contrib.hutchinson_estimator_diag_hessian,
    "opaque sam": lambda: optax.contrib.sam(SGD, SGD, opaque_mode=True),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "MultiSteps of polyak_sgd": lambda: optax.MultiSteps(optax.polyak_sgd(), 2),
    "MultiSteps, transformed": lambda: optax.MultiSteps(SGD, 2).gradient_transformation(),
}
# None of these makes a step of one gradient of the parameters, or makes it under this name.
OTHER = {
    "add_noise": "a part of `noisy` above",
    "noisy_sgd": "as `noisy` above: without a key it warns",
    "differentially_private_aggregate": "wants a gradient per example",
    "dpsgd": "wants a gradient per example",
    "lookahead": "has two sets of parameters",
    "measure_with_ema": "measures a dictionary of its own",
    "scale_by_muon": "a part of muon, which partitions the parameters for it",
    "optimistic_adam": "an old name, which warns",
}


def factories():
    """What optax calls a gradient transformation, by its annotation."""
    for module in (optax, optax.contrib):
        for name, factory in sorted(vars(module).items()):
            if inspect.isfunction(factory) and not name.startswith("_"):
                returned = str(inspect.signature(factory).return_annotation)
                if "GradientTransformation" in returned and name not in {*OF_MY_OWN, *OTHER}:
                    yield name, factory


def made(factory):
    empty, kinds = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL,)
    named = inspect.signature(factory).parameters.values()
    required = [p.name for p in named if p.default is empty and p.kind not in kinds]
    return factory(**{name: REQUIRED[name] for name in required if name in REQUIRED})


OPTIMIZERS = OF_MY_OWN | {name: lambda f=factory: made(f) for name, factory in factories()}
VALUE, SEARCH = ("value",), ("value", "grad", "value_fn")
NEEDS = {
    "chain": VALUE,
    "MultiSteps of polyak_sgd": VALUE,
    "momo": VALUE,
    "momo_adam": VALUE,
    "polyak_sgd": VALUE,
    "reduce_on_plateau": VALUE,
    "scale_by_polyak": VALUE,
    "lbfgs": SEARCH,
    "scale_by_backtracking_linesearch": SEARCH,
    "scale_by_zoom_linesearch": SEARCH,
    "hutchinson": ("obj_fn",),
    "sophia": ("obj_fn",),
    "opaque sam": ("grad_fn",),
}


QUICK = {*OF_MY_OWN} | {*NEEDS} | {"adam", "cocob", "mechanize", "prodigy", "sam", "schedule_free"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_of_every_optimizer_is_that_of_a_plain_loop(name):
    optimizer = OPTIMIZERS[name]()

    def plain(params, state):
        value, grad = jax.value_and_grad(loss)(params, X, Y)
        value_fn = lambda params: loss(params, X, Y)
        grad_fn = lambda params, i: jax.grad(value_fn)(params)
        all_extra = {"value": value, "grad": grad, "value_fn": value_fn, "obj_fn": value_fn}
        all_extra["grad_fn"] = grad_fn
        extra = {need: all_extra[need] for need in NEEDS.get(name, ())}
        updates, state = optimizer.update(grad, state, params, **extra)
        return optax.apply_updates(params, updates), state

    expected = start(), optimizer.init(start())
    given = start()
    got = given, optimizer.init(given)
    step = sj.train.make_step(loss, optimizer)
    for _ in range(2):
        expected = jax.jit(plain)(*expected)
        *got, _ = step(*got, X, Y)
    assert_close(tuple(got), expected, 1e-9)
    assert given["w"].is_deleted()


def test_a_buffer_that_is_shared_is_copied_and_the_others_are_donated():
    """Tied leaves, also where a device_put made two arrays of one buffer; a batch that keeps one.

    XLA refuses a buffer that is donated twice, or donated and read.
    """
    w, v, u = jnp.ones(3), jnp.full(3, 2.0), jnp.full(3, 3.0)
    again = jax.device_put(v, v.sharding)
    assert again is not v
    params = {"w": w, "tied": w, "v": v, "again": again, "u": u, "free": jnp.full(3, 4.0)}

    def energy(params, anchor, key):
        del key
        return sum(jnp.sum((leaf - anchor) ** 2) for leaf in params.values())

    optimizer = optax.sgd(0.25, momentum=0.5)
    opt_state = optimizer.init(params)
    step = sj.train.make_step(energy, optimizer)
    expected = {name: (leaf + u) / 2 for name, leaf in params.items()}
    new, opt_state_, report = step(params, opt_state, u, jax.random.key(0))
    assert_close(new, expected, 1e-6)
    np.testing.assert_allclose(report.loss, 3 * (4 + 4 + 1 + 1 + 0 + 1))
    kept = {name for name, leaf in params.items() if not leaf.is_deleted()}
    assert kept == {"u"}
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(opt_state))
    step(new, opt_state_, u, jax.random.key(0))


def test_a_step_inside_another_function():
    """Traced, nothing is donated and nothing is known of buffers; NumPy's arrays have none."""
    optimizer = optax.contrib.prodigy()
    step = sj.train.make_step(loss, optimizer)

    def two(params):
        state = optimizer.init(params)
        for _ in range(2):
            params, state, _ = step(params, state, X, Y)
        return params

    params = start()
    expected = two(jax.tree.map(np.asarray, start()))
    assert_close(jax.jit(two)(params), expected, 1e-12)
    assert not params["w"].is_deleted()


@pytest.mark.parametrize(
    ("update", "scaled"),
    [
        (lambda grad, state, params: (grad, state), False),
        (lambda grad, state, params, value: ({"w": value * grad["w"]}, state), True),
        (
            lambda value, state, grad, *, own=None, value_fn: (
                {"w": value_fn(grad) * value["w"]},
                state,
            ),
            True,
        ),
    ],
)
def test_an_optimizer_of_ones_own_is_passed_what_its_update_names(update, scaled):
    """Its first three arguments may have any names."""
    optimizer = types.SimpleNamespace(init=lambda params: (), update=update)
    params = {"w": 2.0 * jnp.ones((2, 3))}
    value, grad = jax.value_and_grad(loss)(params, X, Y)
    expected = params["w"] + (value if scaled else 1) * grad["w"]
    new, _, _ = sj.train.make_step(loss, optimizer)(params, (), X, Y)
    np.testing.assert_allclose(new["w"], expected, rtol=1e-12)
