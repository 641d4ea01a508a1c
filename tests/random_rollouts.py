"""Random rollouts, with ends and cuts in them and some agents dead now and then."""

import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import EnvSpec, EpisodeStats, Observation, Rollout, Transition

T, B, VIEW, A = 5, 4, 3, 3


def spec(agents, kind="discrete"):
    return EnvSpec("test", agents, VIEW, agents * VIEW, kind, A, 10)


def batch(agents, kind="discrete", seed=0, hidden_state=(), learner=None, act=None):
    """A rollout of random data with ends and cuts in it, some agents dead now and then."""
    draw = np.random.default_rng(seed)

    def obs():
        mask = draw.uniform(size=(T, B, agents, A)) < 0.7
        mask[..., 0] = True
        view = draw.normal(size=(T, B, agents, VIEW))
        alive = draw.uniform(size=(T, B, agents)) < 0.85
        return Observation(*map(jnp.asarray, (view, view.reshape(T, B, -1), mask, alive)))

    current = obs()
    if kind == "discrete":
        action = jnp.asarray(
            np.argmax(
                current.action_mask * draw.uniform(size=current.action_mask.shape), -1
            ).astype(np.int32)
        )
    else:
        action = jnp.asarray(draw.normal(size=(T, B, agents, A))) * current.action_mask
    reward = np.repeat(draw.normal(size=(T, B, 1)), agents, -1)
    over, cut = draw.uniform(size=(T, B)) < 0.15, draw.uniform(size=(T, B)) < 0.15
    transitions = Transition(
        current,
        action,
        jnp.asarray(draw.uniform(-2, -0.2, size=(T, B, agents))),
        jnp.asarray(reward),
        jnp.zeros((T, B, agents, 0)),
        jnp.asarray(1.0 - over),
        jnp.asarray(over | cut),
        obs(),
    )
    ended = EpisodeStats(
        jnp.zeros(()), jnp.zeros(agents), jnp.zeros((agents, 0)), jnp.zeros(()), jnp.zeros(agents)
    )
    return Rollout(transitions, hidden_state, ended)
