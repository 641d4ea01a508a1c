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

import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, sequential_update, trust_region_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@base_config.config_record
class HATRPOConfig(trust_region_update.TrustRegionConfig):
    """Settings of HATRPO: those of a step in a trust region.

    Raises:
        ValueError: A setting has the wrong type or range, or ``parameter_sharing`` is True.

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


def make_hatrpo(name: str, spec: EnvSpec, config: HATRPOConfig) -> Algorithm:
    """Makes HATRPO for an environment of the sizes in ``spec``.

    Args:
        name: Name of the algorithm.
        spec: Sizes of the environment.
        config: Settings; the static fields decide the networks.

    Returns:
        The algorithm.
    """
    return sequential_update.make_sequential(
        name, spec, config, sequential_update.UpdateSpec(_update_agent)
    )


def _update_agent(
    actor: actor_critic.Actor,
    config: HATRPOConfig,
    env_steps: Array,
    key: Array,
    actor_state: sequential_update.ActorState,
    agent_batch: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """Takes a trust-region step without costs; it needs neither the key nor an optimizer.

    Arguments and results are those of `happo.update_agent`.
    """
    data, hidden_state, advantage, _ = agent_batch
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
    params, info = trust_region_update.policy_step(actor, actor_state.params, problem, config)
    return (
        actor_state._replace(params=params),
        sequential_update.log_ratio(actor, params, hidden_state, data),
        info,
    )
