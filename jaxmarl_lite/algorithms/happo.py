"""HAPPO: agents update in turn, each by PPO's clipped objective (Kuba et al., ICLR 2022, equation
11).

    max_θ  E[ min(ρ M, clip(ρ, 1-ε, 1+ε) M) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`).
Every agent has weights of its own. With one agent it is PPO. The team's advantage is estimated
once, with the critic as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax

from jaxmarl_lite.algorithms import base_config, minibatch, ppo, sequential_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@base_config.config_record
class HAPPOConfig(ppo.PPOConfig):
    """Settings of HAPPO: those of PPO; the agents have weights of their own."""

    critic_input: Literal["local", "global_state"] = "global_state"
    """What the critics see: the agent's own view or the state."""
    parameter_sharing: bool = False
    """Agents that move in turn have one set of weights each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sequential_update.check_own_weights(self)


def make_happo(name: str, spec: EnvSpec, config: HAPPOConfig) -> Algorithm:
    """HAPPO for an environment of these sizes; the config's static fields decide the networks."""
    return sequential_update.make_sequential(
        name, spec, config, sequential_update.UpdateSpec(update_agent)
    )


def update_agent(
    actor: actor_critic.Actor,
    config: ppo.PPOConfig,
    seen: Array,
    key: Array,
    model: sequential_update.ActorState,
    given: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """PPO of one agent."""

    def standardized(advantage: Array, alive: Array) -> Array:
        return (
            actor_critic.standardize_advantages(advantage, alive, shared=False)
            if config.normalize_advantages
            else advantage
        )

    return clipped_update(
        actor, config, seen, key, model, given, given.advantage, factor, standardized
    )


def clipped_update(
    actor: actor_critic.Actor,
    config: ppo.PPOConfig,
    seen: Array,
    key: Array,
    model: sequential_update.ActorState,
    given: sequential_update.AgentBatch,
    advantages: Any,
    factor: Array,
    combine_advantages: Callable[[Any, Array], Array],
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """Epochs of PPO's clipped objective of one agent.

    Args:
        actor, config, seen, key, model, given, factor: as in `turns.AgentUpdateFn`.
        advantages: leaves ``[T, B, ...]``.
        combine_advantages: ``(advantages, alive) -> [T, b]``, of a minibatch: what the objective
            takes as its advantage.
    """
    lr = minibatch.linear_schedule(config.lr, seen, config.lr_anneal_steps)
    plain = minibatch.make_optimizer(config.optimizer, config.eps_root)

    def step(
        model: sequential_update.ActorState, batch: minibatch.SequenceBatch
    ) -> tuple[sequential_update.ActorState, dict[str, Array]]:
        part, advantages, factor = batch.steps
        met = factor * combine_advantages(advantages, part.obs.alive)
        (loss, info), grads = jax.value_and_grad(ppo.policy_loss, has_aux=True)(
            model.params, actor, part, batch.initial_states, met, config
        )
        moved = sequential_update.ActorState(
            *plain.step(model.params, model.opt_state, grads, lr, config.max_grad_norm)
        )
        return moved, info | {"policy_loss": loss}

    sequences = minibatch.SequenceBatch((given.data, advantages, factor), given.hidden_state)
    model, info = minibatch.run_epochs(
        key, model, sequences, step, config.num_epochs, config.num_minibatches
    )
    return (
        model,
        sequential_update.log_ratio(actor, model.params, given.hidden_state, given.data),
        info,
    )
