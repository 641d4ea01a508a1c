"""HAPPO: agents update in turn, each by the clipped objective of PPO.

    max_θ  E[ min(ρ M, clip(ρ, 1-ε, 1+ε) M) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

Source: Kuba et al., ICLR 2022, equation 11. ``M`` is the advantage of the team times the ratios of
the agents that have already updated (`sequential_update`). Every agent has weights of its own. With
one agent it is PPO. The advantage of the team is estimated once, with the critic before the update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxmarl_lite.algorithms import base_config, minibatch, ppo, sequential_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree


@base_config.config_record
class HAPPOConfig(ppo.PPOConfig):
    """Settings of HAPPO: those of PPO, with separate weights for each agent.

    Raises:
        ValueError: A setting has the wrong type or range, or ``parameter_sharing`` is True.

    Example:
        In each of 3 updates, each of the 2 agents has its turn (``eval_shape`` returns shapes
        without training):

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/coordination")
        >>> config = jml.HAPPOConfig(hidden_sizes=(8,), clip_eps=0.1)
        >>> algorithm = jml.make_algorithm("happo", env.spec, config)
        >>> init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=10)
        >>> _, metrics = jax.eval_shape(lambda key: train(init(key), 3), jax.random.key(0))
        >>> metrics["update_order"].shape
        (3, 2)
        >>> jml.HAPPOConfig(clip_eps=0.0)
        Traceback (most recent call last):
        ValueError: HAPPOConfig.clip_eps is 0.0; allowed is a number from 1e-06 to 1e+06
    """

    critic_input: Literal["local", "global_state"] = "global_state"
    """Input of the critics: the agent's own observation or the global state."""
    parameter_sharing: bool = False
    """Always False: agents that update in turn have one set of weights each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sequential_update.check_own_weights(self)


def make_happo(name: str, spec: EnvSpec, config: HAPPOConfig) -> Algorithm:
    """Makes HAPPO for an environment of the sizes in ``spec``.

    Args:
        name: Name of the algorithm.
        spec: Sizes of the environment.
        config: Settings; the static fields decide the networks.

    Returns:
        The algorithm.
    """
    return sequential_update.make_sequential(
        name, spec, config, sequential_update.UpdateSpec(update_agent)
    )


def update_agent(
    actor: actor_critic.Actor,
    config: ppo.PPOConfig,
    env_steps: Array,
    key: Array,
    actor_state: sequential_update.ActorState,
    agent_batch: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """Updates the policy of one agent by PPO on the advantage of the team.

    Args:
        actor: Policy network of one agent.
        config: Settings.
        env_steps: ``[]``, environment steps before this update, for the learning rate.
        key: Random key of the minibatches.
        actor_state: Weights and optimizer state of the agent.
        agent_batch: Data of the agent, leaves ``[T, B, ...]``.
        factor: ``[T, B]``, product of the probability ratios of the agents that updated before.

    Returns:
        The new `ActorState`, the log-ratio ``[T, B]`` of the new policy to the old one at the
        actions of the batch, and metrics.
    """

    def standardize(advantage: Array, alive: Array) -> Array:
        return (
            actor_critic.standardize_advantages(advantage, alive, shared=False)
            if config.normalize_advantages
            else advantage
        )

    return clipped_update(
        actor,
        config,
        env_steps,
        key,
        actor_state,
        agent_batch,
        agent_batch.advantage,
        factor,
        standardize,
    )


def clipped_update(
    actor: actor_critic.Actor,
    config: ppo.PPOConfig,
    env_steps: Array,
    key: Array,
    actor_state: sequential_update.ActorState,
    agent_batch: sequential_update.AgentBatch,
    advantages: PyTree,
    factor: Array,
    combine_advantages: Callable[[PyTree, Array], Array],
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """Runs epochs of PPO's clipped objective for one agent.

    Args:
        actor: Policy network of one agent.
        config: Settings.
        env_steps: ``[]``, environment steps before this update, for the learning rate.
        key: Random key of the minibatches.
        actor_state: Weights and optimizer state of the agent.
        agent_batch: Data of the agent, leaves ``[T, B, ...]``; its advantage is not used.
        advantages: Leaves ``[T, B, ...]``, dealt into minibatches of b environments.
        factor: ``[T, B]``, product of the probability ratios of the agents that updated before.
        combine_advantages: ``(advantages, alive) -> [T, b]``, the advantage that the objective of a
            minibatch uses, before ``factor`` multiplies it.

    Returns:
        The new `ActorState`, the log-ratio ``[T, B]`` of the new policy to the old one at the
        actions of the batch, and metrics, means over the minibatches.
    """
    lr = minibatch.linear_schedule(config.lr, env_steps, config.lr_anneal_steps)
    # not per agent: this is one agent's turn, and weights have no axis of agents
    optimizer = minibatch.make_optimizer(config.optimizer, config.eps_root)

    def step(
        actor_state: sequential_update.ActorState, batch: minibatch.SequenceBatch
    ) -> tuple[sequential_update.ActorState, dict[str, Array]]:
        data, advantages, factor = batch.steps
        # standardized before it is weighted: the other agents' ratios are not scaled away
        weighted_advantage = factor * combine_advantages(advantages, data.obs.alive)
        (loss, info), grads = jax_types.value_and_grad(ppo.policy_loss, has_aux=True)(
            actor_state.params, actor, data, batch.initial_states, weighted_advantage, config
        )
        new_state = sequential_update.ActorState(
            *optimizer.step(
                actor_state.params, actor_state.opt_state, grads, lr, config.max_grad_norm
            )
        )
        return new_state, info | {"policy_loss": loss}

    sequences = minibatch.SequenceBatch(
        (agent_batch.data, advantages, factor), agent_batch.hidden_state
    )
    actor_state, info = minibatch.run_epochs(
        key, actor_state, sequences, step, config.num_epochs, config.num_minibatches
    )
    log_ratio = sequential_update.log_ratio(
        actor, actor_state.params, agent_batch.hidden_state, agent_batch.data
    )
    return actor_state, log_ratio, info
