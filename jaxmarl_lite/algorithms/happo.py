"""HAPPO: agents update in turn, each by PPO's clipped objective (Kuba et al., ICLR 2022, equation 11).

    max_θ  E[ min(ρ M, clip(ρ, 1-ε, 1+ε) M) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`). Every agent has
weights of its own. With one agent it is PPO. The team's advantage is estimated once, with the critic as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax

from jaxmarl_lite.algorithms import configs, fitting, models, ppo, turns
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@configs.config_record
class HAPPOConfig(ppo.PPOConfig):
    """Settings of HAPPO: those of PPO; the agents have weights of their own."""

    critic_view: Literal["own", "state"] = "state"
    """What the critics see: the agent's own view or the state."""
    share_weights: bool = False
    """Agents that move in turn have one set of weights each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        turns.check_own_weights(self)


def make(name: str, spec: EnvSpec, config: HAPPOConfig) -> Algorithm:
    """HAPPO for an environment of these sizes; the config's static fields decide the networks."""
    return turns.make(name, spec, config, turns.Rules(turn))


def turn(
    actor: models.Actor, config: ppo.PPOConfig, seen: Array, key: Array, model: turns.Model, given: turns.Given,
    factor: Array,
) -> tuple[turns.Model, Array, dict[str, Array]]:  # fmt: skip
    """PPO of one agent."""

    def standardised(advantage: Array, alive: Array) -> Array:
        return models.standardised(advantage, alive, shared=False) if config.normalise_advantage else advantage

    return clipped(actor, config, seen, key, model, given, given.advantage, factor, standardised)


def clipped(
    actor: models.Actor, config: ppo.PPOConfig, seen: Array, key: Array, model: turns.Model, given: turns.Given,
    advantages: Any, factor: Array, scored: Callable[[Any, Array], Array],
) -> tuple[turns.Model, Array, dict[str, Array]]:  # fmt: skip
    """Epochs of PPO's clipped objective of one agent.

    Args:
        actor, config, seen, key, model, given, factor: as in `turns.AgentTurn`.
        advantages: leaves ``[T, B, ...]``.
        scored: ``(advantages, alive) -> [T, b]``, of a minibatch: what the objective takes as its advantage.
    """
    lr = fitting.annealed(config.lr, seen, config.anneal_steps)
    plain = fitting.optimiser(config.optimiser, config.eps_root)

    def step(model: turns.Model, batch: fitting.Sequences) -> tuple[turns.Model, dict[str, Array]]:
        part, advantages, factor = batch.steps
        met = factor * scored(advantages, part.obs.alive)
        (loss, info), grads = jax.value_and_grad(ppo.policy_loss, has_aux=True)(
            model.policy, actor, part, batch.starts, met, config
        )
        moved = turns.Model(*plain.step(model.policy, model.policy_opt, grads, lr, config.max_grad_norm))
        return moved, info | {"policy_loss": loss}

    sequences = fitting.Sequences((given.data, advantages, factor), given.memory)
    model, info = fitting.epochs(key, model, sequences, step, config.epochs, config.num_minibatches)
    return model, turns.log_ratio(actor, model.policy, given.memory, given.data), info
