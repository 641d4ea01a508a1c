"""IPPO with policy and critic apart (`ppo`), or as two heads of one network.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ) - c_V ½ E[ (V_θ - target)² ]

One network spares the values layers of their own, and is what several public programs of IPPO have; what the values
need may be in the way of the policy, and the other way round. The settings are `ppo.IPPOConfig`.
"""

from __future__ import annotations

import functools

import jax

from jaxmarl_lite.algorithms import fitting, models, ppo, values
from jaxmarl_lite.maths import trees
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, PyTree


def make(name: str, spec: EnvSpec, config: ppo.IPPOConfig) -> Algorithm:
    """IPPO for an environment of these sizes; the config's static fields decide the networks."""
    if not config.shared_trunk:
        return ppo.make(name, spec, config)
    return ppo.make(name, spec, config, _update, models.two_heads(spec, config.form, config.share_weights))


def loss(
    theta: PyTree, of: models.TwoHeads, data: ppo.PolicyData, memory: PyTree, advantage: Array, target: Array,
    config: ppo.IPPOConfig,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """Minus the objective at the head of this file, and what one may look at.

    Args:
        theta: the weights of both heads and what is before them.
        data, memory: a minibatch and the memory at its start.
        advantage, target: ``[T, b, N]``.
    """
    (head, value), _ = of.net.unroll(theta, memory, data.obs.view, data.first)
    policy, info = ppo.surrogate_loss(of.actor.read(head, data.obs), data, advantage, config)
    error = ppo.squared_error(of.critic.read(value), target, config.share_weights)
    return policy + config.value_coef * error, info | {"policy_loss": policy, "value_loss": error}


def _update(
    of: models.TwoHeads, key: Array, learner: ppo.PPOState, batch: Batch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """Learn from a rollout: advantages and targets once, then epochs over minibatches."""
    config = learner.config
    steps = models.seen_through(learner.sight, batch.steps)
    found, moments, explained = values.estimate(
        of.critic, learner.policy, batch.memory, learner.value_moments, steps, steps.reward, config.gamma,
        config.gae_lambda,
    )  # fmt: skip
    data = fitting.Sequences((ppo.policy_data(steps), found.advantage, found.target), batch.memory)
    learner, fit = fitting.epochs(
        key, learner, data, functools.partial(_step, of), config.epochs, config.num_minibatches
    )
    return learner._replace(
        value_moments=moments,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), {"explained_variance": explained} | fit | fitting.rate_info(learner.config, learner.seen)


def _step(
    of: models.TwoHeads, learner: ppo.PPOState, batch: fitting.Sequences
) -> tuple[ppo.PPOState, dict[str, Array]]:
    """One gradient step of both heads on one minibatch."""
    config, (data, advantage, target) = learner.config, batch.steps
    if config.normalise_advantage:
        advantage = models.standardised(advantage, data.obs.alive, config.share_weights)
    (_, info), grads = jax.value_and_grad(loss, has_aux=True)(
        learner.policy, of, data, batch.starts, advantage, target, config
    )
    lr = fitting.annealed(config.lr, learner.seen, config.anneal_steps)
    policy, opt = ppo.rule(config).step(learner.policy, learner.policy_opt, grads, lr, config.max_grad_norm)
    return learner._replace(policy=policy, policy_opt=opt), info | {"policy_grad_norm": trees.norm(grads)}
