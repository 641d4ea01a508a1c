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
# # What does a learned reward say?
#
# Two foragers see only the cells around them, and each food needs both. LIIR (Du et al., NeurIPS 2019) gives every
# agent an intrinsic reward of its own, and changes it by the gradient of the *team's* return, taken through the agent's
# policy step. Here we train it, draw the curve, and look at what each agent's reward says over an episode.

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import liir

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 400_000))  # per seed; a test makes it small
ENV = "jumanji/lbf-2s-8x8-2p-2f-coop"

# %% [markdown]
# Three seeds, trained by one compiled program. `result.returns` is an array `[seeds, evaluations]`.

# %%
result = jml.run("liir", ENV, seeds=3, total_steps=STEPS, evaluations=8, quiet=True)
print(result.summary())
result.plot()

# %% [markdown]
# How strongly does the team's return pull on the rewards, and do the two policy gradients agree? The first picture is
# the norm of the meta-gradient. The second is the cosine between the policy gradient by the proxy reward, which the
# agents follow, and the one by the team's reward: at 1 the intrinsic reward would change nothing.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, name in zip(axes, ["meta_gradient_norm", "proxy_extrinsic_cosine"], strict=True):
    ax.plot(result.steps, result.metrics[name].T)
    ax.set(xlabel="environment steps", title=name.replace("_", " "))
fig

# %% [markdown]
# Now one episode of the first seed. `make_play` gives the states, what the agents saw, and what they did;
# `intrinsic_rewards` what each agent's learned reward says to every step of it.

# %%
env, seed = result.env, result.seeds[0]
learner = result.learner(seed)
algorithm = jml.make_algorithm("liir", env.spec, result.config)
play = jax.jit(jml.make_play(algorithm, env, env.spec.episode_limit))
states, timesteps, actions = play(learner, jax.random.key(1))
rewards = np.asarray(liir.intrinsic_rewards(env.spec, learner, timesteps.obs, actions))
last = np.asarray(timesteps.last)
length = int(last.argmax()) if last.any() else env.spec.episode_limit
team = np.asarray(timesteps.reward[1 : length + 1, 0])

# %% [markdown]
# The bars are the team's reward (a food eaten), the lines what each agent was told.

# %%
fig, ax = plt.subplots(figsize=(9, 3.5), layout="constrained")
for agent in range(env.spec.num_agents):
    ax.plot(rewards[:length, agent], label=f"intrinsic reward of agent {agent}")
ax.set(xlabel="step of the episode", ylabel="intrinsic reward")
other = ax.twinx()
other.bar(np.arange(len(team)), team, color="0.8", zorder=0, label="team reward")
other.set(ylabel="team reward", ylim=(0, 1))
ax.legend(loc="upper left")
fig

# %% [markdown]
# Which actions does each agent's reward favour? For every action, the mean intrinsic reward of the steps that took it.

# %%
names = ["stay", "up", "down", "left", "right", "load"]
for agent in range(env.spec.num_agents):
    taken = np.asarray(actions[:length, agent])
    means = {names[a]: round(float(rewards[:length, agent][taken == a].mean()), 3) for a in np.unique(taken)}
    print(f"agent {agent}: {means}")
