"""What a step of MACPO promises of an episode's cost, against the exact cost of a small environment
with deaths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.algorithms import (
    constraints,
    gradient_update,
    macpo,
    registry,
    sequential_update,
)
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.train import make_train
from jaxmarl_lite.types import EnvSpec, Observation, TimeStep

STEPS = 10  # of an episode


@dataclasses.dataclass(frozen=True)
class Mortal:
    """Two agents; action 1 pays the team 1 and costs its agent 1. Agent 1 leaves play after `life`
    steps at the latest, and before that with probability `hazard[action]` after each step."""

    life: int = 2
    hazard: tuple[float, float] = (0.0, 0.0)

    @property
    def spec(self):
        return EnvSpec("test/mortal", 2, 2, 1, "discrete", 2, STEPS, cost_names=("acting",))

    def _time_step(self, time, alive, reward, cost):
        mask = jnp.stack([jnp.ones(2, bool), alive], -1)  # out of play only action 0 is left
        obs = Observation(jnp.eye(2), jnp.ones(1), mask, alive)
        over = jnp.asarray(time >= STEPS)
        return TimeStep(obs, jnp.full(2, reward), cost[:, None], 1.0 - over.astype(float), over)

    def reset(self, key):
        alive = jnp.ones(2, bool)
        return (jnp.int32(0), alive, key), self._time_step(
            jnp.int32(0), alive, jnp.zeros(()), jnp.zeros(2)
        )

    def step(self, state, action):
        time, alive, key = state
        key, current = jax.random.split(key)
        cost = (action * alive).astype(float)
        leaves = (jax.random.uniform(current) < jnp.asarray(self.hazard)[action[1]]) | (
            time + 1 >= self.life
        )
        alive = alive & jnp.stack([jnp.ones((), bool), ~leaves])
        return (time + 1, alive, key), self._time_step(time + 1, alive, cost.sum(), cost)

    def episode_cost(self, p):
        """J of agent 1 when it takes action 1 with probability p in every step of its life."""
        total, in_play = 0.0, 1.0
        for _ in range(self.life):
            total += p * in_play
            in_play *= 1.0 - (1.0 - p) * self.hazard[0] - p * self.hazard[1]
        return total


def probability(env, config, learner):
    """Of agent 1's action 1."""
    obs = jax.tree.map(lambda x: x[None, None], env.reset(jax.random.key(0))[1].obs)
    pi = actor_critic.make_actor(env.spec, config.network_spec, False).unroll(
        learner.actor_params, (), obs, jnp.zeros((1, 1), bool)
    )
    return float(jnp.exp(pi.logits)[0, 0, 1, 1])


@pytest.mark.parametrize(
    ("env", "limit", "tolerance"),
    [(Mortal(), 0.5, 0.03), (Mortal(6, (0.1, 0.3)), 1.0, 0.06)],
    ids=["leaves after two steps", "may leave after any step"],
)
def test_the_promised_change_of_an_episodes_cost_is_the_real_one(env, limit, tolerance):
    config = macpo.MACPOConfig(
        hidden_sizes=(4,),
        target_kl=0.005,
        cost_limit={"acting": (1e6, limit)},
        num_minibatches=1,
        cost_gae_lambda=1.0,
        cost_gamma=1.0,
        cg_damping=1e-3,
        cg_iters=20,
    )
    algorithm = registry.make_algorithm("macpo", env.spec, config)
    init, train = make_train(algorithm, env, num_envs=4096, num_steps=STEPS)
    init, train = jax.jit(init), jax.jit(train, static_argnums=1)
    promised, real = [], []
    for seed in range(3):  # the surrogate of one batch is off by some 3 %
        state = init(jax.random.key(seed))
        previous = probability(env, config, state.learner_state)
        state, info = train(state, 1)
        later = probability(env, config, state.learner_state)
        assert (
            info["line_search_success"][0, 1] == 1
            and info["case_recoverable"][0, 1] + info["case_infeasible"][0, 1] == 1
        )
        np.testing.assert_allclose(
            info["episode_cost"][0, 1, 0], env.episode_cost(previous), rtol=0.05
        )
        real.append(env.episode_cost(later) - env.episode_cost(previous))
        promised.append(STEPS * info["cost_surrogate_change"][0, 1, 0])
    assert max(real) < -0.05
    np.testing.assert_allclose(np.mean(promised), np.mean(real), rtol=tolerance)


def test_the_change_by_others_reaches_a_cost_whose_agent_has_left_play():
    """Agent 0's action is agent 1's cost in all steps; agent 1 is in play in the first two of ten.

    Action 1 has the probability 1/4, exactly in this batch, and then 3/4: J rises by ten times one
    half."""
    action = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0, 0.0]), (STEPS, 4))
    factor = jnp.where(action == 1, 0.75 / 0.25, 0.25 / 0.75)
    alive = jnp.broadcast_to((jnp.arange(STEPS) < 2)[:, None], (STEPS, 4))
    env_spec = EnvSpec("test", 1, 2, 2, "discrete", 2, STEPS, cost_names=("a",))
    obs = Observation(
        jnp.ones((STEPS, 4, 2)), jnp.ones((STEPS, 4, 2)), jnp.ones((STEPS, 4, 2), bool), alive
    )
    data = gradient_update.PolicyBatch(
        obs, jnp.zeros((STEPS, 4), int), jnp.zeros((STEPS, 4)), jnp.zeros((STEPS, 4), bool)
    )
    excess = 1.0
    limited = constraints.AgentConstraints(
        (action - 0.25)[None],
        jnp.array([excess]),
        jnp.asarray(float(STEPS)),
        jnp.asarray(0.2),
        jnp.zeros(1),
    )
    config = macpo.MACPOConfig(hidden_sizes=(4,), cost_ratio="corrected")
    actor, problems = actor_critic.single_agent_actor(env_spec, config.network_spec), []
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        patch.setattr(
            macpo.trust_region_update,
            "policy_step",
            lambda a, theta, problem, c: (problems.append(problem), (theta, {}))[1],
        )
        theta = actor.net.init(jax.random.key(0))
        macpo.update_agent(
            actor,
            config,
            sequential_update.Turn(
                jax.random.key(0),
                gradient_update.ModelState(theta, ()),
                sequential_update.AgentBatch(data, (), action, limited),
                factor,
            ),
        )
    np.testing.assert_allclose(STEPS * problems[0].violation, [excess + STEPS * 0.5], rtol=1e-6)
