"""Networks of policies, critics and reward functions: dense layers, an optional GRU, and a head.

`make_network` returns a record of pure functions, so that no other module knows which library keeps
the weights, whether agents share them, or whether they are recurrent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite import platforms
from jaxmarl_lite.networks import products
from jaxmarl_lite.networks.products import Precision
from jaxmarl_lite.networks.torsos import (
    Network,
    Sharing,
    Torso,
    make_torso_network,
    orthogonal,
    share_by_group,
    typed,
)
from jaxmarl_lite.ops import jax_types, tree_math
from jaxmarl_lite.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """The sizes and the arithmetic of the layers of one network; every field decides programs."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Width of each dense layer before the head (and before the GRU, if there is one)."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity after each dense layer."""
    recurrent: bool = False
    """Whether the network has a GRU after its dense layers."""
    rnn_hidden_size: int = 128
    """Width of the GRU's hidden state."""
    head_hidden_sizes: tuple[int, ...] = ()
    """Width of each dense layer between the GRU and a head; each head has its own layers."""
    precision: Precision = "float32"
    """To what the operands of matrix products are rounded; the heads' products stay float32."""


Gates = tuple[Array, Array, Array]
"""The parts of a GRU's reset gate, update gate and candidate, ``[..., H]`` each."""
Multiply = Callable[[Array, Array], Array]
"""The product of arrays with a matrix, see `products.matmul`."""


class _GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014), with the weights of `_gru_step`.

    It multiplies the inputs of all time steps by W at once.
    """

    size: int
    precision: Precision = "float32"

    def setup(self) -> None:
        dtype = jnp.result_type(float)
        # W stands for all three gates: one product for the whole sequence.
        self.inputs = products.dense_layer(self.precision)(3 * self.size, kernel_init=orthogonal())
        self.kernel = typed(self).param("kernel", orthogonal(), (self.size, 3 * self.size), dtype)
        self.bias = typed(self).param("bias", nn.initializers.zeros, (self.size,), dtype)

    def input_projection(self, x: Array) -> Gates:
        """Returns W x, for any leading axes."""
        return _split_gates(self.inputs(x))

    def step(self, hidden_state: Array, x: Array) -> Array:
        """Returns the hidden state after one step, ``[..., H]``."""
        inputs, multiply = self.input_projection(x), products.matmul(self.precision)
        return _gru_step(multiply, self.kernel, self.bias, hidden_state, inputs)

    def unroll(self, hidden_state: Array, inputs: Gates, first: Array) -> Array:
        """Returns the hidden state after each step, ``[T, ..., H]``.

        ``inputs`` are those of `input_projection`, ``[T, ..., H]`` each.
        """
        keep = 1.0 - first.astype(hidden_state.dtype)
        keep = keep.reshape(keep.shape + (1,) * (hidden_state.ndim + 1 - keep.ndim))
        unroll = _gru_unroll(self.precision)
        return unroll(self.kernel, self.bias, hidden_state, inputs, keep)


def _split_gates(x: Array) -> Gates:
    """Splits ``[..., 3H]`` into the parts of reset gate, update gate and candidate."""
    reset, update, candidate = jnp.split(x, 3, -1)
    return reset, update, candidate


def _gates(bias: Array, inputs: Gates, recurrent: Array) -> tuple[Array, Array, Array, Array]:
    """Returns reset, update and candidate from W x and U h ``[..., 3H]``, and U_n h + b."""
    reset_x, update_x, candidate_x = inputs
    reset_h, update_h, candidate_h = _split_gates(recurrent)
    reset, update = nn.sigmoid(reset_x + reset_h), nn.sigmoid(update_x + update_h)
    candidate_h = candidate_h + jnp.broadcast_to(bias, candidate_h.shape)
    return reset, update, nn.tanh(candidate_x + reset * candidate_h), candidate_h


def _gru_step(
    multiply: Multiply, kernel: Array, bias: Array, hidden_state: Array, inputs: Gates
) -> Array:
    """Returns the hidden state h' after one step, from the hidden state h and the inputs W x.

    r = σ(W_r x + U_r h)
    z = σ(W_z x + U_z h)
    n = tanh(W_n x + r ⊙ (U_n h + b))
    h' = (1 - z) ⊙ n + z ⊙ h
    """
    _, update, candidate, _ = _gates(bias, inputs, multiply(hidden_state, kernel))
    return (1.0 - update) * candidate + update * hidden_state


@functools.cache
def _gru_unroll(precision: Precision) -> Callable[[Array, Array, Array, Gates, Array], Array]:
    """Returns ``(kernel, bias, hidden_state, inputs, keep) -> hidden state after each step``.

    ``keep`` ``[T, ..., 1]`` is 0 where an episode begins, else 1. The result is ``[T, ..., H]``.

    Its own derivative rule keeps all but the products with the hidden state out of the backward
    loop: the gradient of the kernel is one product for all steps. The inputs are three separate
    arrays, since XLA on a CPU takes twice the time for a loop whose body cuts one array into three.
    """
    multiply = products.matmul(precision)

    @jax_types.custom_vjp
    def unroll(
        kernel: Array, bias: Array, hidden_state: Array, inputs: Gates, keep: Array
    ) -> Array:
        return _gru_forward(multiply, kernel, bias, hidden_state, inputs, keep)[0]

    unroll.defvjp(
        functools.partial(_gru_forward, multiply), functools.partial(_gru_backward, multiply)
    )
    return unroll


def _gru_forward(
    multiply: Multiply,
    kernel: Array,
    bias: Array,
    hidden_state: Array,
    inputs: Gates,
    keep: Array,
) -> tuple[Array, PyTree]:
    """Returns the hidden state after each step, and the residuals of `_gru_backward`."""

    def step(hidden_state: Array, xs: tuple[Gates, Array]) -> tuple[Array, tuple[Array, ...]]:
        inputs_t, keep_t = xs
        previous = hidden_state * keep_t
        reset, update, candidate, candidate_h = _gates(bias, inputs_t, multiply(previous, kernel))
        hidden_state = (1.0 - update) * candidate + update * previous
        return hidden_state, (hidden_state, previous, reset, update, candidate, candidate_h)

    _, (hidden_states, *residuals) = jax.lax.scan(
        step, hidden_state, (inputs, keep), unroll=platforms.scan_unroll()
    )
    return hidden_states, (kernel, keep, *residuals)


def _gru_backward(
    multiply: Multiply, residuals: PyTree, cotangents: Array
) -> tuple[Array, Array, Array, Gates, Array]:
    """Returns the gradients by every argument of the unroll; that by ``keep`` is zero."""
    kernel, keep, previous, reset, update, candidate, candidate_h = residuals
    kernel_reset, kernel_update, kernel_candidate = (part.T for part in _split_gates(kernel))

    def add_products(start: Array, d_reset: Array, d_update: Array, d_candidate_h: Array) -> Array:
        """Adds the gradient by the hidden state through the products U h."""
        if platforms.current() == "cpu":  # where joining three arrays takes longer than it saves
            start += multiply(d_reset, kernel_reset)
            start += multiply(d_update, kernel_update)
            return start + multiply(d_candidate_h, kernel_candidate)
        return start + multiply(jnp.concatenate([d_reset, d_update, d_candidate_h], -1), kernel.T)

    def step(d_next: Array, xs: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        cotangent_t, keep_t, previous_t, reset_t, update_t, candidate_t, candidate_h_t = xs
        d_hidden_state = cotangent_t + d_next
        # The derivatives of σ and tanh in their own values: σ' = σ (1 - σ), tanh' = 1 - tanh².
        d_candidate = d_hidden_state * (1.0 - update_t) * (1.0 - candidate_t**2)
        d_update = d_hidden_state * (previous_t - candidate_t) * update_t * (1.0 - update_t)
        d_reset = d_candidate * candidate_h_t * reset_t * (1.0 - reset_t)
        d_candidate_h = d_candidate * reset_t
        d_previous = add_products(d_hidden_state * update_t, d_reset, d_update, d_candidate_h)
        return d_previous * keep_t, (d_reset, d_update, d_candidate, d_candidate_h)

    sequence = (cotangents, keep, previous, reset, update, candidate, candidate_h)
    d_initial, (d_reset, d_update, d_candidate, d_candidate_h) = jax.lax.scan(
        step,
        jnp.zeros_like(previous[0]),
        sequence,
        reverse=True,
        unroll=platforms.scan_unroll(),
    )
    d_recurrent = jnp.concatenate([_flatten(x) for x in (d_reset, d_update, d_candidate_h)], -1)
    d_bias = d_candidate_h.sum(tuple(range(d_candidate_h.ndim - 1)))
    return (
        multiply(_flatten(previous).T, d_recurrent),
        d_bias,
        d_initial,
        (d_reset, d_update, d_candidate),
        jnp.zeros_like(keep),
    )


class _MLPGRU(nn.Module):
    """Dense layers, a GRU if the spec has one, its head's dense layers, and one or two heads.

    Attributes:
        spec: sizes of the layers.
        output_size: size of the head's output.
        head_init_scale: gain of the head.
        gaussian_head: whether the head also gives log-deviations.
        num_values: size of a second head's output; 0 for none.
    """

    spec: NetworkSpec
    output_size: int
    head_init_scale: float
    gaussian_head: bool = False
    num_values: int = 0

    def setup(self) -> None:
        dtype = jnp.result_type(float)
        precision = self.spec.precision
        hidden = functools.partial(
            products.dense_layer(precision), kernel_init=orthogonal(2.0**0.5)
        )
        # Log-probabilities and targets of values need more digits than bfloat16 has.
        dense = products.dense_layer("float32")
        self.layers = [hidden(width) for width in self.spec.hidden_sizes]
        self.cell = _GRU(self.spec.rnn_hidden_size, precision) if self.spec.recurrent else None
        self.head_layers = [hidden(width) for width in self.spec.head_hidden_sizes]
        self.head = dense(self.output_size, kernel_init=orthogonal(self.head_init_scale))
        self.value_layers = (
            [hidden(width) for width in self.spec.head_hidden_sizes] if self.num_values else []
        )
        self.value_head = (
            dense(self.num_values, kernel_init=orthogonal()) if self.num_values else None
        )
        if self.gaussian_head:
            self.log_std = typed(self).param(
                "log_std", nn.initializers.zeros, (self.output_size,), dtype
            )

    def _apply_layers(self, layers: list[nn.Dense], x: Array) -> Array:
        """Applies dense layers, with the nonlinearity after each."""
        activate = {"relu": nn.relu, "tanh": nn.tanh}[self.spec.activation]
        for layer in layers:
            x = activate(layer(x))
        return x

    def _heads(self, x: Array) -> tuple[Array, ...]:
        """Returns the outputs of one or two heads from the GRU's output."""
        head = self.head(self._apply_layers(self.head_layers, x))
        return (
            (head,)
            if self.value_head is None
            else (head, self.value_head(self._apply_layers(self.value_layers, x)))
        )

    def _output(self, head: Array, *value: Array) -> PyTree:
        """Returns ``out`` of `Network`: the head, with log-deviations and values if there are."""
        out = (head, self.log_std) if self.gaussian_head else head
        return (out, *value) if value else out

    def step(self, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        """Computes ``step`` of `Network`."""
        x = self._apply_layers(self.layers, x)
        if self.cell is not None:
            x = hidden_state = self.cell.step(hidden_state, x)
        return self._output(*self._heads(x)), hidden_state

    def unroll(self, hidden_state: PyTree, x: Array, first: Array) -> tuple[PyTree, PyTree]:
        """Computes ``unroll`` of `Network`."""
        if self.cell is None:
            return self._output(
                *_apply_flattened(
                    lambda rows: self._heads(self._apply_layers(self.layers, rows)), x
                )
            ), hidden_state
        cell = self.cell
        hidden_state = cell.unroll(
            hidden_state,
            _apply_flattened(
                lambda rows: cell.input_projection(self._apply_layers(self.layers, rows)), x
            ),
            first,
        )
        return self._output(*_apply_flattened(self._heads, hidden_state)), hidden_state


def _apply_flattened(function: Callable[[Array], PyTree], x: Array) -> PyTree:
    """Applies a function of rows ``[rows, O]`` to ``[T, B, ..., O]``.

    The function returns one or several arrays of rows. On rows, the gradients of weights and biases
    need no transposed copies of the activations, which cost half the time of a backward pass.
    Environments come before time in a row's number, so that environments spread over devices stay
    there.
    """
    lead = (x.shape[1], x.shape[0], *x.shape[2:-1])
    return tree_math.map_leaves(
        lambda rows: jnp.moveaxis(rows.reshape(*lead, rows.shape[-1]), 1, 0), function(_flatten(x))
    )


def _flatten(x: Array) -> Array:
    """Returns ``[T, B, ..., O]`` as ``[rows, O]``, with environments before time."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, x.shape[-1])


def make_network(
    spec: NetworkSpec | Torso,
    input_size: int,
    output_size: int,
    *,
    num_agents: int | None,
    shared: Sharing = True,
    head_init_scale: float = 1.0,
    gaussian_head: bool = False,
    num_values: int = 0,
) -> Network:
    """Returns a network over the agents' observations, or over the one state of an environment.

    Args:
        spec: sizes of the layers, or a user's torso.
        input_size: size of the input's last axis.
        output_size: size of the output's last axis.
        num_agents: N when the input has an agents' axis before its last, None when it has none.
        shared: one set of weights for all agents, or (False) one for each: then every leaf of the
            parameters leads with ``[N]``; or the group of each agent, where they lead with the
            groups ``[G]``.
        head_init_scale: gain of the orthogonal head; 0.01 makes a first policy nearly uniform.
        gaussian_head: the head gives ``(mean, log_std)``; log_std does not depend on the input.
        num_values: size of a second head, with gain 1, on the same layers; the output is then the
            pair of the head's output and the values. 0 for no second head.

    Returns:
        The `Network`.

    Example:
        Three agents with a GRU of width 6, over 5 time steps of 2 environments:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import recurrent
        >>> spec = recurrent.NetworkSpec(hidden_sizes=(8,), recurrent=True, rnn_hidden_size=6)
        >>> net = recurrent.make_network(spec, input_size=7, output_size=4, num_agents=3)
        >>> params = net.init(jax.random.key(0))
        >>> hidden_state = net.init_hidden_state(2)
        >>> x, first = jnp.ones((5, 2, 3, 7)), jnp.zeros((5, 2), bool)
        >>> out, hidden_states = net.unroll(params, hidden_state, x, first)
        >>> print(hidden_state.shape, out.shape, hidden_states.shape)
        (2, 3, 6) (5, 2, 3, 4) (5, 2, 3, 6)
        >>> out, hidden_state = net.step(params, hidden_state, x[0])
        >>> print(out.shape, hidden_state.shape)
        (2, 3, 4) (2, 3, 6)
    """
    if isinstance(spec, Torso):
        return make_torso_network(
            spec,
            input_size,
            output_size,
            num_agents=num_agents,
            shared=shared,
            head_init_scale=head_init_scale,
            gaussian_head=gaussian_head,
            num_values=num_values,
        )
    stack = typed(_MLPGRU(spec, output_size, head_init_scale, gaussian_head, num_values))
    dtype = jnp.result_type(float)

    lead = () if num_agents is None else (num_agents,)

    def init(key: Array) -> PyTree:
        hidden_state = jnp.zeros((1, spec.rnn_hidden_size), dtype) if spec.recurrent else ()
        x = jnp.zeros((1, input_size), dtype)
        return stack.init(key, hidden_state, x, method="step")["params"]

    def init_hidden_state(num_envs: int) -> PyTree:
        return jnp.zeros((num_envs, *lead, spec.rnn_hidden_size), dtype) if spec.recurrent else ()

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return stack.apply({"params": params}, hidden_state, x, method="step")

    def unroll(
        params: PyTree, hidden_state: PyTree, x: Array, first: Array
    ) -> tuple[PyTree, PyTree]:
        return stack.apply({"params": params}, hidden_state, x, first, method="unroll")

    # Shared weights apply to every leading axis alike, the agents' included.
    if num_agents is None or shared is True:
        return Network(init, init_hidden_state, step, unroll)

    def init_each(key: Array) -> PyTree:
        return jax.vmap(init)(jax.random.split(key, num_agents))

    # The agents' axis is the last but one of the outputs. The log-deviations do not depend on the
    # input, so that they have no axes but the agents' in front.
    head_axes = (-2, 0) if gaussian_head else -2
    axes = ((head_axes, -2) if num_values else head_axes, -2)
    separate = Network(
        init_each,
        init_hidden_state,
        jax.vmap(step, (0, -2, -2), axes),
        jax.vmap(unroll, (0, -2, -2, None), axes),
    )
    return share_by_group(init, separate, shared) if shared else separate
