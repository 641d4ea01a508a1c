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
# # Your own encoder and your own algorithm
#
# Networks are passed as objects: Flax Linen, or a pair of pure functions `(init, apply)`. An
# algorithm is a config class and a function that makes a record of pure functions. Neither needs a
# change to the library.

# %%
import os

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxmarl_lite as jml

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 100_000))  # per seed; a test makes it small
common = dict(seeds=2, total_steps=STEPS, num_evaluations=5, eval_episodes=64, quiet=True)

# %% [markdown]
# ## An encoder
#
# An encoder, here called a torso, maps rows of observations `[rows, O]` to features `[rows, F]`.
# The library puts the heads on it. This one shares a small network over the entities of the
# observation, four numbers each, and sums what it finds, so that their order does not matter.


# %%
class Entities(nn.Module):
    """A sum over entities of four numbers each (deep sets)."""

    width: int = 64

    @nn.compact
    def __call__(self, x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 4)])
        entities = nn.relu(nn.Dense(self.width)(x.reshape(*x.shape[:-1], -1, 4)))
        return nn.relu(nn.Dense(self.width)(entities.sum(-2)))


networks = jml.Networks(actor=Entities(), critic=Entities())
result = jml.run("mappo", "toy/pursuit", networks=networks, **common)
print(result.summary())

# %% [markdown]
# The same as pure functions on plain arrays. Any library that gives `init` and `apply` fits.


# %%
def init(key, x):
    """Returns the weights for inputs like ``x``."""
    return {"w": 0.1 * jax.random.normal(key, (x.shape[-1], 32)), "b": jnp.zeros(32)}


def apply(params, x):
    """Returns the features of rows of inputs."""
    return jnp.tanh(x @ params["w"] + params["b"])


result = jml.run("mappo", "toy/climbing", networks=jml.Networks(actor=(init, apply)), **common)
print(result.final_return())

# %% [markdown]
# ## An algorithm
#
# The shortest way to a new algorithm begins with one of the library's: change its data, its loss or
# its state. Here MAPPO gets a bonus for actions that were unlikely when they were taken. `bonus` is
# a float of the config, so it is data of the compiled program: a sweep over it compiles once.


# %%
@jml.config_record
class CuriousConfig(jml.MAPPOConfig):
    """MAPPO's settings, and the weight of the bonus."""

    bonus: float = jml.bounded(0.1, 0.0, 10.0)


def make_curious(spec, config, networks=None):
    """Returns MAPPO with a bonus for unlikely actions."""
    base = jml.make_algorithm("mappo", spec, config, networks)

    def update(key, learner, batch):
        data = batch.transitions
        surprise = -learner.config.bonus * jnp.maximum(data.log_prob, -5.0)
        data = data._replace(reward=data.reward + surprise)
        return base.update(key, learner, batch._replace(transitions=data))

    return base._replace(name="curious", update=update)


result = jml.run((CuriousConfig, make_curious), "toy/climbing", **common)
print(result.summary())

# %% [markdown]
# `check_algorithm` runs the tests that every algorithm of the library passes: shapes, finite
# numbers, one compilation, the same result for the same seed, learning on small problems, and more.
# It takes some minutes, so that it stands here as text:
#
# ```python
# print(jml.check_algorithm((CuriousConfig, make_curious)))
# ```
#
# [Your own parts](../extending.md) has optimizers, schedules, loggers, callbacks, and names on the
# command line.
