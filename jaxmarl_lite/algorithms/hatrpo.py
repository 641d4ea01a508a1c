"""HATRPO: agents update in turn, each by a step in a trust region (Kuba et al., ICLR 2022,
equations 8 to 10).

    max_θ  E[ ρ M ]   subject to   E[ KL(π_old || π_θ) ] <= δ

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`),
the step that of `trust_step` without costs: ``sqrt(2δ / g·H⁻¹g) H⁻¹g``, shortened until the policy
itself keeps δ and improves. With one agent it is TRPO (Schulman et al. 2015). Like the authors', it
takes one step an agent and rollout, on the whole of it. The search compares the surrogate with the
same ratios as the gradient has; in the authors' program it does not.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, sequential_update, trust_region_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@base_config.config_record
class HATRPOConfig(trust_region_update.TrustRegionConfig):
    """Settings of HATRPO."""


def make_hatrpo(name: str, spec: EnvSpec, config: HATRPOConfig) -> Algorithm:
    """HATRPO for an environment of these sizes; the config's static fields decide the networks."""
    return sequential_update.make_sequential(
        name, spec, config, sequential_update.UpdateSpec(_update_agent)
    )


def _update_agent(
    actor: actor_critic.Actor,
    config: HATRPOConfig,
    seen: Array,
    key: Array,
    model: sequential_update.ActorState,
    given: sequential_update.AgentBatch,
    factor: Array,
) -> tuple[sequential_update.ActorState, Array, dict[str, Array]]:
    """A step in the trust region without costs; it needs neither the key nor an optimizer."""
    data, hidden_state, advantage, _ = given
    if config.normalize_advantages:
        advantage = actor_critic.standardize_advantages(advantage, data.obs.alive, shared=False)
    nothing = jnp.zeros((0, *factor.shape), factor.dtype)
    problem = trust_region_update.TrustRegionProblem(
        data, hidden_state, factor * advantage, nothing, jnp.zeros(0, factor.dtype)
    )
    theta, info = trust_region_update.policy_step(actor, model.params, problem, config)
    return (
        model._replace(params=theta),
        sequential_update.log_ratio(actor, theta, hidden_state, data),
        info,
    )
