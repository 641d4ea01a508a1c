"""Action distributions with closed-form entropy and KL divergence, and exact masks.

A masked action, or a padded dimension, has probability zero, adds zero to log-probability, entropy
and KL, and receives zero gradient. All quantities are in nats and have the batch axes ``[...]`` of
the parameters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array, Observation

_LOG_2PI = math.log(2.0 * math.pi)


class Categorical(NamedTuple):
    """Choice among A actions, some of which may be illegal; made by `categorical`.

    Attributes:
        logits: ``[..., A]`` normalized log-probabilities; very negative where illegal.
        mask: ``[..., A]`` bool, the legal actions.
    """

    logits: Array
    mask: Array

    def sample(self, key: Array) -> Array:
        """Draws an action, never an illegal one.

        Args:
            key: a key of `jax.random`.

        Returns:
            ``[...]`` int, the indices of the actions.
        """
        return jax.random.categorical(key, jnp.where(self.mask, self.logits, -jnp.inf)).astype(
            jnp.int32
        )

    def mode(self) -> Array:
        """Returns the most probable legal action, ``[...]`` int."""
        return jnp.argmax(jnp.where(self.mask, self.logits, -jnp.inf), -1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Computes log π(u).

        Args:
            action: ``[...]`` int, u.

        Returns:
            ``[...]`` the log-probability.
        """
        return jnp.take_along_axis(self.logits, action[..., None], -1)[..., 0]

    def per_dim_log_prob(self, action: Array) -> Array:
        """Computes `log_prob` for each dimension of the action, of which there is one.

        Args:
            action: ``[...]`` int.

        Returns:
            ``[..., 1]`` the log-probability.
        """
        return self.log_prob(action)[..., None]

    def entropy(self) -> Array:
        """Computes the entropy -Σ π log π over the legal actions, ``[...]``."""
        return -jnp.sum(jnp.where(self.mask, jnp.exp(self.logits) * self.logits, 0.0), -1)

    def kl(self, other: Categorical) -> Array:
        """Computes KL(self || other), over the legal actions of this distribution.

        Args:
            other: a distribution of the same shape.

        Returns:
            ``[...]`` the divergence.
        """
        return jnp.sum(
            jnp.where(self.mask, jnp.exp(self.logits) * (self.logits - other.logits), 0.0), -1
        )

    def params(self) -> Array:
        """Returns the parameters in which `fisher` is a matrix: the log-probabilities."""
        return self.logits

    def fisher(self, tangent: Array) -> Array:
        """Computes the Fisher product F t = π ⊙ t.

        F is the Hessian of the KL divergence in the log-probabilities, along tangents that keep the
        sum of the probabilities.

        Args:
            tangent: ``[..., A]`` t, a change of the log-probabilities.

        Returns:
            ``[..., A]`` F t, 0 where an action is illegal.
        """
        return jnp.where(self.mask, jnp.exp(self.logits) * tangent, 0.0)


def categorical(logits: Array, mask: Array) -> Categorical:
    """Returns the masked categorical distribution of some logits.

    Where no action is legal (an agent that is out of play), all are treated as legal.

    Args:
        logits: ``[..., A]`` float, not normalized.
        mask: ``[..., A]`` bool, the legal actions.

    Returns:
        The `Categorical`, with normalized logits.

    Example:
        The third action is illegal; the probabilities of the others are in the ratio 1 : 3.

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import distributions
        >>> logits = jnp.log(jnp.array([1.0, 3.0, 9.0]))
        >>> pi = distributions.categorical(logits, jnp.array([True, True, False]))
        >>> print(pi.mode(), f"{jnp.exp(pi.log_prob(jnp.array(0))):.3f}")
        1 0.250
    """
    mask = mask | ~mask.any(-1, keepdims=True)
    # Illegal logits may be anything, so they are replaced inside the sum, and not only after it:
    # then no infinity or NaN reaches the gradient.
    shift = jax.lax.stop_gradient(jnp.max(jnp.where(mask, logits, -jnp.inf), -1, keepdims=True))
    shifted = jnp.where(mask, logits - shift, 0.0)
    total = jnp.sum(jnp.where(mask, jnp.exp(shifted), 0.0), -1, keepdims=True)
    return Categorical(jnp.where(mask, shifted - jnp.log(total), -1e9), mask)


class Gaussian(NamedTuple):
    """Independent normal distributions, one for each dimension of the action.

    Attributes:
        mean: ``[..., A]`` μ.
        log_std: ``[..., A]`` log σ.
        mask: ``[..., A]`` bool, the dimensions that exist.
    """

    mean: Array
    log_std: Array
    mask: Array

    def sample(self, key: Array) -> Array:
        """Draws an action.

        Args:
            key: a key of `jax.random`.

        Returns:
            ``[..., A]`` the actions, 0 in padded dimensions.
        """
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return jnp.where(self.mask, self.mean + jnp.exp(self.log_std) * noise, 0.0)

    def mode(self) -> Array:
        """Returns the mean, ``[..., A]``; 0 in padded dimensions."""
        return jnp.where(self.mask, self.mean, 0.0)

    def log_prob(self, action: Array) -> Array:
        """Computes the log-density Σ_d -(u_d - μ_d)²/2σ_d² - log σ_d - ½ log 2π.

        Args:
            action: ``[..., A]`` u.

        Returns:
            ``[...]`` the log-density.
        """
        return self.per_dim_log_prob(action).sum(-1)

    def per_dim_log_prob(self, action: Array) -> Array:
        """Computes `log_prob` for each dimension of the action.

        Args:
            action: ``[..., A]`` u.

        Returns:
            ``[..., A]`` the log-densities, 0 in padded dimensions.
        """
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.where(self.mask, -0.5 * z**2 - self.log_std - 0.5 * _LOG_2PI, 0.0)

    def entropy(self) -> Array:
        """Computes the entropy Σ_d log σ_d + ½ (1 + log 2π), ``[...]``."""
        return jnp.sum(jnp.where(self.mask, self.log_std + 0.5 * (1.0 + _LOG_2PI), 0.0), -1)

    def kl(self, other: Gaussian) -> Array:
        """Computes KL(self || other) = Σ_d log σ'/σ + (σ² + (μ - μ')²) / 2σ'² - ½.

        Args:
            other: a distribution of the same shape, with μ' and σ'.

        Returns:
            ``[...]`` the divergence.
        """
        ratio = jnp.exp(2.0 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        terms = other.log_std - self.log_std + 0.5 * (ratio + shift - 1.0)
        return jnp.sum(jnp.where(self.mask, terms, 0.0), -1)

    def params(self) -> tuple[Array, Array]:
        """Returns the parameters in which `fisher` is a matrix: mean and log-deviation."""
        return self.mean, self.log_std

    def fisher(self, tangent: tuple[Array, Array]) -> tuple[Array, Array]:
        """Computes the Fisher product F (t_μ, t_log σ) = (t_μ / σ², 2 t_log σ).

        F is the Hessian of the KL divergence.

        Args:
            tangent: ``[..., A]`` each, a change of mean and log-deviation.

        Returns:
            ``[..., A]`` each, 0 in padded dimensions.
        """
        mean, log_std = tangent
        return (
            jnp.where(self.mask, mean * jnp.exp(-2.0 * self.log_std), 0.0),
            jnp.where(self.mask, 2.0 * log_std, 0.0),
        )


class TanhGaussian(NamedTuple):
    """A `Gaussian` squashed into bounds by tanh, and clipped a little inside of either bound.

        u = low + (high - low) (tanh x + 1) / 2,   x from the Gaussian

    An x beyond a cut is played as the bound itself, up to a small margin; such an action has the
    probability of the whole tail, and no density.

    Attributes:
        base: the Gaussian of x.
        low: ``[..., A]`` lower bounds.
        high: ``[..., A]`` upper bounds.
    """

    base: Gaussian
    low: Array
    high: Array

    # Where tanh x is within this of ±1, it could not be inverted in float32. The density of the x
    # that comes back would be that of another action, and where the mean is far out, ratios of such
    # densities grow without bound.
    SATURATION_EPS = 1e-5

    def _squash(self, x: Array) -> Array:
        """Returns the action u of an x; 0 in padded dimensions."""
        y = jnp.tanh(x)
        y = jnp.where(
            jnp.abs(y) > 1.0 - self.SATURATION_EPS,
            jnp.sign(y) * (1.0 - 0.125 * self.SATURATION_EPS),
            y,
        )
        return jnp.where(self.base.mask, self.low + 0.5 * (self.high - self.low) * (y + 1.0), 0.0)

    def sample(self, key: Array) -> Array:
        """Draws an action inside the bounds.

        Args:
            key: a key of `jax.random`.

        Returns:
            ``[..., A]`` the actions, 0 in padded dimensions.
        """
        return self._squash(self.base.sample(key))

    def mode(self) -> Array:
        """Returns the squashed mean, ``[..., A]``.

        It is the median of every dimension; a squashed Gaussian's mode has no closed form.
        """
        return self._squash(self.base.mode())

    def log_prob(self, action: Array) -> Array:
        """Computes Σ_d log N(x_d) - log du_d/dx_d, or log P(beyond the cut) for an action there.

        x is the artanh of the action brought to [-1, 1].

        Args:
            action: ``[..., A]`` u.

        Returns:
            ``[...]`` the log-density, with the log-probability of the tail in the dimensions whose
            action is beyond a cut.
        """
        return self.per_dim_log_prob(action).sum(-1)

    def per_dim_log_prob(self, action: Array) -> Array:
        """Computes `log_prob` for each dimension of the action.

        Args:
            action: ``[..., A]`` u.

        Returns:
            ``[..., A]``, 0 in padded dimensions.
        """
        half_width, mask = 0.5 * (self.high - self.low), self.base.mask
        highest = 1.0 - self.SATURATION_EPS
        y = (action - self.low) / half_width - 1.0
        # Clipped before the artanh, which is infinite at ±1.
        x = jnp.where(mask, jnp.arctanh(jnp.clip(y, -highest, highest)), 0.0)
        # log(1 - tanh²x) = 2 (log 2 - x - softplus(-2x)), without cancellation
        log_slope = jnp.log(half_width) + 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))
        density = self.base.per_dim_log_prob(x) - jnp.where(mask, log_slope, 0.0)
        # The tail of the Gaussian beyond the cut on the action's side.
        distance = jnp.sign(y) * self.base.mean - math.atanh(highest)
        tail = jax_types.log_ndtr(distance * jnp.exp(-self.base.log_std))
        is_cut = mask & (jnp.abs(y) > 1.0 - 0.5 * self.SATURATION_EPS)
        return jnp.where(is_cut, tail, density)

    def entropy(self) -> Array:
        """Computes the entropy of the Gaussian before squashing, ``[...]``.

        The squashed one has no closed form, and an estimate by one sample would make the loss
        random.
        """
        return self.base.entropy()

    def kl(self, other: TanhGaussian) -> Array:
        """Computes KL(self || other) of the Gaussians before squashing.

        A bijection leaves the divergence unchanged, and clipping can only reduce it.

        Args:
            other: a distribution of the same shape and bounds.

        Returns:
            ``[...]`` the divergence.
        """
        return self.base.kl(other.base)

    def params(self) -> tuple[Array, Array]:
        """Returns the parameters of the Gaussian: mean and log-deviation."""
        return self.base.params()

    def fisher(self, tangent: tuple[Array, Array]) -> tuple[Array, Array]:
        """Computes the Fisher product of the Gaussian.

        Args:
            tangent: ``[..., A]`` each, a change of mean and log-deviation.

        Returns:
            ``[..., A]`` each, 0 in padded dimensions.
        """
        return self.base.fisher(tangent)


Distribution = Categorical | Gaussian | TanhGaussian
"""Any of the distributions; all have the same methods."""


def make_distribution(
    head: Array | tuple[Array, Array], obs: Observation, bounds: tuple[Array, Array] | None
) -> Distribution:
    """Returns the distribution that the output of a policy network stands for.

    Args:
        head: logits ``[..., A]`` of discrete actions, or ``(mean, log_std)`` of continuous ones:
            mean ``[..., A]``, log_std of a shape that broadcasts to it.
        obs: the observation, whose ``action_mask`` ``[..., A]`` marks the legal actions, or the
            dimensions that exist.
        bounds: ``(low, high)``, ``[A]`` each, of continuous actions; None when they are unbounded.

    Returns:
        A `Categorical` for logits; else a `TanhGaussian`, or a `Gaussian` without bounds.

    Example:
        Two agents, one of which has no second dimension; actions between 0 and 4:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import distributions
        >>> from jaxmarl_lite.types import Observation
        >>> obs = Observation(
        ...     agents_view=jnp.zeros((2, 3)), global_state=jnp.zeros(5),
        ...     action_mask=jnp.array([[True, True], [True, False]]), alive=jnp.ones(2, bool),
        ... )
        >>> head = jnp.zeros((2, 2)), jnp.zeros(2)
        >>> bounds = jnp.array([0.0, 0.0]), jnp.array([4.0, 4.0])
        >>> pi = distributions.make_distribution(head, obs, bounds)
        >>> print(type(pi).__name__, pi.mode().tolist())
        TanhGaussian [[2.0, 2.0], [2.0, 0.0]]
        >>> print(type(distributions.make_distribution(head, obs, None)).__name__)
        Gaussian
        >>> pi = distributions.make_distribution(jnp.array([[0.0, 1.0], [0.0, 1.0]]), obs, None)
        >>> print(type(pi).__name__, pi.mode().tolist())
        Categorical [1, 0]
    """
    if not isinstance(head, tuple):
        return categorical(head, obs.action_mask)
    mean, log_std = head
    base = Gaussian(mean, jnp.broadcast_to(log_std, mean.shape), obs.action_mask)
    if bounds is None:
        return base
    low, high = (jnp.broadcast_to(bound, mean.shape) for bound in bounds)
    return TanhGaussian(base, low, high)


def from_params(
    values: Array | tuple[Array, Array], obs: Observation, bounds: tuple[Array, Array] | None
) -> Distribution:
    """Returns the distribution whose method ``params`` gives these values.

    Args:
        values: log-probabilities ``[..., A]``, which are not normalized again, or
            ``(mean, log_std)``, ``[..., A]`` each.
        obs: the observation, as in `make_distribution`.
        bounds: the bounds of continuous actions, as in `make_distribution`.

    Returns:
        A distribution of the kind that `make_distribution` returns.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import distributions
        >>> from jaxmarl_lite.types import Observation
        >>> obs = Observation(
        ...     agents_view=jnp.zeros((1, 3)), global_state=jnp.zeros(5),
        ...     action_mask=jnp.array([[True, True]]), alive=jnp.ones(1, bool),
        ... )
        >>> pi = distributions.make_distribution(jnp.array([[0.0, 1.0]]), obs, None)
        >>> copy = distributions.from_params(pi.params(), obs, None)
        >>> print(pi.kl(copy))
        [0.]
    """
    if not isinstance(values, tuple):
        mask = obs.action_mask | ~obs.action_mask.any(-1, keepdims=True)
        return Categorical(values, mask)
    return make_distribution(values, obs, bounds)
