"""MAPPO-Lagrangian: HAPPO on an advantage from which each cost is taken at a price that moves (Gu et al. 2021).

    A^(λ) = A - Σ_k λ_k A_k,     λ_k <- max(0, λ_k + α d_k)

``A`` is the team's advantage, ``A_k`` the agent's own of its own k-th cost, and ``d_k`` the cost of the latest episodes
less the limit, in cost per episode (`costs`). Agents move in turn, the ratios of those before them multiplying A^(λ) as
a whole (section 4.3), or all at once. The prices λ, one per agent and cost, move once an update. With λ held at 0 it is
HAPPO.

In the authors' program one price per agent moves by 1e-7 times the violation at every minibatch: it is in effect a
constant. By default λ is moved relative to the spread of the two advantages, λ_k = μ_k σ(A)/σ(A_k), and by Adam's rule,
so that its rate depends neither on the unit of the reward nor on that of the cost; reported is λ, in reward per cost.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.algorithms import configs, costs, happo, models, turns
from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import multiplier
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec


@configs.config_record
class MAPPOLagrangianConfig(happo.HAPPOConfig, costs.CostConfig):
    """Settings of MAPPO-Lagrangian."""

    multiplier_start: float = 0.0
    """First multiplier of every agent and cost."""
    multiplier_lr: float = 0.03
    """Growth of a multiplier per update: for each unit of cost per episode beyond the limit, or Adam's step size."""
    multiplier_highest: float = 100.0
    """Highest multiplier."""
    multiplier_rule: Literal["adam", "plain"] = "adam"
    """Whether multipliers ascend by Adam's rule or by the violation itself."""
    multiplier_unit: Literal["relative", "reward"] = "relative"
    """Unit in which multipliers move: σ of the reward's advantage per σ of the cost's, or reward per cost."""
    simultaneous: bool = False
    """All agents move at once instead of in turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        costs.check(self)
        configs.check_range(self, multiplier_start=(0, 1e6), multiplier_lr=(0, 1e6), multiplier_highest=(0, 1e9))
        configs.check_choice(self, multiplier_rule=("adam", "plain"), multiplier_unit=("relative", "reward"))

    @classmethod
    def authors(cls, **changes: Any) -> MAPPOLagrangianConfig:
        """The choices and numbers of the authors' program for Ant 2x4, as far as they are choices.

        Its multipliers move at each of 200 minibatches, ours once: the rate is 200 times theirs.
        """
        theirs: dict[str, Any] = dict(
            multiplier_start=0.78, multiplier_lr=200 * 1e-7 * 0.01, multiplier_rule="plain", standardise_cost=True,
            cost_gamma=0.99, lr=9e-5, critic_lr=5e-3, cost_critic_lr=5e-3, max_grad_norm=10.0, hidden=(64, 64),
            epochs=5, num_minibatches=8, normalise_value=True, normalise_view=True,
        )  # fmt: skip
        return cls(**theirs | changes)


def make(name: str, spec: EnvSpec, config: MAPPOLagrangianConfig) -> Algorithm:
    """MAPPO-Lagrangian for an environment of these sizes; the config's static fields decide the networks."""
    made = turns.make(
        name, spec, config, turns.Rules(turn, limits=True, multiplier=_adam.init, simultaneous=config.simultaneous)
    )

    def init(key: Array, num_envs: int, config: Any = config) -> Any:
        learner = made.init(key, num_envs, config)
        held = jnp.full_like(learner.costs.multiplier, learner.config.multiplier_start)
        return learner._replace(costs=learner.costs._replace(multiplier=held))

    def update(key: Array, learner: Any, batch: Batch) -> tuple[Any, dict[str, Array]]:
        learner, info = made.update(key, learner, batch)
        return learner._replace(costs=_ascended(learner.config, learner.costs, info["cost_excess"])), info

    return made._replace(init=init, update=update)


_adam = optax.scale_by_adam()


def _ascended(config: MAPPOLagrangianConfig, state: costs.CostState, excess: Array) -> costs.CostState:
    """The multipliers, moved by what the latest episodes cost beyond the limits; not before there are any."""
    up, opt = excess, state.multiplier_opt
    if config.multiplier_rule == "adam":
        step, opt = _adam.update(excess, opt)
        up = jnp.asarray(step)
    moved = multiplier.ascend(state.multiplier, up, config.multiplier_lr, config.multiplier_highest)
    known = state.known > 0
    opt = jax.tree.map(lambda new, old: jnp.where(known, new, old), opt, state.multiplier_opt)
    return state._replace(multiplier=jnp.where(known, moved, state.multiplier), multiplier_opt=opt)


def turn(
    actor: models.Actor, config: MAPPOLagrangianConfig, seen: Array, key: Array, model: turns.Model,
    given: turns.Given, factor: Array,
) -> tuple[turns.Model, Array, dict[str, Array]]:  # fmt: skip
    """HAPPO's turn on A^(λ)."""
    limited = given.limited
    assert isinstance(limited, turns.Limited)
    prices = jnp.where(jnp.isinf(limited.excess), 0.0, limited.multiplier)
    if config.multiplier_unit == "relative":
        prices = prices * _spread(given.advantage, limited.advantage, given.data.obs.alive)
    priced = given.advantage - jnp.tensordot(prices, limited.advantage, 1)
    model, log_ratio, info = happo.turn(actor, config, seen, key, model, given._replace(advantage=priced), factor)
    return model, log_ratio, info | {"multiplier": prices}


def _spread(advantage: Array, cost_advantage: Array, alive: Array) -> Array:
    """σ(A)/σ(A_k), ``[K]``; 0 for a cost that does not vary."""

    def deviation(x: Array) -> Array:
        centred = x - moments_of.masked_mean(x, alive)
        return jnp.sqrt(moments_of.masked_mean(centred**2, alive))

    of_costs = jax.vmap(deviation)(cost_advantage)
    return jnp.where(of_costs > 1e-6, deviation(advantage) / jnp.where(of_costs > 1e-6, of_costs, 1.0), 0.0)
