"""IPPO with policy and critic apart (`ppo`), or as two heads of one network.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ) - c_V ½ E[ (V_θ - target)² ]

One network spares the values layers of their own, and is what several public programs of IPPO have;
what the values need may be in the way of the policy, and the other way round. The settings are
`ppo.IPPOConfig`.
"""

from __future__ import annotations

import functools

import jax

from jaxmarl_lite.algorithms import advantages, minibatch, ppo
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, PyTree, Rollout


def make_ippo(name: str, spec: EnvSpec, config: ppo.IPPOConfig) -> Algorithm:
    """IPPO for an environment of these sizes; the config's static fields decide the networks."""
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
    theta: PyTree,
    of: actor_critic.SharedActorCritic,
    data: ppo.PolicyBatch,
    hidden_state: PyTree,
    advantage: Array,
    target: Array,
    config: ppo.IPPOConfig,
) -> tuple[Array, dict[str, Array]]:
    """Minus the objective at the head of this file, and what one may look at.

    Args:
        theta: the weights of both heads and what is before them.
        data, hidden_state: a minibatch and the memory at its start.
        advantage, target: ``[T, b, N]``.
    """
    (head, value), _ = of.net.unroll(theta, hidden_state, data.obs.agents_view, data.is_first)
    policy, info = ppo.surrogate_loss(
        of.actor.to_distribution(head, data.obs), data, advantage, config
    )
    error = ppo.value_loss_from_values(of.critic.to_values(value), target, config.parameter_sharing)
    return policy + config.vf_coef * error, info | {"policy_loss": policy, "value_loss": error}


def _update(
    of: actor_critic.SharedActorCritic, key: Array, learner: ppo.PPOState, batch: Rollout
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Learn from a rollout: advantages and targets once, then epochs over minibatches."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    found, moments, explained = advantages.estimate_advantages(
        of.critic,
        learner.actor_params,
        batch.initial_hidden_state,
        learner.value_statistics,
        steps,
        steps.reward,
        config.gamma,
        config.gae_lambda,
    )
    data = minibatch.SequenceBatch(
        (ppo.to_policy_batch(steps), found.advantage, found.target), batch.initial_hidden_state
    )
    learner, fit = minibatch.run_epochs(
        key, learner, data, functools.partial(_step, of), config.num_epochs, config.num_minibatches
    )
    return learner._replace(
        value_statistics=moments,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
    ), {"explained_variance": explained} | fit | minibatch.learning_rate_metric(
        learner.config, learner.env_steps
    )


def _step(
    of: actor_critic.SharedActorCritic, learner: ppo.PPOState, batch: minibatch.SequenceBatch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """One gradient step of both heads on one minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(
            advantage, data.obs.alive, config.parameter_sharing
        )
    (_, info), grads = jax.value_and_grad(loss, has_aux=True)(
        learner.actor_params, of, data, batch.initial_states, advantage, target, config
    )
    lr = minibatch.linear_schedule(config.lr, learner.env_steps, config.lr_anneal_steps)
    policy, opt = ppo.optimizer_of(config).step(
        learner.actor_params, learner.actor_opt_state, grads, lr, config.max_grad_norm
    )
    return learner._replace(actor_params=policy, actor_opt_state=opt), info | {
        "policy_grad_norm": tree_math.norm(grads)
    }
