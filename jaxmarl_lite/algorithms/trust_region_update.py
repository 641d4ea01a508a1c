"""One agent's policy step in a trust region, under limits on K costs (K = 0: none).

    max_x g·x   subject to   c_k + b_k·x <= 0,   ½ x·Hx <= δ;
    θ_new = θ + βʲ x,   with the first j = 0, 1, ... that is acceptable

g and b_k are the gradients of the surrogates ``E[ρ A]`` and ``E[ρ A_k]``, and H is the Fisher
matrix of the policy (`ops.trust_region`, `ops.constrained_optimization`).

**Pessimism.** ``p_k = √(2δ b_k·H⁻¹b_k)`` is the most by which a step can lower a cost in this
model, and the noise of a batch alone makes it positive. A share μ_k of it may be discounted, with
``c_k + μ_k p_k`` in the place of c_k (0 in the paper).

**Recovery.** Where a step cannot meet a broken limit, ``c_k > p_k``, the paper's step lowers the
cost alone, as far as it can. With a recovery share s below 1, ``min(c_k + μ_k p_k, s p_k)`` stands
in the place of c_k: the step asks for a share s of that fall, and spends the rest of the trust
region on the reward. At ``s = 0.7`` both come to 0.7 of what each could have alone, for gradients
at right angles, because their squares sum to 1.

**Line search.** Its conditions are on the policy itself, not on the models of it:

- the mean KL divergence is at most δ;
- the reward surrogate grows by a share of the gain that its gradient promises, unless a limit is
  broken: then the reward may pay for meeting it;
- the total violation ``Σ_k max(0, c_k + gain of the k-th cost's surrogate)`` falls by the same
  share of the promised fall;
- no limit that is kept becomes broken. This is not required in a recovery, because the least total
  violation may lie where one more limit is broken a little.

Totals are in cost per step, whatever the costs are.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import platforms
from jaxmarl_lite.algorithms import base_config, sequential_update
from jaxmarl_lite.algorithms.gradient_update import PolicyBatch
from jaxmarl_lite.networks import actor_critic, distributions
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.ops import (
    constrained_optimization,
    jax_types,
    running_statistics,
    surrogates,
    tree_math,
    trust_region,
)
from jaxmarl_lite.types import Array, Number, Observation, PyTree

_CASES = ("infeasible", "recoverable", "constrained", "unconstrained", "zero_cost_gradient")
_CHUNK_ROWS = 1500  # samples whose activations fit a core's cache
_Chunk = tuple[tuple[Observation, Array], PyTree]
"""``((observations, marks of first steps), hidden state before the rollout)`` of some
environments."""


@base_config.config_record
class TrustRegionConfig(base_config.EpochsConfig, sequential_update.SequentialConfig):
    """Settings of a policy step in a trust region.

    ``num_epochs`` and ``num_minibatches`` are those of the critics.
    """

    target_kl: float = base_config.bounded(0.01, 1e-9, 10)
    """Radius of the trust region: the mean KL divergence that a step may reach, in nats."""
    cg_damping: float = base_config.bounded(0.1, 0, 10)
    """Multiple of the identity that is added to the Fisher matrix."""
    cg_iters: int = 10
    """Largest number of iterations of conjugate gradients."""
    cg_tol: float = base_config.bounded(0.01, 0, 1)
    """Relative residual at which conjugate gradients end."""
    cg_max_residual: float = base_config.bounded(10.0, 0, 1e3)
    """Relative residual beyond which a step is refused; the step is exact in the span of the
    solutions, converged or not."""
    backtrack_coeff: float = base_config.bounded(0.5, 0.01, 0.99)
    """Factor between two tries of the line search."""
    line_search_steps: int = 10
    """Largest number of tries of the line search."""
    initial_step_size: float = base_config.bounded(1.0, 1e-6, 1)
    """Share of the whole step that the line search tries first."""
    max_step_norm: float = base_config.bounded(0.0, 0, 1e9)
    """Longest step, in the Euclidean norm of the weights; 0 for no bound."""
    accept_ratio: float = base_config.bounded(0.1, 0, 1)
    """Share of the promised gain that the surrogate must reach."""
    fvp_stride: int = 1
    """Fisher products use every n-th environment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_unused(
            self, ("backtrack_coeff",), self.line_search_steps == 1, "with line_search_steps 1"
        )


class TrustRegionProblem(NamedTuple):
    """The data, objective and limits of one agent's step.

    Attributes:
        data: ``[T, B, ...]`` of one agent; its ``log_prob`` is ``[T, B]``, or ``[T, B, A]`` for one
            probability ratio per dimension of the action.
        hidden_state: the policy's hidden state before the rollout, ``[B, ...]``.
        advantage: ``[T, B]`` or ``[T, B, A]``, of the reward, times the ratios of the agents that
            updated earlier.
        cost_advantage: ``[K, T, B]`` or ``[K, T, B, A]``.
        violation: ``[K]`` c, cost less limit, in the unit of the cost surrogate; positive where the
            limit is broken.
        pessimism: ``[K]`` μ, share of the largest fall of each cost that a step can promise which
            is discounted, 0 to 1.
        recovery_share: ``[]`` s, largest share of that fall that is asked of a step, 0 to 1.
    """

    data: PolicyBatch
    hidden_state: PyTree
    advantage: Array
    cost_advantage: Array
    violation: Array
    pessimism: Array | float = 0.0
    recovery_share: Number = 1.0


def policy_step(
    actor: actor_critic.Actor,
    actor_params: PyTree,
    problem: TrustRegionProblem,
    config: TrustRegionConfig,
) -> tuple[PyTree, dict[str, Array]]:
    """Takes one step of a policy in its trust region.

    The step is refused, and the weights stay as they are, where a curvature was not positive, where
    conjugate gradients left more than ``cg_max_residual`` of a right-hand side, where the direction
    is not finite, and where the line search finds no acceptable step.

    Args:
        actor: the policy of one agent.
        actor_params: its weights.
        problem: the data, objective and limits.
        config: the settings of the step.

    Returns:
        The new weights, and metrics of the step.
    """
    data = problem.data
    old_policy = actor.unroll(actor_params, problem.hidden_state, data.obs, data.is_first)
    objectives = functools.partial(_surrogates, actor, problem)
    # One forward pass, then one backward pass for each of the 1 + K surrogates.
    start, pullback, _ = jax_types.vjp(objectives, actor_params, has_aux=True)
    (gradients,) = jax.vmap(pullback)(jnp.eye(len(start), dtype=start.dtype))
    fisher_product = fisher(actor, actor_params, data, problem.hidden_state, config)
    solved = trust_region.conjugate_gradient(
        fisher_product, gradients, config.cg_iters, config.cg_tol
    )
    g, b = tree_math.split_first(gradients)
    _, cost_solutions = tree_math.split_first(solved.x)
    largest_fall = jnp.sqrt(
        jnp.maximum(2.0 * config.target_kl * jax.vmap(tree_math.vdot)(b, cost_solutions), 0.0)
    )
    c = problem.violation + problem.pessimism * largest_fall
    # a share of 1 is the paper's step, which lowers the cost alone where the limit is out of reach
    share = jnp.asarray(problem.recovery_share, c.dtype)
    c = jnp.where(share < 1.0, jnp.minimum(c, share * largest_fall), c)
    # H x of the solutions x that were reached, from b - H x without a further product: the step is
    # exact in their span although conjugate gradients may end early.
    images = tree_math.map_leaves(jnp.subtract, gradients, solved.residual)
    step = constrained_optimization.subspace_constrained_step(
        g, b, c, solved.x, images, config.target_kl
    )
    direction = _clip_norm(step.direction, config.max_step_norm)
    largest_residual = solved.relative_residual.max()
    is_sound = (
        solved.positive_curvature.all()
        & (largest_residual <= config.cg_max_residual)
        & tree_math.all_finite(direction)
    )
    total_violation = jnp.maximum(c, 0.0).sum()

    def accept(candidate: PyTree) -> tuple[Array, _TrialStats]:
        surrogate, new_policy = objectives(candidate)
        kl = running_statistics.masked_mean(
            old_policy.kl(new_policy),  # type: ignore[arg-type]
            data.obs.alive,
        )
        gains, x = surrogate - start, tree_math.add_scaled(-1.0, actor_params, candidate)
        reward_grows = (gains[0] > 0.0) & (gains[0] >= config.accept_ratio * tree_math.vdot(g, x))
        promised_fall = total_violation - jnp.maximum(c + tree_math.vdots(b, x), 0.0).sum()
        violation_falls = jnp.maximum(
            c + gains[1:], 0.0
        ).sum() <= total_violation - config.accept_ratio * jnp.maximum(promised_fall, 0.0)
        limits_hold = violation_falls & (
            ((c > 0.0) | (c + gains[1:] <= 0.0)).all()
            | (step.case == constrained_optimization.INFEASIBLE)
        )
        # RECOVERABLE and INFEASIBLE: a limit is broken, so that the reward may fall.
        acceptable = (
            is_sound
            & (kl <= config.target_kl)
            & (reward_grows | (step.case <= constrained_optimization.RECOVERABLE))
            & limits_hold
        )
        return acceptable, _TrialStats(kl, gains)

    search = trust_region.backtracking_line_search(
        accept,
        actor_params,
        direction,
        config.backtrack_coeff,
        config.line_search_steps,
        config.initial_step_size,
    )
    info = _metrics(solved, step, search, start) | {
        "cg_residual": largest_residual,
        "policy_grad_norm": tree_math.norm(g),
        "entropy": running_statistics.masked_mean(old_policy.entropy(), data.obs.alive),
    }
    return search.params, info


class _TrialStats(NamedTuple):
    """The quantities of the line search's last try.

    Attributes:
        kl: ``[]``, mean KL divergence from the old policy, in nats.
        surrogate_improvement: ``[1 + K]``, growth of the surrogates.
    """

    kl: Array
    surrogate_improvement: Array


def _surrogates(
    actor: actor_critic.Actor, problem: TrustRegionProblem, actor_params: PyTree
) -> tuple[Array, Distribution]:
    """Computes ``E[ρ A]`` of the reward and the costs, ``[1 + K]``, and the policy."""
    data, alive = problem.data, problem.data.obs.alive
    per_dim_ratio = data.log_prob.ndim > alive.ndim
    pi = actor.unroll(actor_params, problem.hidden_state, data.obs, data.is_first)
    ratio = surrogates.importance_ratio(log_prob(pi, data.action, per_dim_ratio), data.log_prob)

    def surrogate(advantage: Array) -> Array:
        gain = ratio * advantage
        return running_statistics.masked_mean(gain.sum(-1) if per_dim_ratio else gain, alive)

    return jax.vmap(surrogate)(
        jnp.concatenate([problem.advantage[None], problem.cost_advantage])
    ), pi


def _clip_norm(step: PyTree, max_norm: Number) -> PyTree:
    """Returns the step, shortened to ``max_norm`` where it is longer; 0 for no bound."""
    length = tree_math.norm(step)
    too_long = (max_norm > 0) & (length > max_norm)
    return tree_math.scale(
        jnp.where(too_long, max_norm / jnp.where(too_long, length, 1.0), 1.0), step
    )


def _metrics(
    solved: trust_region.CGResult,
    step: constrained_optimization.ConstrainedStep,
    search: trust_region.LineSearchResult,
    start: Array,
) -> dict[str, Array]:
    """Returns metrics of conjugate gradients, of the whole step, and of the step that was taken.

    Without an accepted step its gains and its KL are 0. ``start`` are the surrogates before it.
    """
    dtype, gains = start.dtype, jnp.where(search.accepted, search.aux.surrogate_improvement, 0.0)
    info = {
        "cg_iters": solved.iterations.max().astype(dtype),
        "curvature_positive": solved.positive_curvature.all().astype(dtype),
        "expected_improvement": step.predicted_gain,
        "kl": jnp.where(search.accepted, search.aux.kl, 0.0),
        "surrogate_improvement": gains[0],
        "policy_loss": -(start[0] + gains[0]),
        "line_search_success": search.accepted.astype(dtype),
        "line_search_step_size": search.step_size,
        "line_search_steps": search.num_steps.astype(dtype),
    }
    if len(step.cost_duals):
        info |= {"cost_surrogate_change": gains[1:], "cost_dual": step.cost_duals}
        info |= {f"case_{name}": (step.case == i).astype(dtype) for i, name in enumerate(_CASES)}
    return info


def log_prob(pi: Distribution, action: Array, per_dim_ratio: bool) -> Array:
    """Computes log π(u), or its terms by dimension of the action.

    Args:
        pi: the distributions of a rollout, ``[T, B]``.
        action: ``[T, B]`` int or ``[T, B, A]`` float.
        per_dim_ratio: whether the terms are returned.

    Returns:
        ``[T, B]``, or ``[T, B, A]`` with ``per_dim_ratio`` (``[T, B, 1]`` for discrete actions), in
        nats.
    """
    return pi.per_dim_log_prob(action) if per_dim_ratio else pi.log_prob(action)


def fisher(
    actor: actor_critic.Actor,
    actor_params: PyTree,
    data: PolicyBatch,
    hidden_state: PyTree,
    config: TrustRegionConfig,
) -> trust_region.Product:
    """Returns the product with the Fisher matrix of one agent's policy.

    The matrix is the mean over the samples in which the agent is alive, of every
    ``fvp_stride``-th environment, plus the damping.

    Args:
        actor: the policy of one agent.
        actor_params: its weights.
        data: the agent's rollout, ``[T, B, ...]``.
        hidden_state: the policy's hidden state before the rollout, ``[B, ...]``.
        config: the settings of the step.

    Returns:
        ``v -> H v``, where v has the structure of ``actor_params``.
    """
    num_steps, num_envs = data.is_first.shape
    num_envs = -(-num_envs // config.fvp_stride)
    chunk_count = num_chunks(num_steps, num_envs)

    def to_chunks(x: Array, axis: int) -> Array:
        x = jax.lax.slice_in_dim(x, 0, None, config.fvp_stride, axis)
        # Neighbors go to different chunks, so that environments stay on their devices.
        groups = x.reshape(
            *x.shape[:axis], num_envs // chunk_count, chunk_count, *x.shape[axis + 1 :]
        )
        return jnp.moveaxis(groups, axis + 1, 0)

    chunks = (
        tree_math.map_leaves(lambda x: to_chunks(x, 1), (data.obs, data.is_first)),
        tree_math.map_leaves(lambda x: to_chunks(x, 0), hidden_state),
    )
    num_alive = jnp.maximum(chunks[0][0].alive.sum(), 1)

    def distribution_params(params: PyTree, chunk: _Chunk) -> PyTree:
        (obs, is_first), hidden_state = chunk
        return actor.unroll(params, hidden_state, obs, is_first).params()

    def weighted_fisher(dist_params: PyTree, tangent: PyTree, chunk: _Chunk) -> PyTree:
        (obs, _), _ = chunk
        weight = obs.alive / num_alive
        pi = distributions.from_params(dist_params, obs, actor.bounds)
        return tree_math.map_leaves(lambda x: x * weight[..., None], pi.fisher(tangent))

    return trust_region.fisher_vector_product(
        distribution_params, weighted_fisher, actor_params, chunks, config.cg_damping
    )


def num_chunks(num_steps: int, num_envs: int) -> int:
    """Returns the number of groups into which the environments are divided for Fisher products.

    On a CPU one group should fit the cache; on an accelerator all environments are one group.

    Args:
        num_steps: number of steps, T.
        num_envs: number of environments, B.

    Returns:
        A divisor of ``num_envs``.
    """
    if platforms.current() != "cpu":
        return 1
    # The smallest groups that still have enough samples.
    candidates = [
        n
        for n in range(1, num_envs + 1)
        if num_envs % n == 0 and num_steps * num_envs // n >= _CHUNK_ROWS
    ]
    return max(candidates, default=1)
