"""HAPPO: agents update in turn, each by the clipped objective of PPO.

    max_θ  E[ min(ρ M, clip(ρ, 1-ε, 1+ε) M) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

Source: Kuba et al., ICLR 2022, equation 11. ``M`` is the advantage of the team times the ratios of
the agents that have already updated (`sequential_update`). Every agent has weights of its own. With
one agent it is PPO. The advantage of the team is estimated once, with the critic before the update.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax

from jaxmarl_lite.algorithms import (
    base_config,
    gradient_update,
    optimizers,
    ppo,
    sequential_update,
)
from jaxmarl_lite.algorithms.gradient_update import ModelState, SequenceBatch
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Networks, bodies_of
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


@base_config.config_record
class HAPPOConfig(base_config.ClippedStepConfig, sequential_update.SequentialConfig):
    """Settings of HAPPO: those of PPO, with separate weights for each agent.

    Raises:
        ValueError: A setting has the wrong type or range, or no effect.

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


def make_happo(
    name: str, spec: EnvSpec, config: HAPPOConfig, networks: Networks | None = None
) -> Algorithm:
    """Makes HAPPO for an environment of the sizes in ``spec``.

    Args:
        name: Name of the algorithm.
        spec: Sizes of the environment.
        config: Settings; the static fields decide the networks.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm, whose learner's state is a `ppo.PPOState`.
    """
    bodies = bodies_of(name, networks, ("actor", "critic"), config.network_spec)
    nets = sequential_update.make_networks(spec, config, bodies)

    def init(key: Array, num_envs: int, config: HAPPOConfig = config) -> ppo.PPOState:
        actor_and_critic = ppo.PPONetworks(nets.actor, nets.critic)
        return ppo.init_state(actor_and_critic, spec, key, num_envs, config, shared=False)

    def update(
        key: Array, learner: ppo.PPOState, batch: Rollout
    ) -> tuple[ppo.PPOState, dict[str, Array]]:
        config = learner.config
        turn_key, critic_key = jax.random.split(key)
        steps = sequential_update.team_transitions(spec, learner, batch)
        estimate = gradient_update.reward_advantages(nets.critic, learner, steps)
        data = gradient_update.to_policy_batch(steps)
        lr = optimizers.learning_rate(config.lr, learner.env_steps, config.lr_anneal_steps)
        batches = sequential_update.agent_batches(
            data, batch.initial_hidden_state, estimate.advantage
        )
        actors, turn_info = sequential_update.sequential_update(
            turn_key,
            ModelState(learner.actor_params, learner.actor_opt_state),
            batches,
            batches.data.obs.alive,
            functools.partial(update_agent, nets.agent_actor, config, lr),
        )
        learner = learner._replace(actor_params=actors.params, actor_opt_state=actors.opt_state)
        learner, critic_info = ppo.fit_critic(
            critic_key, nets.critic, learner, data, estimate, config.num_epochs
        )
        learner = learner._replace(**gradient_update.end_of_update(learner, batch))
        return learner, critic_info | turn_info | gradient_update.lr_metric(config, lr)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name, config, init, nets.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def update_agent(
    actor: actor_critic.Actor, config: HAPPOConfig, lr: Array, turn: sequential_update.Turn
) -> tuple[ModelState, Array, dict[str, Array]]:
    """Updates the policy of one agent by PPO on the advantage of the team.

    Args:
        actor: Policy network of one agent.
        config: Settings.
        lr: Learning rate, ``[]``.
        turn: The turn, whose batch is a `sequential_update.AgentBatch`.

    Returns:
        The new state, the log-ratio ``[T, B]`` of the new policy to the old one at the actions of
        the batch, and metrics.
    """

    def standardize(advantage: Array, alive: Array) -> Array:
        return (
            actor_critic.standardize_advantages(advantage, alive, shared=False)
            if config.normalize_advantages
            else advantage
        )

    return clipped_update(actor, config, lr, turn, turn.batch.advantage, standardize)


def clipped_update(
    actor: actor_critic.Actor,
    config: HAPPOConfig,
    lr: Array,
    turn: sequential_update.Turn,
    advantages: PyTree,
    combine_advantages: Callable[[PyTree, Array], Array],
) -> tuple[ModelState, Array, dict[str, Array]]:
    """Runs epochs of PPO's clipped objective for one agent.

    Args:
        actor: Policy network of one agent.
        config: Settings.
        lr: Learning rate, ``[]``.
        turn: The turn, whose batch is a `sequential_update.AgentBatch`; the advantage of the batch
            is not used.
        advantages: Leaves ``[T, B, ...]``, dealt into minibatches of b environments.
        combine_advantages: ``(advantages, alive) -> [T, b]``, the advantage that the objective of a
            minibatch uses, before the factor of the turn multiplies it.

    Returns:
        The new state, the log-ratio ``[T, B]`` of the new policy to the old one at the actions of
        the batch, and metrics, means over the minibatches.
    """

    def step(state: ModelState, batch: SequenceBatch) -> tuple[ModelState, dict[str, Array]]:
        data, advantages, factor = batch.steps
        # standardized before it is weighted: the other agents' ratios are not scaled away
        weighted_advantage = factor * combine_advantages(advantages, data.obs.alive)

        def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
            pi = actor.unroll(params, batch.initial_states, data.obs, data.is_first)
            return gradient_update.clipped_policy_loss(
                pi, data, weighted_advantage, config, shared=False
            )

        # not per agent: this is one agent's turn, and weights have no axis of agents
        result = gradient_update.gradient_step(loss, state, lr, config)
        return result.state, result.info | {"policy_loss": result.loss}

    data, hidden_state = turn.batch.data, turn.batch.hidden_state
    sequences = SequenceBatch((data, advantages, turn.factor), hidden_state)
    state, info = gradient_update.run_epochs(
        turn.key, turn.state, sequences, step, config.num_epochs, config.num_minibatches
    )
    return state, sequential_update.log_ratio(actor, state.params, hidden_state, data), info
