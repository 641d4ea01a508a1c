# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own environment, with two costs
#
# An environment is any object with `spec`, `reset(key)` and `step(state, action)`, written in JAX.
# It needs no registration and no base class. This tutorial writes one, checks it, adds a second
# cost without touching it, and trains a team with limits on both.
#
# Two couriers move along a street of eight houses. A parcel waits at one house; the courier who
# reaches it first brings the team one unit of reward, and the next parcel appears. Walking costs
# *effort*, and standing at the same house is a *collision*.

# %%
import os

import jax
import jax.numpy as jnp

import jaxmarl_lite as jml
from jaxmarl_lite.types import EnvSpec, Observation, TimeStep

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 150_000))  # per seed; a test makes it small
HOUSES, LENGTH = 8, 32

# %% [markdown]
# ## The environment
#
# `spec` holds the sizes: N agents, O entries of a view, S of the global state, A actions, K costs. A
# state is any tree of arrays. An observation has four parts: the view of each agent, `[N, O]`; the
# global state, `[S]`, which critics may see; the mask of legal actions, `[N, A]`; and which agents
# are in play, `[N]`. Rewards are `[N]`, costs `[N, K]`. [The concept of an
# environment](../concepts/environments.md) has all rules.
#
# `discount` is 0 where the episode is truly over, and `last` is True at its final step. A time
# limit sets `last` alone, so that the value of the last observation still counts.


# %%
class Couriers:
    """Two couriers fetch parcels on a street; walking costs effort."""

    spec = EnvSpec(
        "couriers",
        num_agents=2,
        obs_size=3 * HOUSES,
        global_state_size=3 * HOUSES,
        action_type="discrete",
        action_size=3,  # left, stay, right
        max_episode_steps=LENGTH,
        action_names=("left", "stay", "right"),
        cost_names=("effort",),
        cost_limits=(12.0,),
    )

    def reset(self, key):
        """Returns the first state and what the agents see of it."""
        key, places = jax.random.split(key)
        places = jax.random.randint(places, (3,), 0, HOUSES)  # two couriers and the parcel
        state = (key, places, jnp.int32(0))
        return state, self._timestep(places, 0.0, jnp.zeros((2, 1)), jnp.int32(0))

    def step(self, state, action):
        """Moves the couriers; a parcel that is reached appears elsewhere."""
        key, places, t = state
        key, draw = jax.random.split(key)
        couriers = jnp.clip(places[:2] + action - 1, 0, HOUSES - 1)
        reached = (couriers == places[2]).any()
        parcel = jnp.where(reached, jax.random.randint(draw, (), 0, HOUSES), places[2])
        places = jnp.append(couriers, parcel)
        effort = (action != 1).astype(float)[:, None]
        return (key, places, t + 1), self._timestep(places, reached.astype(float), effort, t + 1)

    def _timestep(self, places, reward, cost, t):
        couriers_and_parcel = jax.nn.one_hot(places, HOUSES)
        own_first = jnp.stack([couriers_and_parcel, couriers_and_parcel[jnp.array([1, 0, 2])]])
        observation = Observation(
            agents_view=own_first.reshape(2, -1),
            global_state=couriers_and_parcel.reshape(-1),
            action_mask=jnp.ones((2, 3), bool),
            alive=jnp.ones(2, bool),
        )
        rewards = jnp.full(2, reward)
        return TimeStep(observation, rewards, cost, discount=jnp.ones(()), last=t >= LENGTH)


# %% [markdown]
# `check_environment` steps the environment and compares every shape, dtype and value with the spec.
# It raises an error that names the first field that is wrong.

# %%
jml.check_environment(Couriers())

# %% [markdown]
# ## A second cost
#
# `with_costs` adds costs to any environment, yours or the library's. A cost is a function of the
# state, the action and the next state that returns a number for each agent.


# %%
def collision(state, action, next_state):
    """Returns 1 for both agents while they stand at one house."""
    places = next_state[1]
    return jnp.full(2, (places[0] == places[1]).astype(float))


env = jml.with_costs(
    Couriers(), [jml.Cost("collision", "steps at the same house", collision, limit=1.0)]
)
jml.check_environment(env)
print(dict(zip(env.spec.cost_names, env.spec.cost_limits, strict=True)))

# %% [markdown]
# ## Without limits
#
# MAPPO shows which costs the task has when no limit is enforced. A limit below such a cost binds: it
# takes some of the return. Here the effort is far above its limit of 12, and binds. The collisions
# were over their limit of 1 in most updates (the last column, a mean over seeds) and end below it:
# at the end that limit does not bind, and it is there to be watched.

# %%
common = dict(seeds=2, total_steps=STEPS, num_evaluations=5, eval_episodes=64, quiet=True)
free = jml.run("mappo", env, **common)
print(free.summary())

# %% [markdown]
# ## With both limits
#
# The limits of the spec apply. `cost_limit` would replace them, for all agents or for each:
# `config={"cost_limit": {"effort": [10.0, 14.0]}}`.

# %%
safe = jml.run("macpo", env, config={"cost_confidence": 0.9}, **common)
print(safe.summary())
safe.plot()

# %% [markdown]
# The table has the cost of each agent beside its limit, the share of episodes within it, and the
# number of updates that were over it. MACPO holds a mean whose limit binds near that limit, and not
# strictly below it: at one evaluation it may lie on either side. Read the interval with it: of two
# seeds it is wide, and where it contains the limit, the run does not show that the limit is kept. More steps
# let the mean settle, and a `cost_confidence` above 0.9 sets it lower.
#
# To see the team, give the environment the optional method `animate(states, path)`, which writes a
# video of a list of states: `result.render("couriers.gif")` then draws an episode with it.
#
# With `out="runs/couriers"` a run is stored; it is continued with the object:
# `jml.resume_run("runs/couriers", env=env)`. On the command line an environment has a name: with
# these cells as `couriers.py` in the working directory `--env couriers:env` has both costs, and
# `--env couriers:Couriers` the effort alone.
