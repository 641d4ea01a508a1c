"""MAPPO-Lagrangian: HAPPO on an advantage from which each cost is taken at a price that moves (Gu
et al. 2021).

    A^(λ) = A - Σ_k λ_k A_k,     λ_k <- max(0, λ_k + α d_k)

``A`` is the team's advantage, ``A_k`` the agent's own of its own k-th cost, and ``d_k`` the cost of
the latest episodes less the limit (`costs`). Agents move in turn, the ratios of those before them
multiplying A^(λ) as a whole (section 4.3), or all at once. The prices λ, one per agent and cost,
move once an update. With λ held at 0 it is HAPPO.

In the authors' program one price per agent moves by 1e-7 times the violation at every minibatch: it
is in effect a constant. Departures, each a setting: the price also answers to the present
violation, by the gain κ, because a price that only sums violations up swings around its place
(Stooke et al. 2020); A^(λ) is divided by one plus the sum of the prices; and prices are by default
relative, ``λ_k = μ_k σ(A)/σ(A_k)``, with violations as ``d_k / (J_k + limit_k)``, between -1 and 1,
so that α and κ depend on no unit. What is reported is λ, in reward per cost.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.algorithms import base_config, constraints, happo, sequential_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import lagrange, running_statistics, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree


@base_config.config_record
class MAPPOLagrangianConfig(happo.HAPPOConfig, constraints.CostConfig):
    """Settings of MAPPO-Lagrangian."""

    multiplier_init: float = 0.0
    """First multiplier of every agent and cost, in its unit."""
    multiplier_ki: float = 0.02
    """α, growth of a multiplier per update and unit of violation; with Adam's rule its step
    size."""
    multiplier_kp: float = 0.3
    """κ, what the present violation adds to a multiplier, per unit of violation."""
    multiplier_max: float = 100.0
    """Highest multiplier, in its unit."""
    multiplier_optimizer: Literal["plain", "adam"] = "plain"
    """Whether multipliers ascend by the violation itself or by Adam's rule."""
    multiplier_scaling: Literal["relative", "reward"] = "relative"
    """Relative to the advantages' deviations, with violations as shares of cost and limit; or
    reward per cost, with violations in cost per episode."""
    normalize_by_multipliers: bool = True
    """Divide the priced advantage by one plus the sum of its relative prices."""
    simultaneous: bool = False
    """All agents move at once instead of in turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        constraints.check(self)
        base_config.check_range(
            self,
            multiplier_init=(0, 1e6),
            multiplier_ki=(0, 1e6),
            multiplier_kp=(0, 1e6),
            multiplier_max=(0, 1e9),
        )

    @classmethod
    def reference(cls, **changes: Any) -> MAPPOLagrangianConfig:
        """The choices and numbers of the authors' program for Ant 2x4, as far as they are choices.

        Its multipliers move at each of 200 minibatches, by ratios and advantages besides the
        violation; ours move once an update, by the violation as a share, at 200 times the rate,
        with their factor of 1 - gamma. Either way they are in effect constant. Its 40 minibatches
        are of samples, ours of worlds.
        """
        theirs: dict[str, Any] = dict(
            multiplier_init=0.78,
            multiplier_ki=200 * 1e-7 * 0.01,
            multiplier_kp=0.0,
            normalize_by_multipliers=False,
            standardize_cost_advantages=True,
            cost_gamma=0.99,
            lr=9e-5,
            critic_lr=5e-3,
            cost_critic_lr=5e-3,
            max_grad_norm=10.0,
            hidden_sizes=(64, 64),
            num_epochs=5,
            num_minibatches=8,
            normalize_values=True,
            normalize_observations=True,
        )
        return base_config.override(cls, theirs, changes)


class MultiplierState(NamedTuple):
    """What moves the multipliers."""

    integral: Array  # [N, K] what has been summed up
    opt_state: PyTree  # Adam's state, or ()


def make_mappo_lagrangian(name: str, spec: EnvSpec, config: MAPPOLagrangianConfig) -> Algorithm:
    """MAPPO-Lagrangian for an environment of these sizes; the config's static fields decide the
    networks.
    """
    made = sequential_update.make_sequential(
        name,
        spec,
        config,
        sequential_update.UpdateSpec(
            update_agent,
            constrained=True,
            update_multipliers=update_multipliers,
            simultaneous=config.simultaneous,
        ),
    )

    def init(key: Array, num_envs: int, config: Any = config) -> Any:
        learner = made.init(key, num_envs, config)
        summed = jnp.full_like(learner.costs.episode_cost, learner.config.multiplier_init)
        opt = _adam.init(summed) if config.multiplier_optimizer == "adam" else ()
        return learner._replace(
            costs=learner.costs._replace(multiplier=MultiplierState(summed, opt))
        )

    return made._replace(init=init)


_adam = optax.scale_by_adam()


def update_multipliers(
    config: MAPPOLagrangianConfig, state: constraints.CostState, found: constraints.CostEstimate
) -> tuple[constraints.CostState, Array]:
    """The multipliers moved by the latest violations, and what they are now; as they were before an
    episode ended.

    A cost without a limit has the multiplier 0.
    """
    limited = ~jnp.isinf(found.violation)
    known = limited & ((state.has_estimate > 0) | (found.violation > 0))
    relative = config.multiplier_scaling == "relative"
    violation = (
        constraints.relative_violation(state, found)
        if relative
        else jnp.where(limited & known, found.violation, 0.0)
    )
    up, opt = violation, state.multiplier.opt_state
    if config.multiplier_optimizer == "adam":
        step, moved = _adam.update(violation, opt)
        up, opt = jnp.asarray(step), tree_math.where(known.any(), moved, opt)
    summed = lagrange.dual_ascent(
        state.multiplier.integral, up, config.multiplier_ki, config.multiplier_max
    )
    prices = MultiplierState(jnp.where(known, summed, state.multiplier.integral), opt)
    now = lagrange.dual_ascent(
        prices.integral, violation, config.multiplier_kp, config.multiplier_max
    )
    return state._replace(multiplier=prices), jnp.where(limited, now, 0.0)


def update_agent(
    actor: actor_critic.Actor,
    config: MAPPOLagrangianConfig,
    seen: Array,
    key: Array,
    model: sequential_update.ActorState,
    given: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """HAPPO's turn on A^(λ)."""
    limited = given.constraints
    assert isinstance(limited, sequential_update.AgentConstraints)
    reward_spread = _deviation(given.advantage, given.data.obs.alive)
    cost_spread = jax.vmap(_deviation, (0, None))(limited.advantage, given.data.obs.alive)
    rate = jnp.where(
        cost_spread > 0, reward_spread / jnp.where(cost_spread > 0, cost_spread, 1.0), 0.0
    )
    relative = config.multiplier_scaling == "relative"
    prices = limited.multiplier * rate if relative else limited.multiplier
    shares = limited.multiplier if relative else prices / jnp.where(rate > 0, rate, jnp.inf)
    divisor = 1.0 + shares.sum() if config.normalize_by_multipliers else jnp.ones(())

    def scored(advantages: tuple[Array, Array], alive: Array) -> Array:
        advantage, costly = advantages
        burden = jnp.tensordot(costly, prices, 1)
        if config.normalize_advantages:
            deviation = _deviation(advantage, alive)
            burden = burden / jnp.where(deviation > 0, deviation, 1.0)
            advantage = actor_critic.standardize_advantages(advantage, alive, shared=False)
        return (advantage - burden) / divisor

    advantages = given.advantage, jnp.moveaxis(limited.advantage, 0, -1)
    model, log_ratio, info = happo.clipped_update(
        actor, config, seen, key, model, given, advantages, factor, scored
    )
    return model, log_ratio, info | {"multiplier": prices}


def _deviation(x: Array, alive: Array) -> Array:
    """Of ``[T, B]`` over the living samples."""
    centred = x - running_statistics.masked_mean(x, alive)
    return jnp.sqrt(running_statistics.masked_mean(centred**2, alive))
