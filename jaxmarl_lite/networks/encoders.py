"""Encoders to use as networks of any algorithm, and as examples of how to write one.

Each is a Flax Linen module from rows of observations ``[..., O]`` to features ``[..., F]``, or a
recurrent one with ``initial_state``, ``step`` and ``unroll``:

    jml.run("liir", env, networks=jml.Networks(actor=encoders.EntityAttention(num_entities=4)))
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.networks.torsos import orthogonal, typed
from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array, PyTree


def _dense(size: int, name: str, gain: float = 2.0**0.5) -> nn.Dense:
    """Returns an orthogonal dense layer of the working precision."""
    dtype = jnp.result_type(float)
    return nn.Dense(size, kernel_init=orthogonal(gain), param_dtype=dtype, name=name)


class MLP(nn.Module):
    """Dense layers, each with an optional layer normalization before its activation.

    Attributes:
        hidden_sizes: widths of the layers.
        activation: ``relu``, ``tanh`` or ``silu``.
        layer_norm: whether to normalize before each activation (Ba et al. 2016).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite.networks import encoders
        >>> mlp = encoders.MLP((16, 8), layer_norm=True)
        >>> params = mlp.init(jax.random.key(0), jnp.ones((2, 5)))
        >>> mlp.apply(params, jnp.ones((2, 5))).shape
        (2, 8)
    """

    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Computes the features.

        Args:
            x: ``[..., O]``.

        Returns:
            ``[..., F]``, F the last width.
        """
        activate = {"relu": nn.relu, "tanh": nn.tanh, "silu": nn.silu}[self.activation]
        for i, size in enumerate(self.hidden_sizes):
            x = _dense(size, f"layer_{i}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(param_dtype=jnp.result_type(float), name=f"norm_{i}")(x)
            x = activate(x)
        return x


class CNN(nn.Module):
    """Convolutions over a grid that the observation starts with; the rest joins behind them.

    Attributes:
        grid_shape: rows, columns and channels of the grid, which the first entries of the
            observation hold row by row.
        channels: channels of each convolution, 3 by 3 with stride 1.
        hidden_size: width of the dense layer after them.

    Example:
        A 5 by 5 grid with two channels, and three further numbers:

        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite.networks import encoders
        >>> cnn = encoders.CNN(grid_shape=(5, 5, 2), channels=(4,), hidden_size=8)
        >>> x = jnp.ones((7, 5 * 5 * 2 + 3))
        >>> cnn.apply(cnn.init(jax.random.key(0), x), x).shape
        (7, 8)
    """

    grid_shape: tuple[int, int, int]
    channels: tuple[int, ...] = (32, 32)
    hidden_size: int = 128

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Computes the features.

        Args:
            x: ``[..., O]``, O at least the entries of the grid.

        Returns:
            ``[..., hidden_size]``.

        Raises:
            ValueError: the observation is smaller than the grid.
        """
        size, lead = math.prod(self.grid_shape), x.shape[:-1]
        if x.shape[-1] < size:
            raise ValueError(
                f"CNN.grid_shape is {self.grid_shape}, {size} entries, but an observation has "
                f"{x.shape[-1]}; allowed is a grid of that many or fewer"
            )
        grid = x[..., :size].reshape(-1, *self.grid_shape)
        for i, count in enumerate(self.channels):
            conv = nn.Conv(count, (3, 3), param_dtype=jnp.result_type(float), name=f"conv_{i}")
            grid = nn.relu(conv(grid))
        features = jnp.concatenate([grid.reshape(*lead, -1), x[..., size:]], -1)
        return nn.relu(_dense(self.hidden_size, "dense")(features))


class EntityAttention(nn.Module):
    """Self-attention over the entities of an observation (Vaswani et al. 2017), then their mean.

    The observation is ``num_entities`` vectors of equal length, one after the other, as many
    environments give the other agents, foods or landmarks; entries that are left over belong to
    the agent itself and are joined to each entity. Entities whose entries are all zero, as padding
    is, are left out.

    Attributes:
        num_entities: E, number of entities.
        own_size: entries at the observation's start that are the agent's own.
        features: width of queries, keys and values together.
        num_heads: number of attention heads.

    Example:
        Three entities of four numbers after two of the agent's own:

        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite.networks import encoders
        >>> encoder = encoders.EntityAttention(num_entities=3, own_size=2, features=8, num_heads=2)
        >>> x = jax.random.normal(jax.random.key(1), (5, 2 + 3 * 4))
        >>> params = encoder.init(jax.random.key(0), x)
        >>> swapped = jnp.concatenate([x[:, :2], x[:, 6:10], x[:, 2:6], x[:, 10:]], -1)
        >>> bool(jnp.allclose(encoder.apply(params, x), encoder.apply(params, swapped), atol=1e-5))
        True
    """

    num_entities: int
    own_size: int = 0
    features: int = 64
    num_heads: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Computes the features.

        Args:
            x: ``[..., O]``.

        Returns:
            ``[..., 2 features]``: of the agent itself, and of the entities.

        Raises:
            ValueError: the entities do not divide the observation.
        """
        rest = x.shape[-1] - self.own_size
        if rest <= 0 or rest % self.num_entities:
            raise ValueError(
                f"EntityAttention.num_entities is {self.num_entities} and own_size "
                f"{self.own_size}, but an observation has {x.shape[-1]} entries; allowed are "
                "entities of equal size"
            )
        lead = x.shape[:-1]
        entities = x[..., self.own_size :].reshape(*lead, self.num_entities, -1)
        exists = jnp.any(entities != 0, -1)  # [..., E]
        # without entries of its own, the agent is described by the whole observation
        ego = nn.relu(_dense(self.features, "own")(x[..., : self.own_size or None]))
        tokens = nn.relu(_dense(self.features, "entity")(entities)) + ego[..., None, :]
        query, key, value = (
            _dense(self.features, name, 1.0)(tokens).reshape(
                *lead, self.num_entities, self.num_heads, -1
            )
            for name in ("query", "key", "value")
        )
        scores = jax_types.einsum("...ihd,...jhd->...hij", query, key) / math.sqrt(query.shape[-1])
        # an entity that does not exist is attended by none; where none exists all weights are equal
        scores = jnp.where(exists[..., None, None, :], scores, -1e9)
        attended = jax_types.einsum("...hij,...jhd->...ihd", jax.nn.softmax(scores, -1), value)
        tokens = tokens + _dense(self.features, "out", 1.0)(
            attended.reshape(*lead, self.num_entities, -1)
        )
        weight = exists[..., None].astype(x.dtype)
        mean = (weight * tokens).sum(-2) / jnp.maximum(weight.sum(-2), 1.0)
        return jnp.concatenate([ego, nn.relu(_dense(self.features, "mean")(mean))], -1)


class LRU(nn.Module):
    """A linear recurrent unit (Orvieto et al. 2023) after a dense layer.

        h_t = λ ⊙ h_{t-1} + γ ⊙ B u_t,   y_t = Re(C h_t) + D ⊙ u_t,   γ = √(1 - |λ|²)

    λ is complex with |λ| < 1. A whole sequence is one `jax.lax.associative_scan` in place of a loop
    over time, which suits accelerators; at the start of an episode λ is taken as 0.

    Attributes:
        features: width of u and y.
        state_size: number of complex entries of h; the hidden state holds their real and imaginary
            parts.
        min_radius: least |λ| at the start.
        max_radius: greatest |λ| at the start.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite.networks import encoders
        >>> lru = encoders.LRU(features=8, state_size=4)
        >>> x, state = jnp.ones((6, 3, 5)), lru.initial_state(3)
        >>> params = lru.init(jax.random.key(0), state, x[0], method="step")
        >>> first = jnp.zeros((6, 3), bool)
        >>> features, states = lru.apply(params, state, x, first, method="unroll")
        >>> features.shape, states.shape
        ((6, 3, 8), (6, 3, 8))
    """

    features: int = 128
    state_size: int = 64
    min_radius: float = 0.5
    max_radius: float = 0.99

    @nn.nowrap
    def initial_state(self, num_rows: int) -> Array:
        """Returns zeros ``[R, 2 state_size]``.

        Args:
            num_rows: number of rows, R.
        """
        return jnp.zeros((num_rows, 2 * self.state_size), jnp.result_type(float))

    def setup(self) -> None:
        """Makes the layers, with |λ|² uniform between the squares of the two radii."""
        dtype, low, high = jnp.result_type(float), self.min_radius, self.max_radius

        def log_decay(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            radius2 = jax.random.uniform(key, shape, dtype, low**2, high**2)
            return jnp.log(-0.5 * jnp.log(radius2))

        def phase(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
            return jax.random.uniform(key, shape, dtype, 0.0, math.pi / 10)

        self.encoder = _dense(self.features, "encoder")
        self.log_decay = typed(self).param("log_decay", log_decay, (self.state_size,), dtype)
        self.phase = typed(self).param("phase", phase, (self.state_size,), dtype)
        self.inputs = _dense(2 * self.state_size, "inputs", 1.0)
        self.outputs = _dense(self.features, "outputs", 1.0)
        ones = nn.initializers.ones
        self.skip = typed(self).param("skip", ones, (self.features,), dtype)

    def _parts(self, x: Array) -> tuple[Array, Array, Array]:
        """Returns u, λ and γ B u."""
        u = nn.relu(self.encoder(x))
        decay = jnp.exp(-jnp.exp(self.log_decay))
        eigenvalue = decay * jax.lax.complex(jnp.cos(self.phase), jnp.sin(self.phase))
        driven = jax.lax.complex(*jnp.split(self.inputs(u), 2, -1))
        scale = jnp.sqrt(jnp.maximum(1.0 - decay**2, 1e-6))
        return u, eigenvalue, driven * scale.reshape((1,) * (u.ndim - 1) + (-1,))

    def _output(self, u: Array, h: Array) -> tuple[Array, Array]:
        """Returns y and the hidden state as real numbers."""
        hidden_state = jnp.concatenate([h.real, h.imag], -1)
        y = self.outputs(hidden_state) + u * self.skip.reshape((1,) * (u.ndim - 1) + (-1,))
        return nn.relu(y), hidden_state

    def step(self, hidden_state: Array, x: Array) -> tuple[Array, Array]:
        """Computes one time step.

        Args:
            hidden_state: ``[R, 2 state_size]``.
            x: ``[R, O]``.

        Returns:
            Features ``[R, features]`` and the hidden state after the step.
        """
        u, eigenvalue, driven = self._parts(x)
        h = jax.lax.complex(*jnp.split(hidden_state, 2, -1))
        return self._output(u, eigenvalue[None] * h + driven)

    def unroll(self, hidden_state: Array, x: Array, first: Array) -> tuple[Array, Array]:
        """Computes a whole sequence.

        Args:
            hidden_state: ``[R, 2 state_size]``, before the first step.
            x: ``[T, R, O]``.
            first: ``[T, R]`` bool, the steps that begin an episode.

        Returns:
            Features ``[T, R, features]`` and the hidden state after each step.
        """
        u, eigenvalue, driven = self._parts(x)
        factors = jnp.where(first[..., None], 0.0, eigenvalue[None, None])
        h = jax.lax.complex(*jnp.split(hidden_state, 2, -1))
        driven = driven.at[0].add(factors[0] * h)

        def combine(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            return a[0] * b[0], b[0] * a[1] + b[1]

        lax: PyTree = jax.lax
        _, states = lax.associative_scan(combine, (factors, driven))
        return self._output(u, states)
