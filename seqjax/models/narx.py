"""NARX: past inputs and past outputs feed one network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from seqjax import _checks
from seqjax._static import call_of, dtypes, static_partial
from seqjax._tree import cast
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.history import Delays
from seqjax.engine.model import Model
from seqjax.engine.recurrence import Steps, spread_half_vectors
from seqjax.models import _feedback
from seqjax.models._delay_line import check_delays, extend, read_line, read_series
from seqjax.models._feedback import Layers
from seqjax.models._hidden import DenseLayers, Hidden, check_hidden, first_size
from seqjax.models._initial import Initializers, PerGate, check_initializers, shown
from seqjax.models._layer import Layer
from seqjax.ops.matmul import add_bias, matmul

__all__ = ["NARXState", "narx"]


class NARXState(NamedTuple):
    """The state of `narx`, two delay lines, the oldest value first.

    Attributes:
      xs: [N, I], the last inputs, N the largest input delay.
      ys: [M, O], the last outputs that were fed back, M the largest output delay.
    """

    xs: jax.Array
    ys: jax.Array


export.register_namedtuple_serialization(NARXState, serialized_name="seqjax.NARXState")


def narx(
    input_size: int,
    hidden: int | Sequence[int] | Model,
    output_size: int,
    *,
    input_delays: Sequence[int] = (0, 1),
    output_delays: Sequence[int] = (1, 2),
    activation: Callable = jnp.tanh,
    output_activation: Callable | None = None,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> "NARX":
    """A nonlinear autoregressive network with exogenous inputs.

        h(t) = f(Σ_k x(t - input_delays[k]) W1_k + Σ_k y(t - output_delays[k]) W11_k + b1)
        y(t) = g(W2 n(h(t)) + b2)

    n is the identity if there is one hidden layer, and else what lies between it and the output.

    `unroll` runs it in closed loop: its own outputs are fed back, and BPTT goes through them.
    `teacher_force` runs it in open loop, with measured outputs in their place, and `warm_start`
    makes the state from a measured history. One tap, Y(t) = f(X(t), Y(t-1)), is
    `input_delays=(0,), output_delays=(1,)`.

    Args:
      input_size: I, the size of x(t).
      hidden: H, the size of h(t). Or (H, H2, …), the sizes of several hidden layers, all of
        them with the activation f: n(h) = f(W h + b) for two. Or n itself, a model from vectors
        [H] to vectors, such as `sj.stack(sj.dense(30, 30), jnp.tanh)`, that neither remembers
        (its `receptive_field` is 1) nor draws random numbers.
      output_size: O, the size of y(t).
      input_delays: integers from 0, each larger than the one before.
      output_delays: integers from 1, each larger than the one before.
      activation: f, any function of one vector [H].
      output_activation: g, any function of one vector [O]; the identity if None.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, the first and the last for
        further layers as well; the default if None.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"kernel": [K, I, H], "recurrent_kernel": [L, O, H], "bias": [H],
      "output_kernel": [H, O], "output_bias": [O]} for K and L delays, drawn from
      U(±1/√fan-in) by default. The params of n are "hidden", for (H, H2, …) a tuple of
      {"kernel", "bias"} for each further layer; the output kernel reads what n outputs. The state
      is NARXState(xs, ys), zero at first.

    References:
      Notes, section 2; Lin et al. 1996, Learning long-term dependencies in NARX recurrent
      neural networks; Narendra & Parthasarathy 1990 (series-parallel and parallel models).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.narx(1, 8, 1, input_delays=(0,), output_delays=(1, 2))
    >>> params = model.init(jax.random.key(0))
    >>> xs, measured = jnp.ones((20, 1)), jnp.zeros((20, 1))
    >>> state, one_step_ahead = sj.teacher_force(model, params, xs[:12], measured[:12])
    >>> state, free_run = sj.unroll(model, params, xs[12:], state)
    >>> one_step_ahead.shape, free_run.shape
    ((12, 1), (8, 1))

    >>> deep = sj.narx(1, (8, 4), 1)
    >>> jax.tree.map(jnp.shape, deep.init(jax.random.key(0))["hidden"])
    ({'bias': (4,), 'kernel': (8, 4)},)
    """
    dtype = _checks.float_dtype("dtype", dtype)
    return NARX(
        input_spec=jax.ShapeDtypeStruct((_checks.size("input_size", input_size),), dtype),
        hidden=check_hidden("hidden", hidden, dtype),
        output_size=_checks.size("output_size", output_size),
        input_delays=check_delays("input_delays", input_delays, at_least=0),
        output_delays=check_delays("output_delays", output_delays, at_least=1),
        activation=_checks.part("activation", activation),
        output_activation=_checks.part("output_activation", output_activation, optional=True),
        inits=check_initializers(
            kernel_init=kernel_init, recurrent_init=recurrent_init, bias_init=bias_init
        ),
        param_dtype=_checks.float_dtype("param_dtype", param_dtype, default=dtype),
    )


@dataclass(frozen=True)
class Feedback:
    """The recurrence of the closed loop; a step reads outputs of several steps before, [L, O]."""

    delays: tuple[int, ...]
    activation: Callable
    deeper: Model | None
    output_activation: Callable | None

    def activated(self, params: PyTree, hidden: jax.Array) -> jax.Array:
        """What the output layer reads, n(f(hidden)); `deeper` is n, the identity if None."""
        h = self.activation(hidden)
        if self.deeper is None:
            return h
        params = spread_half_vectors(params["hidden"], h)
        return self.deeper.step(params, self.deeper.initial_state(params), h)[1]

    def layers(self, params: PyTree, hidden: jax.Array) -> Layers:
        return _feedback.layers(partial(self.activated, params), params, hidden)

    def output(self, z: Layers) -> jax.Array:
        return _feedback.output(self.output_activation, z)

    @property
    def history(self) -> Delays:
        return Delays(self.delays)

    def kernel(self, params: PyTree) -> jax.Array:
        """[L · O, H], the oldest output first."""
        kernel = params["recurrent_kernel"]
        return kernel[::-1].reshape(-1, kernel.shape[-1])

    def preactivate(self, params: PyTree, ys: jax.Array, u: jax.Array) -> Layers:
        fed = matmul(ys.reshape(-1), self.kernel(params))
        # A batch may share the line: what it brings is a bias then, with the gradient of one.
        return self.layers(params, add_bias(u, fed))

    def preactivate_vjp(
        self, params: PyTree, ys: jax.Array, u: jax.Array, z: Layers, dz: Layers
    ) -> jax.Array:
        d_hidden = _feedback.layers_vjp(partial(self.activated, params), params, z, dz)
        return matmul(d_hidden, self.kernel(params).T).reshape(ys.shape)

    def activate(self, z: Layers, ys: jax.Array) -> jax.Array:
        return self.output(z)

    def activate_vjp(
        self, z: Layers, ys: jax.Array, y: jax.Array, dy: jax.Array
    ) -> tuple[Layers, None]:
        return _feedback.output_vjp(self.output_activation, z, dy), None


@dataclass(frozen=True, kw_only=True, repr=False)
class NARX(Layer):
    """See `narx`."""

    hidden: Hidden
    input_delays: tuple[int, ...]
    output_delays: tuple[int, ...]
    activation: Callable
    output_activation: Callable | None
    inits: Initializers

    @property
    def call(self) -> static_partial:
        sizes = self.input_size, self.hidden, self.output_size
        options = {
            "input_delays": self.input_delays,
            "output_delays": self.output_delays,
            "activation": self.activation,
            "output_activation": self.output_activation,
            **shown(self.inits),
            **dtypes(self.dtype, self.param_dtype),
        }
        return call_of(narx, *sizes, **options)

    @property
    def hidden_size(self) -> int:
        return first_size(self.hidden)

    @property
    def deeper(self) -> Model | None:
        """The model between the first hidden layer and the output layer, if there is one."""
        if not isinstance(self.hidden, tuple):
            return self.hidden if isinstance(self.hidden, Model) else None
        return DenseLayers(
            sizes=self.hidden,
            activation=self.activation,
            inits=self.inits,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # a constant of most kinds
        return {} if self.deeper is None else {"hidden": self.deeper}

    @property
    def feedback(self) -> Feedback:
        return Feedback(self.output_delays, self.activation, self.deeper, self.output_activation)

    def init(self, key: Key) -> dict[str, PyTree]:
        deeper, read = self.deeper, self.hidden_size
        params = {}
        if deeper is not None:
            key, key_deeper = _checks.keys(key, 2)
            params, read = {"hidden": deeper.init(key_deeper)}, deeper.output_spec.shape[0]
        inputs = (len(self.input_delays), self.input_size, self.hidden_size)
        outputs = (len(self.output_delays), self.output_size, self.hidden_size)
        shapes = inputs, outputs, (read, self.output_size)
        return params | _feedback.init(key, *shapes, self.inits, self.param_dtype)

    def cast_params(self, params: PyTree) -> PyTree:
        """In the dtype of the model; what belongs to another one is left to that."""
        own = {name: value for name, value in params.items() if name != "hidden"}
        return params | cast(own, self.dtype)

    def initial_state(self, params: PyTree) -> NARXState:
        zeros = lambda *shape: jnp.zeros(shape, self.dtype)
        return NARXState(
            zeros(self.input_delays[-1], self.input_size),
            zeros(self.output_delays[-1], self.output_size),
        )

    def step_cast(
        self, params: PyTree, state: NARXState, x: jax.Array
    ) -> tuple[NARXState, jax.Array]:
        line = extend(state.xs, x[None])
        u = add_bias(read_line(self.input_delays, params["kernel"], line), params["bias"])
        history = self.feedback.history
        y = self.feedback.output(self.feedback.preactivate(params, history.read(state.ys), u))
        return NARXState(line[1:], history.push(state.ys, y)), y

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: NARXState,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[NARXState, jax.Array]:
        (line, ys), _ = super().bounded_step(Bound(), params, state, x)
        ys = bound.part(1)(ys)
        state = NARXState(bound.part(0).handed_on(line), ys)
        return state, self.feedback.history.newest(ys)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        return (self.hidden_size + self.output_size) * self.dtype.itemsize

    def scan_cast(
        self, params: PyTree, state: NARXState, xs: jax.Array, steps: Steps, adjoint: Adjoint
    ) -> tuple[NARXState, jax.Array]:
        line, u = self.read_inputs(params, state, xs, steps)
        reset_state = None if steps.reset is None else jnp.zeros_like(state.ys)
        history = self.feedback.history
        last, ys = adjoint.scan_states(
            self.feedback, params, state.ys, reset_state, u, steps, history
        )
        return NARXState(line, last), ys

    def read_inputs(
        self, params: PyTree, state: NARXState, xs: jax.Array, steps: Steps
    ) -> tuple[jax.Array, jax.Array]:
        """The line of inputs after a series, and what they bring to the hidden layer."""
        line, us = read_series(self.input_delays, params["kernel"], state.xs, xs, steps)
        return line, add_bias(us, params["bias"])
