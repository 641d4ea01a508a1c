"""One agent's step in a trust region, under limits on K costs (K = 0: none).

    max_x g·x   subject to   c_k + b_k·x <= 0,   ½ x·Hx <= δ;      θ_new = θ + βʲ x, the first j that is acceptable

g and b_k are the gradients of the surrogates ``E[ρ A]`` and ``E[ρ A_k]``, H the Fisher matrix of the policy
(`maths.trust_region`, `maths.constrained`). The line search asks of the policy itself, not of its models, that the mean
KL divergence is at most δ, that the reward surrogate grows by a share of what its gradient promises (unless limits are
being recovered), and that no cost surrogate grows beyond what its limit leaves.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import models, ppo
from jaxmarl_lite.maths import constrained, trees, trust_region
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.nets.distributions import Distribution
from jaxmarl_lite.types import Array, Observation, PyTree

_ROWS = 2048  # samples whose activations fit a core's cache


class TrustConfig(Protocol):
    """The settings that a step needs; see `hatrpo.HATRPOConfig` for their meanings."""

    delta: Any
    damping: Any
    cg_iterations: int
    cg_tolerance: Any
    cg_worst: Any
    backtrack: Any
    tries: int
    accept_ratio: Any
    fisher_stride: int


class Problem(NamedTuple):
    """What one agent's step is to achieve."""

    data: ppo.PolicyData  # [T, B, ...] of one agent
    memory: PyTree  # its policy's, [B, ...]
    advantage: Array  # [T, B] of the reward, with the ratios of those who moved before
    cost_advantage: Array  # [K, T, B]
    violation: Array  # [K] c: cost less limit, in the unit of the cost surrogate; positive where broken


def policy_step(
    actor: models.Actor, theta: PyTree, problem: Problem, config: TrustConfig
) -> tuple[PyTree, Array, dict[str, Array]]:
    """The new weights, the log-ratio of the actions taken ``[T, B]``, and how the step went.

    Where a curvature was not positive, where conjugate gradients left more than ``cg_worst`` of a right-hand side, or
    where the direction is not finite, the step is refused, and theta stays.
    """
    data, alive = problem.data, problem.data.obs.alive
    everyone = jnp.concatenate([problem.advantage[None], problem.cost_advantage])
    old = actor.unroll(theta, problem.memory, data.obs, data.first)

    def surrogates(theta: PyTree) -> tuple[Array, Distribution]:
        pi = actor.unroll(theta, problem.memory, data.obs, data.first)
        ratio = jnp.exp(pi.log_prob(data.action) - data.log_prob)
        return jax.vmap(lambda advantage: moments_of.masked_mean(ratio * advantage, alive))(everyone), pi

    start, pull, _ = jax.vjp(surrogates, theta, has_aux=True)
    (gradients,) = jax.vmap(pull)(jnp.eye(len(start), dtype=start.dtype))
    product = fisher(actor, theta, data, problem.memory, config)
    solved = trust_region.conjugate_gradient(product, gradients, config.cg_iterations, config.cg_tolerance)
    g, b = constrained.split(gradients)
    images = jax.tree.map(jnp.subtract, gradients, solved.residual)
    step = constrained.step_in_span(g, b, problem.violation, solved.x, images, config.delta)
    worst = solved.relative_residual.max()
    sound = solved.positive.all() & (worst <= config.cg_worst) & trees.all_finite(step.direction)
    slack = jnp.maximum(-problem.violation, 0.0)

    def judge(candidate: PyTree) -> tuple[Array, tuple[Array, Array]]:
        reached, pi = surrogates(candidate)
        kl = moments_of.masked_mean(old.kl(pi), alive)  # type: ignore[arg-type]
        gained = reached - start
        promised = trees.dot(g, trees.axpy(-1.0, theta, candidate))
        better = (gained[0] > 0.0) & (gained[0] >= config.accept_ratio * promised)
        keeps = (gained[1:] <= slack).all()
        fine = sound & (kl <= config.delta) & (better | (step.case == constrained.RECOVERY)) & keeps
        return fine, (kl, gained)

    found = trust_region.backtrack(judge, theta, step.direction, config.backtrack, config.tries)
    kl, gained = found.found
    taken = found.accepted.astype(start.dtype)
    info = {
        "kl": jnp.where(found.accepted, kl, 0.0),
        "surrogate_gain": jnp.where(found.accepted, gained[0], 0.0),
        "predicted_gain": step.gain,
        "policy_loss": -jnp.where(found.accepted, start[0] + gained[0], start[0]),
        "step_accepted": taken,
        "step_fraction": found.fraction,
        "line_search_tries": found.tries.astype(start.dtype),
        "cg_residual": worst,
        "cg_iterations": solved.iterations.max().astype(start.dtype),
        "curvature_positive": solved.positive.all().astype(start.dtype),
        "policy_grad_norm": trees.norm(g),
        "entropy": moments_of.masked_mean(old.entropy(), alive),
    }
    if len(problem.violation):
        info |= {
            "step_case": step.case.astype(start.dtype),
            "cost_surrogate_gain": jnp.where(found.accepted, gained[1:], 0.0),
            "step_multiplier": step.multipliers,
        }
    log_ratio = actor.unroll(found.theta, problem.memory, data.obs, data.first).log_prob(data.action) - data.log_prob
    return found.theta, log_ratio, info


def fisher(
    actor: models.Actor, theta: PyTree, data: ppo.PolicyData, memory: PyTree, config: TrustConfig
) -> trust_region.Product:
    """Products with the Fisher matrix of one agent's policy, mean over the samples in which it lives."""
    stride = config.fisher_stride

    def worlds(x: Array, axis: int) -> Array:
        return jax.lax.slice_in_dim(x, 0, None, stride, axis)

    samples = jax.tree.map(lambda x: worlds(x, 1), (data.obs, data.first))
    memory = jax.tree.map(lambda x: worlds(x, 0), memory)
    steps, num_envs = samples[1].shape
    number = parts_of(steps, num_envs)

    def dealt(x: Array, axis: int) -> Array:  # neighbours to different parts, so that worlds stay on their devices
        groups = x.reshape(*x.shape[:axis], num_envs // number, number, *x.shape[axis + 1 :])
        return jnp.moveaxis(groups, axis + 1, 0)

    parts = jax.tree.map(lambda x: dealt(x, 1), samples), jax.tree.map(lambda x: dealt(x, 0), memory)
    total = jnp.maximum(samples[0].alive.sum(), 1)

    def pi(weights: PyTree, part: Any) -> Distribution:
        (obs, first), memory = part
        return actor.unroll(weights, memory, obs, first)

    def metric(values: PyTree, tangent: PyTree, part: Any) -> PyTree:
        obs: Observation = part[0][0]
        weight = obs.alive / total
        return jax.tree.map(lambda x: x * weight[..., None], actor.of_parameters(values, obs).fisher(tangent))

    return trust_region.fisher_product(
        lambda weights, part: pi(weights, part).parameters(), metric, theta, parts, config.damping
    )


def parts_of(num_steps: int, num_envs: int) -> int:
    """Into how many groups of worlds the samples are taken, so that one fits the cache; 1 on an accelerator."""
    if jax.default_backend() != "cpu":
        return 1
    fitting = [n for n in range(1, num_envs + 1) if num_envs % n == 0 and num_steps * num_envs // n >= _ROWS]
    return max(fitting, default=1)
