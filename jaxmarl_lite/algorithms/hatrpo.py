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


def make(name: str, spec: EnvSpec, config: HATRPOConfig) -> Algorithm:
    """HATRPO for an environment of these sizes; the config's static fields decide the networks."""
    return turns.make(name, spec, config, turns.Rules(_turn))


def _turn(
    actor: models.Actor, config: HATRPOConfig, seen: Array, key: Array, model: turns.Model, given: turns.Given,
    factor: Array,
) -> tuple[turns.Model, Array, dict[str, Array]]:  # fmt: skip
    """A step in the trust region without costs; it needs neither the key nor an optimiser."""
    data, memory, advantage, _ = given
    if config.normalise_advantage:
        advantage = models.standardised(advantage, data.obs.alive, shared=False)
    nothing = jnp.zeros((0, *factor.shape), factor.dtype)
    problem = trust_step.Problem(data, memory, factor * advantage, nothing, jnp.zeros(0, factor.dtype))
    theta, info = trust_step.policy_step(actor, model.policy, problem, config)
    return model._replace(policy=theta), turns.log_ratio(actor, theta, memory, data), info
