"""One agent's step in a trust region, under limits on K costs (K = 0: none).

    max_x g·x   subject to   c_k + b_k·x <= 0,   ½ x·Hx <= δ;      θ_new = θ + βʲ x, the first j that is acceptable

g and b_k are the gradients of the surrogates ``E[ρ A]`` and ``E[ρ A_k]``, H the Fisher matrix of the policy
(`maths.trust_region`, `maths.constrained`). ``p_k = √(2δ b_k·H⁻¹b_k)`` is the most by which a step can lower a cost in
this model, and the noise of a batch alone makes it positive: a share μ_k of it may be doubted, with ``c_k + μ_k p_k``
in the place of c_k (0 in the paper).

The line search asks of the policy itself, not of its models, that the mean KL divergence is at most δ, that the reward
surrogate grows by a share of what its gradient promises (unless a limit is broken: then what it costs to meet it is
paid), that the total violation ``Σ_k max(0, c_k + gain of the k-th cost's surrogate)`` falls by the same share of what
is promised, and that no limit that is kept gets broken. In a recovery the last is not asked, for the least total
violation may lie where one more limit is broken a little; totals are in cost per step, whatever the costs are.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, models, ppo, settings, turns
from jaxmarl_lite.maths import constrained, surrogates, trees, trust_region
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.nets.distributions import Distribution
from jaxmarl_lite.types import Array, Number, Observation, PyTree

_CASES = ("recovery", "violated", "cut", "inside", "free")
_ROWS = 1500  # samples whose activations fit a core's cache


@configs.config_record
class TrustRegionConfig(settings.CriticConfig):
    """Settings of a step in a trust region; ``epochs`` and ``num_minibatches`` are the critics'."""

    epochs: int = 4
    """Passes of the critics over each batch."""
    normalise_value: bool = False
    """Let the critics predict returns standardised by their running moments (Yu et al. 2022)."""
    delta: float = 0.01
    """Radius of the trust region: the mean KL divergence that a step may reach, in nats."""
    damping: float = 0.1
    """Multiple of the identity that is added to the Fisher matrix."""
    cg_iterations: int = 10
    """Most iterations of conjugate gradients."""
    cg_tolerance: float = 0.01
    """Relative residual at which conjugate gradients end."""
    cg_worst: float = 10.0
    """Relative residual beyond which a step is refused; the step is exact among what was found, converged or not."""
    backtrack: float = 0.5
    """Factor between two tries of the line search."""
    tries: int = 10
    """Most tries of the line search."""
    first_fraction: float = 1.0
    """Share of the whole step that the line search tries first."""
    max_step_norm: float = 0.0
    """Longest step, in the Euclidean norm of the weights; 0 for none."""
    accept_ratio: float = 0.1
    """Share of the promised gain that the surrogate must reach."""
    fisher_stride: int = 1
    """Fisher products take every n-th world."""
    critic_view: Literal["own", "state"] = "state"
    """What the critics see: the agent's own view or the state."""
    share_weights: bool = False
    """Agents that move in turn have one set of weights each."""

    retired: ClassVar[tuple[str, ...]] = ("lr", "clip", "entropy_coef")
    """Fields that earlier versions stored, and that never had an effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        turns.check_own_weights(self)
        configs.check_range(
            self,
            delta=(1e-9, 10),
            damping=(0, 10),
            cg_tolerance=(0, 1),
            cg_worst=(0, 1e3),
            backtrack=(0.01, 0.99),
            accept_ratio=(0, 1),
            first_fraction=(1e-6, 1),
            max_step_norm=(0, 1e9),
        )
        configs.check_unused(self, ("backtrack",), self.tries == 1, "with tries 1")


class Problem(NamedTuple):
    """What one agent's step is to achieve."""

    data: ppo.PolicyData  # [T, B, ...] of one agent; log_prob [T, B], or [T, B, A] for a ratio per dimension
    memory: PyTree  # its policy's, [B, ...]
    advantage: Array  # [T, B] of the reward, with the ratios of those who moved before; or [T, B, A]
    cost_advantage: Array  # [K, T, B] or [K, T, B, A]
    violation: Array  # [K] c: cost less limit, in the unit of the cost surrogate; positive where broken
    doubt: Array | float = 0.0  # [K] μ: share of the most that a step can promise of each cost that is not counted on


def policy_step(
    actor: models.Actor, theta: PyTree, problem: Problem, config: TrustRegionConfig
) -> tuple[PyTree, dict[str, Array]]:
    """The new weights, and how the step went.

    Where a curvature was not positive, where conjugate gradients left more than ``cg_worst`` of a right-hand side, or
    where the direction is not finite, the step is refused, and theta stays.
    """
    data = problem.data
    old = actor.unroll(theta, problem.memory, data.obs, data.first)
    objectives = functools.partial(_surrogates, actor, problem)
    start, pull, _ = jax.vjp(objectives, theta, has_aux=True)
    (gradients,) = jax.vmap(pull)(jnp.eye(len(start), dtype=start.dtype))
    product = fisher(actor, theta, data, problem.memory, config)
    solved = trust_region.conjugate_gradient(product, gradients, config.cg_iterations, config.cg_tolerance)
    g, b = trees.split(gradients)
    _, of_costs = trees.split(solved.x)
    promise = jnp.sqrt(jnp.maximum(2.0 * config.delta * jax.vmap(trees.dot)(b, of_costs), 0.0))
    c = problem.violation + problem.doubt * promise
    images = jax.tree.map(jnp.subtract, gradients, solved.residual)
    step = constrained.step_in_span(g, b, c, solved.x, images, config.delta)
    direction = _shortened(step.direction, config.max_step_norm)
    worst = solved.relative_residual.max()
    sound = solved.positive.all() & (worst <= config.cg_worst) & trees.all_finite(direction)
    broken = jnp.maximum(c, 0.0).sum()

    def judge(candidate: PyTree) -> tuple[Array, _Judged]:
        reached, pi = objectives(candidate)
        kl = moments_of.masked_mean(old.kl(pi), data.obs.alive)  # type: ignore[arg-type]
        gained, x = reached - start, trees.axpy(-1.0, theta, candidate)
        better = (gained[0] > 0.0) & (gained[0] >= config.accept_ratio * trees.dot(g, x))
        promised = broken - jnp.maximum(c + trees.products(b, x), 0.0).sum()
        keeps = jnp.maximum(c + gained[1:], 0.0).sum() <= broken - config.accept_ratio * jnp.maximum(promised, 0.0)
        keeps &= ((c > 0.0) | (c + gained[1:] <= 0.0)).all() | (step.case == constrained.RECOVERY)
        fine = sound & (kl <= config.delta) & (better | (step.case <= constrained.VIOLATED)) & keeps
        return fine, _Judged(kl, gained)

    found = trust_region.backtrack(judge, theta, direction, config.backtrack, config.tries, config.first_fraction)
    info = _of_solutions(solved, worst) | _of_search(found, start) | _of_step(step)
    info |= {
        "policy_grad_norm": trees.norm(g),
        "entropy": moments_of.masked_mean(old.entropy(), data.obs.alive),
    }
    return found.theta, info


class _Judged(NamedTuple):
    """What the search found of its last try."""

    kl: Array  # []
    gained: Array  # [1 + K] growth of the surrogates


def _surrogates(actor: models.Actor, problem: Problem, theta: PyTree) -> tuple[Array, Distribution]:
    """``E[ρ A]`` of the reward and the costs, ``[1 + K]``, and the policy."""
    data, alive = problem.data, problem.data.obs.alive
    by_dimension = data.log_prob.ndim > alive.ndim
    pi = actor.unroll(theta, problem.memory, data.obs, data.first)
    ratio = surrogates.importance_ratio(log_prob(pi, data.action, by_dimension), data.log_prob)

    def surrogate(advantage: Array) -> Array:
        gain = ratio * advantage
        return moments_of.masked_mean(gain.sum(-1) if by_dimension else gain, alive)

    return jax.vmap(surrogate)(jnp.concatenate([problem.advantage[None], problem.cost_advantage])), pi


def _shortened(step: PyTree, longest: Number) -> PyTree:
    """The step, no longer than ``longest``; 0 for any length."""
    length = trees.norm(step)
    too_long = (longest > 0) & (length > longest)
    return trees.scale(jnp.where(too_long, longest / jnp.where(too_long, length, 1.0), 1.0), step)


def _of_solutions(solved: trust_region.Solutions, worst: Array) -> dict[str, Array]:
    return {
        "cg_residual": worst,
        "cg_iterations": solved.iterations.max().astype(worst.dtype),
        "curvature_positive": solved.positive.all().astype(worst.dtype),
    }


def _of_search(found: trust_region.Search, start: Array) -> dict[str, Array]:
    """Of the step that was taken; zeros where none was."""
    gained = jnp.where(found.accepted, found.found.gained, 0.0)
    info = {
        "kl": jnp.where(found.accepted, found.found.kl, 0.0),
        "surrogate_gain": gained[0],
        "policy_loss": -(start[0] + gained[0]),
        "step_accepted": found.accepted.astype(start.dtype),
        "step_fraction": found.fraction,
        "line_search_tries": found.tries.astype(start.dtype),
    }
    return info | ({"cost_surrogate_gain": gained[1:]} if len(start) > 1 else {})


def _of_step(step: constrained.ConstrainedStep) -> dict[str, Array]:
    """Of the whole step, before the search."""
    info = {"predicted_gain": step.gain}
    if len(step.multipliers):
        cases = {f"case_{name}": (step.case == i).astype(step.gain.dtype) for i, name in enumerate(_CASES)}
        info |= {"step_multiplier": step.multipliers} | cases
    return info


def log_prob(pi: Distribution, action: Array, by_dimension: bool) -> Array:
    """log π(u), ``[T, B]``, or its terms by dimension of the action, ``[T, B, A]``."""
    return pi.log_prob_terms(action) if by_dimension else pi.log_prob(action)


def fisher(
    actor: models.Actor, theta: PyTree, data: ppo.PolicyData, memory: PyTree, config: TrustRegionConfig
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
