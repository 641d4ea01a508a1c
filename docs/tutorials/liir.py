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
# # Which moves does a learned reward favour?
#
# Two foragers see only the cells around them, and each food needs both. LIIR (Du et al., NeurIPS
# 2019) gives every agent an intrinsic reward of its own, and changes it by the gradient of the
# *team's* return, taken through the agent's policy step. Here we train it, draw the curve, and look
# at each agent's reward over an episode.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import jaxmarl_lite as jml

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 400_000))  # per seed; a test makes it small
ENV = "jumanji/lbf-2s-8x8-2p-2f-coop"

# %% [markdown]
# Three seeds, trained by one compiled program. `result.returns` is an array `[seeds, evaluations]`.

# %%
result = jml.run("liir", ENV, seeds=3, total_steps=STEPS, num_evaluations=8, quiet=True)
print(result.summary())
result.plot()

# %% [markdown]
# How strongly does the team's return pull on the rewards, and do the two policy
# gradients agree? The first plot is the norm of the meta-gradient. The second is the cosine
# between the policy gradient by the proxy reward, which the agents follow, and the one by the
# team's reward: at 1 the intrinsic reward would change nothing.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, name in zip(axes, ["meta_gradient_norm", "proxy_extrinsic_cosine"], strict=True):
    ax.plot(result.steps, result.metrics[name].T)
    ax.set(xlabel="environment steps", title=name.replace("_", " "))
fig

# %% [markdown]
# Now one episode of the first seed: the agents' observations and actions, the team's
# reward, and each agent's learned reward at every step. `plot_intrinsic_rewards`
# draws it: the team's reward above (a food eaten), below a panel per agent, in the colors of the
# actions.

# %%
episode = result.episode()
result.plot_intrinsic_rewards(episode=episode)

# %% [markdown]
# Which actions does each agent's reward favor? For every action, the mean intrinsic
# reward of the steps that took it.

# %%
names = result.spec.action_names
for agent in range(result.spec.num_agents):
    actions, rewards = episode.action[:, agent], episode.intrinsic_reward[:, agent]
    means = {names[a]: round(float(rewards[actions == a].mean()), 3) for a in np.unique(actions)}
    print(f"agent {agent}: {means}")
