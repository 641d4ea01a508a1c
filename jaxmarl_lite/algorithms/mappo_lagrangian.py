"""MAPPO-Lagrangian: HAPPO on an advantage from which each cost is taken at a price that moves (Gu et al. 2021).

    A^(λ) = A - Σ_k λ_k A_k,     λ_k <- max(0, λ_k + α d_k)

``A`` is the team's advantage, ``A_k`` the agent's own of its own k-th cost, and ``d_k`` the cost of the latest episodes
less the limit (`costs`). Agents move in turn, the ratios of those before them multiplying A^(λ) as a whole (section
4.3), or all at once. The prices λ, one per agent and cost, move once an update. With λ held at 0 it is HAPPO.

In the authors' program one price per agent moves by 1e-7 times the violation at every minibatch: it is in effect a
constant. Departures, each a setting: the price also answers to the present violation, by the gain κ, because a price
that only sums violations up swings around its place (Stooke et al. 2020); A^(λ) is divided by one plus the sum of the
prices; and prices are by default relative, ``λ_k = μ_k σ(A)/σ(A_k)``, with violations as ``d_k / (J_k + limit_k)``,
between -1 and 1, so that α and κ depend on no unit. What is reported is λ, in reward per cost.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.algorithms import configs, costs, happo, models, turns
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import multiplier, trees
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree


@configs.config_record
class MAPPOLagrangianConfig(happo.HAPPOConfig, costs.CostConfig):
    """Settings of MAPPO-Lagrangian."""

    multiplier_start: float = 0.0
    """First multiplier of every agent and cost, in its unit."""
    multiplier_lr: float = 0.02
    """α, growth of a multiplier per update and unit of violation; with Adam's rule its step size."""
    multiplier_gain: float = 0.3
    """κ, what the present violation adds to a multiplier, per unit of violation."""
    multiplier_highest: float = 100.0
    """Highest multiplier, in its unit."""
    multiplier_rule: Literal["plain", "adam"] = "plain"
    """Whether multipliers ascend by the violation itself or by Adam's rule."""
    multiplier_unit: Literal["relative", "reward"] = "relative"
    """Relative to the advantages' deviations, with violations as shares of cost and limit; or reward per cost, with
    violations in cost per episode."""
    divide_by_prices: bool = True
    """Divide the priced advantage by one plus the sum of its relative prices."""
    simultaneous: bool = False
    """All agents move at once instead of in turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        costs.check(self)
        configs.check_range(
            self, multiplier_start=(0, 1e6), multiplier_lr=(0, 1e6), multiplier_gain=(0, 1e6),
            multiplier_highest=(0, 1e9),
        )  # fmt: skip

    @classmethod
    def authors(cls, **changes: Any) -> MAPPOLagrangianConfig:
        """The choices and numbers of the authors' program for Ant 2x4, as far as they are choices.

        Its multipliers move at each of 200 minibatches, by ratios and advantages besides the violation; ours move once
        an update, by the violation as a share, at 200 times the rate, with their factor of 1 - gamma. Either way they
        are in effect constant. Its 40 minibatches are of samples, ours of worlds.
        """
        theirs: dict[str, Any] = dict(
            multiplier_start=0.78, multiplier_lr=200 * 1e-7 * 0.01, multiplier_gain=0.0, divide_by_prices=False,
            standardise_cost=True, cost_gamma=0.99, lr=9e-5, critic_lr=5e-3, cost_critic_lr=5e-3, max_grad_norm=10.0,
            hidden=(64, 64), epochs=5, num_minibatches=8, normalise_value=True, normalise_view=True,
        )  # fmt: skip
        return configs.override(cls, theirs, changes)


class Prices(NamedTuple):
    """What moves the multipliers."""

    sum: Array  # [N, K] what has been summed up
    opt: PyTree  # Adam's state, or ()


def make(name: str, spec: EnvSpec, config: MAPPOLagrangianConfig) -> Algorithm:
    """MAPPO-Lagrangian for an environment of these sizes; the config's static fields decide the networks."""
    made = turns.make(name, spec, config, turns.Rules(turn, limits=True, price=price, simultaneous=config.simultaneous))

    def init(key: Array, num_envs: int, config: Any = config) -> Any:
        learner = made.init(key, num_envs, config)
        summed = jnp.full_like(learner.costs.episode_cost, learner.config.multiplier_start)
        opt = _adam.init(summed) if config.multiplier_rule == "adam" else ()
        return learner._replace(costs=learner.costs._replace(multiplier=Prices(summed, opt)))

    return made._replace(init=init)


_adam = optax.scale_by_adam()


def price(config: MAPPOLagrangianConfig, state: costs.CostState, found: costs.Costs) -> tuple[costs.CostState, Array]:
    """The multipliers moved by the latest violations, and what they are now; as they were before an episode ended.

    A cost without a limit has the multiplier 0.
    """
    limited = ~jnp.isinf(found.excess)
    known = limited & ((state.known > 0) | (found.excess > 0))
    relative = config.multiplier_unit == "relative"
    violation = costs.share(state, found) if relative else jnp.where(limited & known, found.excess, 0.0)
    up, opt = violation, state.multiplier.opt
    if config.multiplier_rule == "adam":
        step, moved = _adam.update(violation, opt)
        up, opt = jnp.asarray(step), trees.select(known.any(), moved, opt)
    summed = multiplier.ascend(state.multiplier.sum, up, config.multiplier_lr, config.multiplier_highest)
    prices = Prices(jnp.where(known, summed, state.multiplier.sum), opt)
    now = multiplier.ascend(prices.sum, violation, config.multiplier_gain, config.multiplier_highest)
    return state._replace(multiplier=prices), jnp.where(limited, now, 0.0)


def turn(
    actor: models.Actor, config: MAPPOLagrangianConfig, seen: Array, key: Array, model: turns.Model,
    given: turns.Given, factor: Array,
) -> tuple[turns.Model, Array, dict[str, Array]]:  # fmt: skip
    """HAPPO's turn on A^(λ)."""
    limited = given.limited
    assert isinstance(limited, turns.Limited)
    reward_spread = _deviation(given.advantage, given.data.obs.alive)
    cost_spread = jax.vmap(_deviation, (0, None))(limited.advantage, given.data.obs.alive)
    rate = jnp.where(cost_spread > 0, reward_spread / jnp.where(cost_spread > 0, cost_spread, 1.0), 0.0)
    relative = config.multiplier_unit == "relative"
    prices = limited.multiplier * rate if relative else limited.multiplier
    shares = limited.multiplier if relative else prices / jnp.where(rate > 0, rate, jnp.inf)
    divisor = 1.0 + shares.sum() if config.divide_by_prices else jnp.ones(())

    def scored(advantages: tuple[Array, Array], alive: Array) -> Array:
        advantage, costly = advantages
        burden = jnp.tensordot(costly, prices, 1)
        if config.normalise_advantage:
            deviation = _deviation(advantage, alive)
            burden = burden / jnp.where(deviation > 0, deviation, 1.0)
            advantage = models.standardised(advantage, alive, shared=False)
        return (advantage - burden) / divisor

    advantages = given.advantage, jnp.moveaxis(limited.advantage, 0, -1)
    model, log_ratio, info = happo.clipped(actor, config, seen, key, model, given, advantages, factor, scored)
    return model, log_ratio, info | {"multiplier": prices}


def _deviation(x: Array, alive: Array) -> Array:
    """Of ``[T, B]`` over the living samples."""
    centred = x - moments_of.masked_mean(x, alive)
    return jnp.sqrt(moments_of.masked_mean(centred**2, alive))
