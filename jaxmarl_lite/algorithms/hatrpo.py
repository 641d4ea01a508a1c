"""HATRPO: agents update in turn, each by a step in a trust region (Kuba et al., ICLR 2022, equations 8 to 10).

    max_θ  E[ ρ M ]   subject to   E[ KL(π_old || π_θ) ] <= δ

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`), the step that of
`trust_step` without costs: ``sqrt(2δ / g·H⁻¹g) H⁻¹g``, shortened until the policy itself keeps δ and improves. With one
agent it is TRPO (Schulman et al. 2015). Like the authors', it takes one step an agent and rollout, on the whole of it.
The search compares the surrogate with the same ratios as the gradient has; in the authors' program it does not.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxmarl_lite.algorithms import configs, models, trust_step, turns
from jaxmarl_lite.types import Algorithm, Array, EnvSpec


@configs.config_record
class HATRPOConfig(trust_step.TrustRegionConfig):
    """Settings of HATRPO."""


def make_hatrpo(name: str, spec: EnvSpec, config: HATRPOConfig) -> Algorithm:
    """HATRPO for an environment of these sizes; the config's static fields decide the networks."""
    return turns.make_sequential(name, spec, config, turns.UpdateSpec(_update_agent))


def _update_agent(
    actor: models.Actor, config: HATRPOConfig, seen: Array, key: Array, model: turns.ActorState,
    given: turns.AgentBatch, factor: Array,
) -> tuple[turns.ActorState, Array, dict[str, Array]]:  # fmt: skip
    """A step in the trust region without costs; it needs neither the key nor an optimizer."""
    data, hidden_state, advantage, _ = given
    if config.normalize_advantages:
        advantage = models.standardize_advantages(advantage, data.obs.alive, shared=False)
    nothing = jnp.zeros((0, *factor.shape), factor.dtype)
    problem = trust_step.TrustRegionProblem(data, hidden_state, factor * advantage, nothing, jnp.zeros(0, factor.dtype))
    theta, info = trust_step.policy_step(actor, model.params, problem, config)
    return model._replace(params=theta), turns.log_ratio(actor, theta, hidden_state, data), info
