"""Action distributions with closed-form entropy and KL, masked exactly.

A masked action, or a padded dimension, has probability zero, adds zero to log-probability, entropy
and KL, and receives zero gradient. All quantities are in nats and have the batch axes ``[...]`` of
the parameters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, Observation

_LOG_2PI = math.log(2.0 * math.pi)


class Categorical(NamedTuple):
    """Choice among ``A`` actions of which some may be illegal."""

    logits: Array  # [..., A] normalized log-probabilities; very negative where illegal
    mask: Array  # [..., A] bool

    def sample(self, key: Array) -> Array:
        """``[...]`` int: one action, never an illegal one."""
        return jax.random.categorical(key, jnp.where(self.mask, self.logits, -jnp.inf)).astype(
            jnp.int32
        )

    def mode(self) -> Array:
        """``[...]`` int: the likeliest legal action."""
        return jnp.argmax(jnp.where(self.mask, self.logits, -jnp.inf), -1).astype(jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Log π(u)."""
        return jnp.take_along_axis(self.logits, action[..., None], -1)[..., 0]

    def per_dim_log_prob(self, action: Array) -> Array:
        """``[..., 1]``: `log_prob` by dimension of the action, of which there is one."""
        return self.log_prob(action)[..., None]

    def entropy(self) -> Array:
        """-Σ π log π over the legal actions."""
        return -jnp.sum(jnp.where(self.mask, jnp.exp(self.logits) * self.logits, 0.0), -1)

    def kl(self, other: Categorical) -> Array:
        """KL(self || other)."""
        return jnp.sum(
            jnp.where(self.mask, jnp.exp(self.logits) * (self.logits - other.logits), 0.0), -1
        )

    def params(self) -> Array:
        """What `fisher` is a matrix in: the log-probabilities."""
        return self.logits

    def fisher(self, tangent: Array) -> Array:
        """F t = π ⊙ t, the Hessian of the KL divergence in the log-probabilities along tangents
        that keep their sum.
        """
        return jnp.where(self.mask, jnp.exp(self.logits) * tangent, 0.0)


def categorical(logits: Array, mask: Array) -> Categorical:
    """Masked categorical; where no action is legal (an agent that is out of play) all are treated
    as legal.
    """
    mask = mask | ~mask.any(-1, keepdims=True)
    shift = jax.lax.stop_gradient(jnp.max(jnp.where(mask, logits, -jnp.inf), -1, keepdims=True))
    shifted = jnp.where(mask, logits - shift, 0.0)
    total = jnp.sum(jnp.where(mask, jnp.exp(shifted), 0.0), -1, keepdims=True)
    return Categorical(jnp.where(mask, shifted - jnp.log(total), -1e9), mask)


class Gaussian(NamedTuple):
    """Independent normals, one a dimension; ``mask`` marks the dimensions that exist."""

    mean: Array  # [..., A]
    log_std: Array  # [..., A]
    mask: Array  # [..., A] bool

    def sample(self, key: Array) -> Array:
        """``[..., A]``; 0 in padded dimensions."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return jnp.where(self.mask, self.mean + jnp.exp(self.log_std) * noise, 0.0)

    def mode(self) -> Array:
        """The mean."""
        return jnp.where(self.mask, self.mean, 0.0)

    def log_prob(self, action: Array) -> Array:
        """Σ_d -(u_d - μ_d)²/2σ_d² - log σ_d - ½ log 2π."""
        return self.per_dim_log_prob(action).sum(-1)

    def per_dim_log_prob(self, action: Array) -> Array:
        """``[..., A]``: `log_prob` by dimension of the action."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.where(self.mask, -0.5 * z**2 - self.log_std - 0.5 * _LOG_2PI, 0.0)

    def entropy(self) -> Array:
        """Σ_d log σ_d + ½ (1 + log 2π)."""
        return jnp.sum(jnp.where(self.mask, self.log_std + 0.5 * (1.0 + _LOG_2PI), 0.0), -1)

    def kl(self, other: Gaussian) -> Array:
        """KL(self || other) = Σ_d log σ'/σ + (σ² + (μ - μ')²) / 2σ'² - ½."""
        ratio = jnp.exp(2.0 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        terms = other.log_std - self.log_std + 0.5 * (ratio + shift - 1.0)
        return jnp.sum(jnp.where(self.mask, terms, 0.0), -1)

    def params(self) -> tuple[Array, Array]:
        """What `fisher` is a matrix in: mean and log-deviation."""
        return self.mean, self.log_std

    def fisher(self, tangent: tuple[Array, Array]) -> tuple[Array, Array]:
        """F (t_μ, t_log σ) = (t_μ / σ², 2 t_log σ), the Hessian of the KL divergence."""
        mean, log_std = tangent
        return (
            jnp.where(self.mask, mean * jnp.exp(-2.0 * self.log_std), 0.0),
            jnp.where(self.mask, 2.0 * log_std, 0.0),
        )


class TanhGaussian(NamedTuple):
    """A `Gaussian` squeezed into ``[low, high]``, u = low + (high - low) (tanh x + 1)/2, and cut
    short of either end.

    What lies beyond a cut is played as the end, a hair inside: there an action has the whole tail's
    probability, no density.
    """

    base: Gaussian
    low: Array  # [..., A]
    high: Array  # [..., A]

    # Within this of ±1, tanh x could not be inverted in float32. A density of the x that comes back
    # would be that of another action, and where the mean is far out, ratios of such densities grow
    # without bound.
    SATURATION_EPS = 1e-5

    def _squash(self, x: Array) -> Array:
        y = jnp.tanh(x)
        y = jnp.where(
            jnp.abs(y) > 1.0 - self.SATURATION_EPS,
            jnp.sign(y) * (1.0 - 0.125 * self.SATURATION_EPS),
            y,
        )
        return jnp.where(self.base.mask, self.low + 0.5 * (self.high - self.low) * (y + 1.0), 0.0)

    def sample(self, key: Array) -> Array:
        """``[..., A]`` inside the bounds; 0 in padded dimensions."""
        return self._squash(self.base.sample(key))

    def mode(self) -> Array:
        """The squeezed mean (the median; a squeezed Gaussian's mode has no closed form)."""
        return self._squash(self.base.mode())

    def log_prob(self, action: Array) -> Array:
        """Σ_d log N(x_d) - log du_d/dx_d, x the artanh of the action brought to [-1, 1]; or log
        P(beyond the cut).
        """
        return self.per_dim_log_prob(action).sum(-1)

    def per_dim_log_prob(self, action: Array) -> Array:
        """``[..., A]``: `log_prob` by dimension of the action."""
        half, mask, highest = (
            0.5 * (self.high - self.low),
            self.base.mask,
            1.0 - self.SATURATION_EPS,
        )
        y = (action - self.low) / half - 1.0
        x = jnp.where(mask, jnp.arctanh(jnp.clip(y, -highest, highest)), 0.0)
        # log(1 - tanh²x) = 2 (log 2 - x - softplus(-2x)), without cancellation
        slope = jnp.log(half) + 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))
        inside = self.base.per_dim_log_prob(x) - jnp.where(mask, slope, 0.0)
        out = jnp.sign(y) * self.base.mean - math.atanh(highest)
        tail = jax.scipy.special.log_ndtr(out * jnp.exp(-self.base.log_std))
        return jnp.where(mask & (jnp.abs(y) > 1.0 - 0.5 * self.SATURATION_EPS), tail, inside)

    def entropy(self) -> Array:
        """The entropy of the Gaussian before the squeeze: the squeezed one has no closed form, and
        an estimate by one sample would make the loss random.
        """
        return self.base.entropy()

    def kl(self, other: TanhGaussian) -> Array:
        """KL of the Gaussians: a bijection leaves it as it was, and a cut only makes it smaller."""
        return self.base.kl(other.base)

    def params(self) -> tuple[Array, Array]:
        """Those of the Gaussian."""
        return self.base.params()

    def fisher(self, tangent: tuple[Array, Array]) -> tuple[Array, Array]:
        """That of the Gaussian."""
        return self.base.fisher(tangent)


Distribution = Categorical | Gaussian | TanhGaussian


def make_distribution(
    head: Array | tuple[Array, Array], obs: Observation, bounds: tuple[Array, Array] | None
) -> Distribution:
    """The distribution that a policy network's output stands for.

    Args:
        head: logits ``[..., A]``, or ``(mean, log_std)`` when actions are continuous.
        obs: whose mask ``[..., A]`` says what is legal or exists.
        bounds: ``(low, high)``, ``[A]`` each, of continuous actions, or None when they are
    unbounded.
    """
    if not isinstance(head, tuple):
        return categorical(head, obs.action_mask)
    mean, log_std = head
    base = Gaussian(mean, jnp.broadcast_to(log_std, mean.shape), obs.action_mask)
    if bounds is None:
        return base
    low, high = (jnp.broadcast_to(bound, mean.shape) for bound in bounds)
    return TanhGaussian(base, low, high)


def from_params(values: Array | tuple[Array, Array], obs: Observation, bounds: Any) -> Distribution:
    """The distribution of which `params` gave these values; arguments as in `make_distribution`."""
    if not isinstance(values, tuple):
        mask = obs.action_mask | ~obs.action_mask.any(-1, keepdims=True)
        return Categorical(values, mask)
    return make_distribution(values, obs, bounds)
