"""Policies, critics and reward functions: a stack of dense layers, then perhaps a GRU, then a head.

`make_network` hands out a record of pure functions, so that nothing outside this file knows which
library keeps the weights, whether agents share them, or whether there is a memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """The form of one network; everything here decides shapes."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Width of each dense layer before the head (and before the memory, if there is one)."""
    activation: Literal["relu", "tanh"] = "relu"
    """What follows each dense layer."""
    recurrent: bool = False
    """Whether the network remembers the episode so far."""
    rnn_hidden_size: int = 128
    """Width of the memory."""
    head_hidden_sizes: tuple[int, ...] = ()
    """Width of each dense layer between the memory and a head; each head has its own."""


class Network(NamedTuple):
    """A network as pure functions; ``out`` is what the head gives, with the agents' axis kept.

    ``init(key) -> params``; ``init_hidden_state(num_envs) -> hidden_state``, zeros ``[B, (N,) H]``,
    or () without a memory; ``step(params, hidden_state, x) -> (out, hidden_state)`` for one moment,
    any leading axes; ``unroll(params, hidden_state, x, first) -> (out, hidden_states)`` over time:
    x ``[T, B, (N,) O]``, and
        first ``[T, B]`` marks where an episode begins; hidden_states ``[T, ...]`` are those after
    each step.
    """

    init: Callable[[Array], PyTree]
    init_hidden_state: Callable[[int], PyTree]
    step: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]
    unroll: Callable[[PyTree, PyTree, Array, Array], tuple[PyTree, PyTree]]


def orthogonal(gain: float = 1.0) -> Callable[..., Array]:
    """Orthogonal weights (Saxe et al. 2014), one matrix after the other under `vmap`: XLA's QR of
    several batches of matrices can wait for ever on a CPU of few cores (jaxlib 0.10).
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
        draw = jax.custom_batching.sequential_vmap(
            lambda key: nn.initializers.orthogonal(gain)(key, shape, dtype)
        )
        return draw(key)

    return init


Gates = tuple[Array, Array, Array]
"""What belongs to a GRU's reset, update and candidate."""


class _GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014): the weights of `_gru_step`, and the product of all
    inputs at once.
    """

    size: int

    def setup(self) -> None:
        dtype = jnp.result_type(float)
        # W stands for all three gates: one product for the whole sequence.
        self.inputs = nn.Dense(3 * self.size, kernel_init=orthogonal(), param_dtype=dtype)
        self.kernel = self.param("kernel", orthogonal(), (self.size, 3 * self.size), dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.size,), dtype)

    def input_projection(self, x: Array) -> Gates:
        """W x."""
        return _split_gates(self.inputs(x))

    def step(self, hidden_state: Array, x: Array) -> Array:
        return _gru_step(self.kernel, self.bias, hidden_state, self.input_projection(x))

    def unroll(self, hidden_state: Array, inputs: Gates, first: Array) -> Array:
        """``inputs`` are those of `input_projection`, each ``[T, ..., H]``."""
        keep = 1.0 - first.astype(hidden_state.dtype)
        keep = keep.reshape(keep.shape + (1,) * (hidden_state.ndim + 1 - keep.ndim))
        return _gru_unroll(self.kernel, self.bias, hidden_state, inputs, keep)


def _split_gates(x: Array) -> Gates:
    reset, update, new = jnp.split(x, 3, -1)
    return reset, update, new


def _gates(bias: Array, inputs: Gates, hidden: Array) -> tuple[Array, Array, Array, Array]:
    """Reset, update and candidate from W x and U h ``[..., 3H]``, and U_n h + b."""
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = inputs, _split_gates(hidden)
    reset, update = nn.sigmoid(reset_x + reset_h), nn.sigmoid(update_x + update_h)
    new_h = new_h + jnp.broadcast_to(bias, new_h.shape)
    return reset, update, nn.tanh(new_x + reset * new_h), new_h


def _gru_step(kernel: Array, bias: Array, hidden_state: Array, inputs: Gates) -> Array:
    """R = σ(W_r x + U_r h),  z = σ(W_z x + U_z h),  n = tanh(W_n x + r ⊙ (U_n h + b)),  h' = (1 -
    z) ⊙ n + z ⊙ h.
    """
    _, update, new, _ = _gates(bias, inputs, hidden_state @ kernel)
    return (1.0 - update) * new + update * hidden_state


@jax.custom_vjp
def _gru_unroll(
    kernel: Array, bias: Array, hidden_state: Array, inputs: Gates, keep: Array
) -> Array:
    """The memory after each step ``[T, ..., H]``; ``keep`` ``[T, ..., 1]`` is 0 where an episode
    begins.

    Its own derivative rule keeps all but the products with the memory out of the backward loop: the
    gradient of the kernel is one product for all steps. Three inputs apart, since XLA on a CPU
    takes twice the time for a loop whose body cuts one array into three.
    """
    return _gru_forward(kernel, bias, hidden_state, inputs, keep)[0]


def _gru_forward(
    kernel: Array, bias: Array, hidden_state: Array, inputs: Gates, keep: Array
) -> tuple[Array, PyTree]:
    def tick(hidden_state: Array, now: tuple[Gates, Array]) -> tuple[Array, tuple[Array, ...]]:
        inputs_t, keep_t = now
        before = hidden_state * keep_t
        reset, update, new, new_h = _gates(bias, inputs_t, before @ kernel)
        after = (1.0 - update) * new + update * before
        return after, (after, before, reset, update, new, new_h)

    _, (hidden_states, *parts) = jax.lax.scan(tick, hidden_state, (inputs, keep))
    return hidden_states, (kernel, keep, *parts)


def _gru_backward(saved: PyTree, given: Array) -> tuple[Array, Array, Array, Gates, Array]:
    kernel, keep, before, reset, update, new, new_h = saved
    back_reset, back_update, back_new = (part.T for part in _split_gates(kernel))

    def tick(later: Array, now: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        given_t, keep_t, before_t, reset_t, update_t, new_t, new_h_t = now
        d_memory = given_t + later
        d_new = d_memory * (1.0 - update_t) * (1.0 - new_t**2)
        d_update = d_memory * (before_t - new_t) * update_t * (1.0 - update_t)
        d_reset = d_new * new_h_t * reset_t * (1.0 - reset_t)
        d_new_h = d_new * reset_t
        d_before = (
            d_memory * update_t + d_reset @ back_reset + d_update @ back_update + d_new_h @ back_new
        )
        return d_before * keep_t, (d_reset, d_update, d_new, d_new_h)

    sequence = (given, keep, before, reset, update, new, new_h)
    d_start, (d_reset, d_update, d_new, d_new_h) = jax.lax.scan(
        tick, jnp.zeros_like(before[0]), sequence, reverse=True
    )
    d_hidden = jnp.concatenate([_flatten(part) for part in (d_reset, d_update, d_new_h)], -1)
    d_bias = d_new_h.sum(tuple(range(d_new_h.ndim - 1)))
    return (
        _flatten(before).T @ d_hidden,
        d_bias,
        d_start,
        (d_reset, d_update, d_new),
        jnp.zeros_like(keep),
    )


_gru_unroll.defvjp(_gru_forward, _gru_backward)


class _MLPGRU(nn.Module):
    """Dense layers, perhaps a GRU, perhaps more layers, and a head of ``output_size`` numbers; with
    ``gaussian_head``, also log-deviations; with ``num_values``, a second head of so many
    numbers.
    """

    spec: NetworkSpec
    output_size: int
    head_init_scale: float
    gaussian_head: bool = False
    num_values: int = 0

    def setup(self) -> None:
        dtype = jnp.result_type(float)
        dense = lambda width, gain: nn.Dense(width, kernel_init=orthogonal(gain), param_dtype=dtype)
        self.layers = [dense(width, 2.0**0.5) for width in self.spec.hidden_sizes]
        self.cell = _GRU(self.spec.rnn_hidden_size) if self.spec.recurrent else None
        self.head_layers = [dense(width, 2.0**0.5) for width in self.spec.head_hidden_sizes]
        self.head = dense(self.output_size, self.head_init_scale)
        self.value_layers = (
            [dense(width, 2.0**0.5) for width in self.spec.head_hidden_sizes]
            if self.num_values
            else []
        )
        self.value_head = dense(self.num_values, 1.0) if self.num_values else None
        if self.gaussian_head:
            self.log_std = self.param("log_std", nn.initializers.zeros, (self.output_size,), dtype)

    def _features(self, x: Array) -> Array:
        return self._apply_layers(self.layers, x)

    def _apply_layers(self, layers: list[nn.Dense], x: Array) -> Array:
        activate = {"relu": nn.relu, "tanh": nn.tanh}[self.spec.activation]
        for layer in layers:
            x = activate(layer(x))
        return x

    def _heads(self, x: Array) -> tuple[Array, ...]:
        head = self.head(self._apply_layers(self.head_layers, x))
        return (
            (head,)
            if self.value_head is None
            else (head, self.value_head(self._apply_layers(self.value_layers, x)))
        )

    def _output(self, head: Array, *value: Array) -> PyTree:
        out = (head, self.log_std) if self.gaussian_head else head
        return (out, *value) if value else out

    def step(self, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        x = self._features(x)
        if self.cell is not None:
            x = hidden_state = self.cell.step(hidden_state, x)
        return self._output(*self._heads(x)), hidden_state

    def unroll(self, hidden_state: PyTree, x: Array, first: Array) -> tuple[PyTree, PyTree]:
        if self.cell is None:
            return self._output(
                *_apply_flattened(lambda rows: self._heads(self._features(rows)), x)
            ), hidden_state
        cell = self.cell
        hidden_state = cell.unroll(
            hidden_state,
            _apply_flattened(lambda rows: cell.input_projection(self._features(rows)), x),
            first,
        )
        return self._output(*_apply_flattened(self._heads, hidden_state)), hidden_state


def _apply_flattened(function: Callable[[Array], Any], x: Array) -> Any:
    """Apply a function of rows ``[rows, O]``, to one or several arrays of rows, to ``[T, B, ...,
    O]``.

    On rows, the gradients of weights and biases need no transposed copies of the activations, which
    cost half the time of a backward pass. Worlds come before time in a row's number, so that worlds
    spread over devices stay there.
    """
    lead = (x.shape[1], x.shape[0], *x.shape[2:-1])
    return jax.tree.map(
        lambda rows: jnp.moveaxis(rows.reshape(*lead, rows.shape[-1]), 1, 0), function(_flatten(x))
    )


def _flatten(x: Array) -> Array:
    """``[T, B, ..., O]`` as ``[rows, O]``."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, x.shape[-1])


def make_network(
    spec: NetworkSpec,
    input_size: int,
    output_size: int,
    *,
    num_agents: int | None,
    shared: bool = True,
    head_init_scale: float = 1.0,
    gaussian_head: bool = False,
    num_values: int = 0,
) -> Network:
    """A network over the agents' views, or over the one state of a world.

    Args:
        spec: layers and memory.
        input_size, output_size: sizes of the last axis.
        num_agents: N when the input has an agents' axis before its last, None when it has none.
        shared: one set of weights for all agents, or (False) one each: then every leaf leads with
            ``[N]``.
        head_init_scale: gain of the orthogonal head; 0.01 makes a first policy nearly uniform.
        gaussian_head: the head gives ``(mean, log_std)``; log_std does not depend on the input.
        num_values: of a second head, with gain 1, behind the same layers; what comes out is then
    ``(head's, values)``.
    """
    stack = _MLPGRU(spec, output_size, head_init_scale, gaussian_head, num_values)
    dtype = jnp.result_type(float)

    def zero_hidden_state(*lead: int) -> PyTree:
        return jnp.zeros((*lead, spec.rnn_hidden_size), dtype) if spec.recurrent else ()

    def init(key: Array) -> PyTree:
        return stack.init(
            key, zero_hidden_state(1), jnp.zeros((1, input_size), dtype), method="step"
        )["params"]

    def init_hidden_state(num_envs: int) -> PyTree:
        return (
            zero_hidden_state(num_envs)
            if num_agents is None
            else zero_hidden_state(num_envs, num_agents)
        )

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return stack.apply({"params": params}, hidden_state, x, method="step")  # type: ignore[return-value]

    def unroll(
        params: PyTree, hidden_state: PyTree, x: Array, first: Array
    ) -> tuple[PyTree, PyTree]:
        return stack.apply({"params": params}, hidden_state, x, first, method="unroll")  # type: ignore[return-value]

    if num_agents is None or shared:
        return Network(init, init_hidden_state, step, unroll)

    head_axes = (-2, 0) if gaussian_head else -2
    axes = ((head_axes, -2) if num_values else head_axes, -2)
    each = jax.vmap(step, (0, -2, -2), axes), jax.vmap(unroll, (0, -2, -2, None), axes)
    return Network(
        lambda key: jax.vmap(init)(jax.random.split(key, num_agents)), init_hidden_state, *each
    )
