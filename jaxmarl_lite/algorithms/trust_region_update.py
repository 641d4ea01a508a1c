"""One agent's step in a trust region, under limits on K costs (K = 0: none).

    max_x g·x   subject to   c_k + b_k·x <= 0,   ½ x·Hx <= δ;      θ_new = θ + βʲ x, the first j that is acceptable

g and b_k are the gradients of the surrogates ``E[ρ A]`` and ``E[ρ A_k]``, H the Fisher matrix of
the policy (`ops.trust_region`, `ops.constrained_optimization`). ``p_k = √(2δ b_k·H⁻¹b_k)`` is the
most by which a step can lower a cost in this model, and the noise of a batch alone makes it
positive: a share μ_k of it may be doubted, with ``c_k + μ_k p_k`` in the place of c_k (0 in the
paper).

The line search asks of the policy itself, not of its models, that the mean KL divergence is at most
δ, that the reward surrogate grows by a share of what its gradient promises (unless a limit is
broken: then what it costs to meet it is paid), that the total violation ``Σ_k max(0, c_k + gain of
the k-th cost's surrogate)`` falls by the same share of what is promised, and that no limit that is
kept gets broken. In a recovery the last is not asked, for the least total violation may lie where
one more limit is broken a little; totals are in cost per step, whatever the costs are.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, ppo, sequential_update, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.ops import (
    constrained_optimization,
    running_statistics,
    surrogates,
    tree_math,
    trust_region,
)
from jaxmarl_lite.types import Array, Number, Observation, PyTree

_CASES = ("infeasible", "recoverable", "constrained", "unconstrained", "zero_cost_gradient")
_CHUNK_ROWS = 1500  # samples whose activations fit a core's cache


@base_config.config_record
class TrustRegionConfig(settings.CriticConfig):
    """Settings of a step in a trust region; ``num_epochs`` and ``num_minibatches`` are the
    critics'.
    """

    num_epochs: int = 4
    """Passes of the critics over each batch."""
    normalize_values: bool = False
    """Let the critics predict returns standardized by their running moments (Yu et al. 2022)."""
    target_kl: float = 0.01
    """Radius of the trust region: the mean KL divergence that a step may reach, in nats."""
    cg_damping: float = 0.1
    """Multiple of the identity that is added to the Fisher matrix."""
    cg_iters: int = 10
    """Most iterations of conjugate gradients."""
    cg_tol: float = 0.01
    """Relative residual at which conjugate gradients end."""
    cg_max_residual: float = 10.0
    """Relative residual beyond which a step is refused; the step is exact among what was found,
    converged or not."""
    backtrack_coeff: float = 0.5
    """Factor between two tries of the line search."""
    line_search_steps: int = 10
    """Most tries of the line search."""
    initial_step_size: float = 1.0
    """Share of the whole step that the line search tries first."""
    max_step_norm: float = 0.0
    """Longest step, in the Euclidean norm of the weights; 0 for none."""
    accept_ratio: float = 0.1
    """Share of the promised gain that the surrogate must reach."""
    fvp_stride: int = 1
    """Fisher products take every n-th world."""
    critic_input: Literal["local", "global_state"] = "global_state"
    """What the critics see: the agent's own view or the state."""
    parameter_sharing: bool = False
    """Agents that move in turn have one set of weights each."""

    retired: ClassVar[tuple[str, ...]] = ("lr", "clip_eps", "entropy_coef")
    """Fields that earlier versions stored, and that never had an effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sequential_update.check_own_weights(self)
        base_config.check_range(
            self,
            target_kl=(1e-9, 10),
            cg_damping=(0, 10),
            cg_tol=(0, 1),
            cg_max_residual=(0, 1e3),
            backtrack_coeff=(0.01, 0.99),
            accept_ratio=(0, 1),
            initial_step_size=(1e-6, 1),
            max_step_norm=(0, 1e9),
        )
        base_config.check_unused(
            self, ("backtrack_coeff",), self.line_search_steps == 1, "with line_search_steps 1"
        )


class TrustRegionProblem(NamedTuple):
    """What one agent's step is to achieve."""

    data: (
        ppo.PolicyBatch
    )  # [T, B, ...] of one agent; log_prob [T, B], or [T, B, A] for a ratio per dimension
    hidden_state: PyTree  # its policy's, [B, ...]
    advantage: (
        Array  # [T, B] of the reward, with the ratios of those who moved before; or [T, B, A]
    )
    cost_advantage: Array  # [K, T, B] or [K, T, B, A]
    violation: (
        Array  # [K] c: cost less limit, in the unit of the cost surrogate; positive where broken
    )
    pessimism: Array | float = (
        0.0  # [K] μ: share of the most that a step can promise of each cost that is not counted on
    )


def policy_step(
    actor: actor_critic.Actor, theta: PyTree, problem: TrustRegionProblem, config: TrustRegionConfig
) -> tuple[PyTree, dict[str, Array]]:
    """The new weights, and how the step went.

    Where a curvature was not positive, where conjugate gradients left more than ``cg_max_residual``
    of a right-hand side, or where the direction is not finite, the step is refused, and theta
    stays.
    """
    data = problem.data
    old = actor.unroll(theta, problem.hidden_state, data.obs, data.is_first)
    objectives = functools.partial(_surrogates, actor, problem)
    start, pull, _ = jax.vjp(objectives, theta, has_aux=True)
    (gradients,) = jax.vmap(pull)(jnp.eye(len(start), dtype=start.dtype))
    product = fisher(actor, theta, data, problem.hidden_state, config)
    solved = trust_region.conjugate_gradient(product, gradients, config.cg_iters, config.cg_tol)
    g, b = tree_math.split_first(gradients)
    _, of_costs = tree_math.split_first(solved.x)
    promise = jnp.sqrt(
        jnp.maximum(2.0 * config.target_kl * jax.vmap(tree_math.vdot)(b, of_costs), 0.0)
    )
    c = problem.violation + problem.pessimism * promise
    images = jax.tree.map(jnp.subtract, gradients, solved.residual)
    step = constrained_optimization.subspace_constrained_step(
        g, b, c, solved.x, images, config.target_kl
    )
    direction = _clip_norm(step.direction, config.max_step_norm)
    worst = solved.relative_residual.max()
    sound = (
        solved.positive_curvature.all()
        & (worst <= config.cg_max_residual)
        & tree_math.all_finite(direction)
    )
    broken = jnp.maximum(c, 0.0).sum()

    def judge(candidate: PyTree) -> tuple[Array, _TrialStats]:
        reached, pi = objectives(candidate)
        kl = running_statistics.masked_mean(old.kl(pi), data.obs.alive)  # type: ignore[arg-type]
        gained, x = reached - start, tree_math.add_scaled(-1.0, theta, candidate)
        better = (gained[0] > 0.0) & (gained[0] >= config.accept_ratio * tree_math.vdot(g, x))
        promised = broken - jnp.maximum(c + tree_math.vdots(b, x), 0.0).sum()
        keeps = jnp.maximum(
            c + gained[1:], 0.0
        ).sum() <= broken - config.accept_ratio * jnp.maximum(promised, 0.0)
        keeps &= ((c > 0.0) | (c + gained[1:] <= 0.0)).all() | (
            step.case == constrained_optimization.INFEASIBLE
        )
        fine = (
            sound
            & (kl <= config.target_kl)
            & (better | (step.case <= constrained_optimization.RECOVERABLE))
            & keeps
        )
        return fine, _TrialStats(kl, gained)

    found = trust_region.backtracking_line_search(
        judge,
        theta,
        direction,
        config.backtrack_coeff,
        config.line_search_steps,
        config.initial_step_size,
    )
    info = _cg_metrics(solved, worst) | _line_search_metrics(found, start) | _step_metrics(step)
    info |= {
        "policy_grad_norm": tree_math.norm(g),
        "entropy": running_statistics.masked_mean(old.entropy(), data.obs.alive),
    }
    return found.params, info


class _TrialStats(NamedTuple):
    """What the search found of its last try."""

    kl: Array  # []
    surrogate_improvement: Array  # [1 + K] growth of the surrogates


def _surrogates(
    actor: actor_critic.Actor, problem: TrustRegionProblem, theta: PyTree
) -> tuple[Array, Distribution]:
    """``E[ρ A]`` of the reward and the costs, ``[1 + K]``, and the policy."""
    data, alive = problem.data, problem.data.obs.alive
    per_dim_ratio = data.log_prob.ndim > alive.ndim
    pi = actor.unroll(theta, problem.hidden_state, data.obs, data.is_first)
    ratio = surrogates.importance_ratio(log_prob(pi, data.action, per_dim_ratio), data.log_prob)

    def surrogate(advantage: Array) -> Array:
        gain = ratio * advantage
        return running_statistics.masked_mean(gain.sum(-1) if per_dim_ratio else gain, alive)

    return jax.vmap(surrogate)(
        jnp.concatenate([problem.advantage[None], problem.cost_advantage])
    ), pi


def _clip_norm(step: PyTree, longest: Number) -> PyTree:
    """The step, no longer than ``longest``; 0 for any length."""
    length = tree_math.norm(step)
    too_long = (longest > 0) & (length > longest)
    return tree_math.scale(
        jnp.where(too_long, longest / jnp.where(too_long, length, 1.0), 1.0), step
    )


def _cg_metrics(solved: trust_region.CGResult, worst: Array) -> dict[str, Array]:
    return {
        "cg_residual": worst,
        "cg_iters": solved.iterations.max().astype(worst.dtype),
        "curvature_positive": solved.positive_curvature.all().astype(worst.dtype),
    }


def _line_search_metrics(found: trust_region.LineSearchResult, start: Array) -> dict[str, Array]:
    """Of the step that was taken; zeros where none was."""
    gained = jnp.where(found.accepted, found.aux.surrogate_improvement, 0.0)
    info = {
        "kl": jnp.where(found.accepted, found.aux.kl, 0.0),
        "surrogate_improvement": gained[0],
        "policy_loss": -(start[0] + gained[0]),
        "line_search_success": found.accepted.astype(start.dtype),
        "line_search_step_size": found.step_size,
        "line_search_steps": found.num_steps.astype(start.dtype),
    }
    return info | ({"cost_surrogate_change": gained[1:]} if len(start) > 1 else {})


def _step_metrics(step: constrained_optimization.ConstrainedStep) -> dict[str, Array]:
    """Of the whole step, before the search."""
    info = {"expected_improvement": step.predicted_gain}
    if len(step.cost_duals):
        cases = {
            f"case_{name}": (step.case == i).astype(step.predicted_gain.dtype)
            for i, name in enumerate(_CASES)
        }
        info |= {"cost_dual": step.cost_duals} | cases
    return info


def log_prob(pi: Distribution, action: Array, per_dim_ratio: bool) -> Array:
    """Log π(u), ``[T, B]``, or its terms by dimension of the action, ``[T, B, A]``."""
    return pi.per_dim_log_prob(action) if per_dim_ratio else pi.log_prob(action)


def fisher(
    actor: actor_critic.Actor,
    theta: PyTree,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    config: TrustRegionConfig,
) -> trust_region.Product:
    """Products with the Fisher matrix of one agent's policy, mean over the samples in which it
    lives.
    """
    stride = config.fvp_stride

    def worlds(x: Array, axis: int) -> Array:
        return jax.lax.slice_in_dim(x, 0, None, stride, axis)

    samples = jax.tree.map(lambda x: worlds(x, 1), (data.obs, data.is_first))
    hidden_state = jax.tree.map(lambda x: worlds(x, 0), hidden_state)
    steps, num_envs = samples[1].shape
    number = num_chunks(steps, num_envs)

    def dealt(
        x: Array, axis: int
    ) -> Array:  # neighbors to different parts, so that worlds stay on their devices
        groups = x.reshape(*x.shape[:axis], num_envs // number, number, *x.shape[axis + 1 :])
        return jnp.moveaxis(groups, axis + 1, 0)

    parts = (
        jax.tree.map(lambda x: dealt(x, 1), samples),
        jax.tree.map(lambda x: dealt(x, 0), hidden_state),
    )
    total = jnp.maximum(samples[0].alive.sum(), 1)

    def pi(weights: PyTree, part: Any) -> Distribution:
        (obs, first), hidden_state = part
        return actor.unroll(weights, hidden_state, obs, first)

    def metric(values: PyTree, tangent: PyTree, part: Any) -> PyTree:
        obs: Observation = part[0][0]
        weight = obs.alive / total
        return jax.tree.map(
            lambda x: x * weight[..., None], actor.from_params(values, obs).fisher(tangent)
        )

    return trust_region.fisher_vector_product(
        lambda weights, part: pi(weights, part).params(), metric, theta, parts, config.cg_damping
    )


def num_chunks(num_steps: int, num_envs: int) -> int:
    """Into how many groups of worlds the samples are taken, so that one fits the cache; 1 on an
    accelerator.
    """
    if jax.default_backend() != "cpu":
        return 1
    fitting = [
        n
        for n in range(1, num_envs + 1)
        if num_envs % n == 0 and num_steps * num_envs // n >= _CHUNK_ROWS
    ]
    return max(fitting, default=1)
