"""Cell: what a recurrence is made of."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import dtypes, static_partial
from seqjax._tree import cast, size_in_bytes
from seqjax._types import (
    Activate,
    ActivateVJP,
    Coefficients,
    Draw,
    Init,
    InitialState,
    Key,
    Preactivate,
    PreactivateVJP,
    Project,
    PyTree,
    Readout,
)
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.affine import affine_step, input_as_preactivation
from seqjax.engine.bound import Bound
from seqjax.engine.model import StreamedModel, check_step
from seqjax.engine.recurrence import Steps, fill, over_steps

__all__ = ["Cell"]

RULED = ("activate", "preactivate")  # the functions that may have a rule
DERIVED = (affine_step, input_as_preactivation)


def _identity(params: PyTree, value: PyTree) -> PyTree:
    return value


@dataclass(frozen=True, kw_only=True, repr=False)
class Cell(StreamedModel):
    """A recurrence as pure functions of one time step (notes, section 3).

        u(t) = project(params, x(t))                 no state in it: computed for all t at once
        z(t) = preactivate(params, h(t-1), u(t))     everything that has parameters
        h(t) = activate(z(t), h(t-1))                no parameters: gates, tanh, cell state
        y(t) = readout(params, h(t))                 no recurrence: computed for all t at once

    u, z, h and y are pytrees; h is the state. Its batch axes come from `vmap`.

    An affine cell has one function in place of `preactivate`, `activate` and their rules:

        (a(t), b(t)) = coefficients(z(t)),  z(t) = u(t)
        h(t) = a(t) ∘ h(t-1) + b(t)

    Its rule follows, and it may run as an associative scan (`BPTT(scan=…)`).

    Attributes:
      init: `init(key) -> params`.
      initial_state: `initial_state(params) -> h(-1)`.
      preactivate, activate: as above; of an affine cell they follow from `coefficients`.
      coefficients: as above: `coefficients(z) -> (a, b)`, both with the structure, the shapes and
        the dtypes of the state, floating or complex. An `a` made of parameters alone is not
        repeated over time.
      project: as above; u(t) = x(t) if left out.
      readout: as above; y(t) = h(t) if left out.
      feedthrough: `feedthrough(params, x(t))`, added to y(t) (the D of a state-space model).
      draw: `draw(key) -> r(t)`, what step t draws, of key None in evaluation (which should then be
        the mean of it). With it u(t) = project(params, x(t), r(t)). None if nothing is drawn.
      activate_vjp: the rule `(z, h_prev, h, dh) -> (dz, dh_prev)`, [∂h/∂z]ᵀ dh and [∂h/∂h_prev]ᵀ dh
        at fixed z: ∇_Z = ∇_h f'(Z). JAX's own where None. Must be linear in dh. Written as
        dh times a factor, `dh * (a * b)`, the factor is computed for all t at once.
      preactivate_vjp: the rule `(params, h_prev, u, z, dz) -> dh_prev`, [∂z/∂h_prev]ᵀ dz: ∇_Z W11.
        JAX's own where None. Either rule may return None for dh_prev where no gradient goes
        that way; if both do, the backward pass has no loop (without a mask or a length).
      input_spec: shape and dtype of x(t), checked if given.
      dtype: what the parameters are cast to before they are used (by all but `initial_state`,
        which makes its arrays in this dtype itself); left alone if None.
      uncast: names of parameters, of a dict, that stay as they are: those of a slow decay, say.
      name: what `repr` shows: a name; or the factory that makes the cell, with its arguments
        (but for dtypes), as `sj.static_partial(factory, …)`.

    `dataclasses.replace` makes a cell with other attributes. With another `activate` or
    `preactivate` it requires a new rule too, because the old one no longer applies.

    Raises:
      ValueError: `dataclasses.replace` was given a function without its rule.

    Use `seqjax.testing.check_cell` to verify your own cell.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> leaky = sj.Cell(                                   # h(t) = h(t-1)/2 + tanh(x(t) + h(t-1) W)
    ...     init=lambda key: {"kernel": jax.random.normal(key, (4, 4))},
    ...     initial_state=lambda params: jnp.zeros(4),
    ...     preactivate=lambda params, h, u: u + sj.matmul(h, params["kernel"]),
    ...     activate=lambda z, h: h / 2 + jnp.tanh(z),
    ...     activate_vjp=lambda z, h_prev, h, dh: (dh * (1 - jnp.tanh(z) ** 2), dh / 2),
    ...     preactivate_vjp=lambda params, h_prev, u, z, dz: sj.matmul(dz, params["kernel"].T),
    ... )
    >>> state, ys = sj.unroll(leaky, leaky.init(jax.random.key(0)), jnp.ones((10, 4)))
    >>> ys.shape
    (10, 4)
    """

    init: Init
    initial_state: InitialState
    preactivate: Preactivate = None  # type: ignore[assignment]  # never None once it is made
    activate: Activate = None  # type: ignore[assignment]  # never None once it is made
    coefficients: Coefficients | None = None
    project: Project = _identity
    readout: Readout = _identity
    feedthrough: Project | None = None
    draw: Draw | None = None
    activate_vjp: ActivateVJP | None = None
    preactivate_vjp: PreactivateVJP | None = None
    input_spec: jax.ShapeDtypeStruct | None = None
    dtype: Any = None
    uncast: tuple[str, ...] = ()
    name: str | static_partial = "cell"
    _pairs: dict | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("activate_vjp", "preactivate_vjp", "coefficients", "feedthrough", "draw"):
            _checks.part(name, getattr(self, name), optional=True)
        self._derive_from_coefficients()
        for name in ("init", "initial_state", "preactivate", "activate", "project", "readout"):
            _checks.part(name, getattr(self, name))
        for name in _checks.instance("uncast", self.uncast, tuple, "a tuple of strings"):
            _checks.instance("uncast", name, str, "a tuple of strings")
        _checks.spec("input_spec", self.input_spec)
        _checks.instance("name", self.name, (str, static_partial), "a string")
        if self.dtype is not None:
            object.__setattr__(self, "dtype", _checks.float_dtype("dtype", self.dtype))
        # `dataclasses.replace` hands on the pairs of the cell that it was given.
        pairs = {name: (getattr(self, name), getattr(self, f"{name}_vjp")) for name in RULED}
        for name, (function, rule) in pairs.items():
            old_function, old_rule = (self._pairs or pairs)[name]
            if function != old_function and rule is not None and rule == old_rule:
                expected = f"the rule of the new {name} as well, or None for JAX's own"
                given = f"the old rule with another {name}"
                raise ValueError(_checks.mismatch(f"{name}_vjp", expected, given))
        object.__setattr__(self, "_pairs", pairs)

    def _derive_from_coefficients(self) -> None:
        if self.coefficients is None:
            return
        derived = {
            "preactivate": input_as_preactivation,
            "activate": static_partial(affine_step, self.coefficients),
        }
        for name in (*RULED, *(f"{name}_vjp" for name in RULED)):
            value = getattr(self, name)
            # `dataclasses.replace` hands on what was derived from the coefficients of before.
            if value is not None and getattr(value, "func", value) not in DERIVED:
                expected = "None beside coefficients, from which it follows"
                raise ValueError(_checks.mismatch(name, expected, _checks.describe(value)))
            object.__setattr__(self, name, derived.get(name))

    def __repr__(self) -> str:
        return f"<{self.name}>" if isinstance(self.name, str) else super().__repr__()

    @property
    def call(self) -> static_partial | None:
        if isinstance(self.name, str):
            return None
        param_dtype = getattr(self.init, "keywords", {}).get("dtype")
        given = {k: v for k, v in dtypes(self.dtype, param_dtype).items() if v is not None}
        return static_partial(self.name.func, *self.name.args, **self.name.keywords | given)

    @property
    def stochastic(self) -> bool:
        return self.draw is not None

    @property
    def divisible(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return self.coefficients is not None

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        params, state, x = check_step(self, params, state, x)
        params = self._cast(params)
        z = self.preactivate(params, state, self.project_step(params, (x, key)))
        state = bound(self.activate(z, state))
        return state, self._output(params, state, x)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        def preactivations(params: PyTree, state: PyTree, x: PyTree) -> PyTree:
            params = self._cast(params)
            z = self.preactivate(params, state, self.project_step(params, (x, None)))
            if self.coefficients is None:
                return z
            # Where x(t) is (a(t), b(t)), nothing is formed for which a chunk could save memory.
            given = set(map(id, jax.tree.leaves(x)))
            formed = [leaf for leaf in jax.tree.leaves(z) if id(leaf) not in given]
            both = jax.tree.leaves(self.coefficients(z))
            return formed or [leaf for leaf in both if id(leaf) not in given]

        size = size_in_bytes(jax.eval_shape(preactivations, params, state, x))
        return size if self.coefficients is None else max(1, size)

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        reset_state = state if steps.reset is None else self.initial_state(params)
        params = self._cast(params)
        inputs, steps = (xs, steps.key), steps.without_key
        if self.coefficients is not None:
            state, states = adjoint.scan_affine(
                self,  # type: ignore[arg-type]  # has coefficients
                params,
                state,
                reset_state,
                inputs,
                steps,
            )
        else:
            u = over_steps(self.project_step, params, inputs)
            state, states = adjoint.scan_states(self, params, state, reset_state, u, steps)
        return state, over_steps(self._output, params, fill(steps.valid, states), xs)

    def project_step(self, params: PyTree, inputs: tuple[PyTree, Key | None]) -> PyTree:
        """u(t) of x(t) and the key of step t."""
        x, key = inputs
        return self.project(params, x, *([] if self.draw is None else [self.draw(key)]))

    def _output(self, params: PyTree, h: PyTree, x: PyTree) -> PyTree:
        y = self.readout(params, h)
        if self.feedthrough is None:
            return y
        through = _checks.tree("what feedthrough returns", self.feedthrough(params, x), y)
        return jax.tree.map(jnp.add, y, through)

    def _cast(self, params: PyTree) -> PyTree:
        if self.dtype is None:
            return params
        uncast = {name: params[name] for name in self.uncast}
        return cast(params, self.dtype) | uncast if uncast else cast(params, self.dtype)
