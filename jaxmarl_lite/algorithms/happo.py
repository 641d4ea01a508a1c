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

    critic_input: Literal["local", "global_state"] = "global_state"
    """What the critics see: the agent's own view or the state."""
    parameter_sharing: bool = False
    """Agents that move in turn have one set of weights each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        turns.check_own_weights(self)


def make_happo(name: str, spec: EnvSpec, config: HAPPOConfig) -> Algorithm:
    """HAPPO for an environment of these sizes; the config's static fields decide the networks."""
    return turns.make_sequential(name, spec, config, turns.UpdateSpec(update_agent))


def update_agent(
    actor: models.Actor, config: ppo.PPOConfig, seen: Array, key: Array, model: turns.ActorState,
    given: turns.AgentBatch, factor: Array,
) -> tuple[turns.ActorState, Array, dict[str, Array]]:  # fmt: skip
    """PPO of one agent."""

    def standardized(advantage: Array, alive: Array) -> Array:
        return (
            models.standardize_advantages(advantage, alive, shared=False) if config.normalize_advantages else advantage
        )

    return clipped_update(actor, config, seen, key, model, given, given.advantage, factor, standardized)


def clipped_update(
    actor: models.Actor, config: ppo.PPOConfig, seen: Array, key: Array, model: turns.ActorState,
    given: turns.AgentBatch, advantages: Any, factor: Array, combine_advantages: Callable[[Any, Array], Array],
) -> tuple[turns.ActorState, Array, dict[str, Array]]:  # fmt: skip
    """Epochs of PPO's clipped objective of one agent.

    Args:
        actor, config, seen, key, model, given, factor: as in `turns.AgentUpdateFn`.
        advantages: leaves ``[T, B, ...]``.
        combine_advantages: ``(advantages, alive) -> [T, b]``, of a minibatch: what the objective takes as its
            advantage.
    """
    lr = fitting.linear_schedule(config.lr, seen, config.lr_anneal_steps)
    plain = fitting.make_optimizer(config.optimizer, config.eps_root)

    def step(model: turns.ActorState, batch: fitting.SequenceBatch) -> tuple[turns.ActorState, dict[str, Array]]:
        part, advantages, factor = batch.steps
        met = factor * combine_advantages(advantages, part.obs.alive)
        (loss, info), grads = jax.value_and_grad(ppo.policy_loss, has_aux=True)(
            model.params, actor, part, batch.initial_states, met, config
        )
        moved = turns.ActorState(*plain.step(model.params, model.opt_state, grads, lr, config.max_grad_norm))
        return moved, info | {"policy_loss": loss}

    sequences = fitting.SequenceBatch((given.data, advantages, factor), given.hidden_state)
    model, info = fitting.run_epochs(key, model, sequences, step, config.num_epochs, config.num_minibatches)
    return model, turns.log_ratio(actor, model.params, given.hidden_state, given.data), info
