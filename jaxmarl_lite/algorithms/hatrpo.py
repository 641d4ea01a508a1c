"""HATRPO: agents update in turn, each by a step in a trust region.

    max_θ  E[ ρ M ]   subject to   E[ KL(π_old || π_θ) ] <= δ

Source: Kuba et al., ICLR 2022, equations 8 to 10. ``M`` is the advantage of the team times the
ratios of the agents that have already updated (`sequential_update`). The step is that of
`trust_region_update` without costs: ``sqrt(2δ / g·H⁻¹g) H⁻¹g``, shortened until the policy itself
keeps δ and improves. With one agent it is TRPO (Schulman et al. 2015). Like the reference
implementation, it takes one step per agent and rollout, on the whole of it. The line search
compares the surrogate with the same ratios as the gradient has; in the reference implementation it
does not.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import (
    base_config,
    gradient_update,
    optimizers,
    ppo,
    sequential_update,
    trust_region_update,
)
from jaxmarl_lite.algorithms.gradient_update import ModelState
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.torsos import Networks, bodies_of
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Rollout


@base_config.config_record
class HATRPOConfig(trust_region_update.TrustRegionConfig):
    """Settings of HATRPO: those of a step in a trust region.

    Raises:
        ValueError: A setting has the wrong type or range, or no effect.

    Example:
        Each of the 2 agents takes a step in each of 3 updates, and reports its KL divergence
        (``eval_shape`` returns shapes without training):

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/coordination")
        >>> config = jml.HATRPOConfig(hidden_sizes=(8,), target_kl=0.02)
        >>> algorithm = jml.make_algorithm("hatrpo", env.spec, config)
        >>> init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=10)
        >>> _, metrics = jax.eval_shape(lambda key: train(init(key), 3), jax.random.key(0))
        >>> metrics["kl"].shape
        (3, 2)
        >>> jml.HATRPOConfig(target_kl=0.0)
        Traceback (most recent call last):
        ValueError: HATRPOConfig.target_kl is 0.0; allowed is a number from 1e-09 to 10
    """


def make_hatrpo(
    name: str, spec: EnvSpec, config: HATRPOConfig, networks: Networks | None = None
) -> Algorithm:
    """Makes HATRPO for an environment of the sizes in ``spec``.

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

    def init(key: Array, num_envs: int, config: HATRPOConfig = config) -> ppo.PPOState:
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
        critic_lr = optimizers.learning_rate(
            config.critic_lr, learner.env_steps, config.lr_anneal_steps
        )
        batches = sequential_update.agent_batches(
            data, batch.initial_hidden_state, estimate.advantage
        )
        actors, turn_info = sequential_update.sequential_update(
            turn_key,
            ModelState(learner.actor_params, learner.actor_opt_state),
            batches,
            batches.data.obs.alive,
            functools.partial(_update_agent, nets.agent_actor, config),
        )
        learner = learner._replace(actor_params=actors.params)
        learner, critic_info = ppo.fit_critic(
            critic_key, nets.critic, learner, data, estimate, config.num_epochs
        )
        learner = learner._replace(**gradient_update.end_of_update(learner, batch))
        metric = gradient_update.lr_metric(config, critic_lr, "critic_optimizer")
        return learner, critic_info | turn_info | metric

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name, config, init, nets.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def _update_agent(
    actor: actor_critic.Actor, config: HATRPOConfig, turn: sequential_update.Turn
) -> tuple[ModelState, Array, dict[str, Array]]:
    """Takes a trust-region step without costs; it needs neither the key nor an optimizer.

    Arguments and results are those of `happo.update_agent`.
    """
    batch: sequential_update.AgentBatch = turn.batch
    data, hidden_state, advantage, factor = (*batch[:3], turn.factor)
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(advantage, data.obs.alive, shared=False)
    # K = 0: the problem has no costs and no limits
    cost_advantage = jnp.zeros((0, *factor.shape), factor.dtype)
    problem = trust_region_update.TrustRegionProblem(
        data,
        hidden_state,
        factor * advantage,
        cost_advantage,
        violation=jnp.zeros(0, factor.dtype),
    )
    params, info = trust_region_update.policy_step(actor, turn.state.params, problem, config)
    log_ratio = sequential_update.log_ratio(actor, params, hidden_state, data)
    return turn.state._replace(params=params), log_ratio, info
