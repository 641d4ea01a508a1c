"""IPPO, with policy and critic as separate networks (`ppo`) or as two heads of one network.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ) - c_V ½ E[ (V_θ - target)² ]

One network saves the layers that the values would otherwise have to themselves, and is the form of
several public implementations of IPPO; the features that the values need may interfere with those
that the policy needs, and the reverse. The settings are `ppo.IPPOConfig`.
"""

from __future__ import annotations

import functools

from jaxmarl_lite.algorithms import advantages, minibatch, ppo
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import jax_types, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


def make_ippo(name: str, spec: EnvSpec, config: ppo.IPPOConfig) -> Algorithm:
    """Returns IPPO for one environment; the static fields of the config decide the networks.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.

    Returns:
        The algorithm, whose learner's state is a `ppo.PPOState`.
    """
    if not config.shared_torso:
        return ppo.make_ppo(name, spec, config)
    return ppo.make_ppo(
        name,
        spec,
        config,
        _update,
        actor_critic.shared_actor_critic(spec, config.network_spec, config.parameter_sharing),
    )


def loss(
    params: PyTree,
    networks: actor_critic.SharedActorCritic,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    target: Array,
    config: ppo.IPPOConfig,
) -> tuple[Array, dict[str, Array]]:
    """Computes minus the objective in the module docstring.

    Args:
        params: parameters of the shared layers and of both heads.
        networks: the network with its two heads.
        data: a minibatch ``[T, b, ...]``.
        hidden_state: the network's hidden state at the start of the minibatch, ``[b, ...]``.
        advantage: ``[T, b, N]``.
        target: ``[T, b, N]``, of the values, in their unit.
        config: settings.

    Returns:
        The loss, scalar, and the metrics of `ppo.policy_loss` with ``policy_loss`` and
        ``value_loss``.
    """
    (head, value), _ = networks.net.unroll(
        params, hidden_state, data.obs.agents_view, data.is_first
    )
    policy_loss, info = ppo.surrogate_loss(
        networks.actor.to_distribution(head, data.obs), data, advantage, config
    )
    value_loss = ppo.value_loss_from_values(
        networks.critic.to_values(value), target, config.parameter_sharing
    )
    return policy_loss + config.vf_coef * value_loss, info | {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
    }


def _update(
    networks: actor_critic.SharedActorCritic, key: Array, learner: ppo.PPOState, batch: Rollout
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Learns from a rollout: advantages and targets once, then epochs over minibatches."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    # The critic has neither parameters nor a hidden state of its own: it reads the actor's.
    estimates, value_statistics, explained_variance = advantages.estimate_advantages(
        networks.critic,
        learner.actor_params,
        batch.initial_hidden_state,
        learner.value_statistics,
        steps,
        steps.reward,
        config.gamma,
        config.gae_lambda,
    )
    data = minibatch.SequenceBatch(
        (ppo.to_policy_batch(steps), estimates.advantage, estimates.target),
        batch.initial_hidden_state,
    )
    learner, step_info = minibatch.run_epochs(
        key,
        learner,
        data,
        functools.partial(_step, networks),
        config.num_epochs,
        config.num_minibatches,
    )
    return learner._replace(
        value_statistics=value_statistics,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), {"explained_variance": explained_variance} | step_info | minibatch.learning_rate_metric(
        learner.config, learner.env_steps
    )


def _step(
    networks: actor_critic.SharedActorCritic,
    learner: ppo.PPOState,
    batch: minibatch.SequenceBatch,
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Takes one gradient step of both heads on a minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(
            advantage, data.obs.alive, config.parameter_sharing
        )
    (_, info), grads = jax_types.value_and_grad(loss, has_aux=True)(
        learner.actor_params, networks, data, batch.initial_states, advantage, target, config
    )
    lr = minibatch.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    params, opt_state = ppo.optimizer_of(config).step(
        learner.actor_params, learner.actor_opt_state, grads, lr, config.max_grad_norm
    )
    return learner._replace(actor_params=params, actor_opt_state=opt_state), info | {
        "policy_grad_norm": tree_math.norm(grads)
    }
