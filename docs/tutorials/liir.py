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
# # Which moves does a learned reward favor?
#
# Two foragers see only the cells around them, and each food needs both. LIIR (Du et al., NeurIPS
# 2019) gives every agent an intrinsic reward of its own, and changes it by the gradient of the
# *team's* return, taken through the agent's policy step. Here we train it, draw the curve, look at
# each agent's reward over an episode, and average it by action over twenty.

# %%
import os

import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.report import plotting

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
# team's reward. The lower it is, the more the learned reward turns the step. Without a learned
# reward it is not 1 either, because the gradients contain the entropy bonus and the clipping, and
# the advantages come from two critics: [Learned rewards](../guides/learned-rewards.md) compares it
# with a run with `intrinsic_coef=0`.

# %%
panels = []
for name in ("meta_gradient_norm", "proxy_extrinsic_cosine"):
    values = result.metrics[name]  # [seeds, evaluations]
    curves = {f"seed {s}": (result.steps, v) for s, v in zip(result.seeds, values, strict=True)}
    panels.append(plotting.Panel(name.replace("_", " "), "", curves))
plotting.draw_panels(panels)

# %% [markdown]
# Now twenty episodes of the seed with the highest return. An episode has the agents' observations
# and actions, the team's reward, and each agent's learned reward at every step.

# %%
seed = result.seeds[int(np.nanargmax(result.returns[:, -1]))]
episodes = [result.episode(seed, episode_seed=i) for i in range(20)]
returns = [float(episode.team_reward.sum()) for episode in episodes]
print(f"seed {seed}: {np.count_nonzero(returns)} of {len(episodes)} episodes with food eaten")

# %% [markdown]
# We draw the episode with the highest return; of several, the shortest. In the upper panel a bar is
# a food eaten; an episode with return 0 has none. Below is a panel for each agent: a bar is its
# intrinsic reward of a step, in the color of the action.

# %%
best = max(range(len(episodes)), key=lambda i: (returns[i], -episodes[i].length))
print(f"episode {best}: return {returns[best]:.2f} in {episodes[best].length} steps")
result.plot_intrinsic_rewards(episode=episodes[best])

# %% [markdown]
# Which actions does each agent's reward favor? The table has the mean intrinsic reward of each
# action over the steps of all episodes, and the share of the steps that took it.

# %%
actions = np.concatenate([episode.action for episode in episodes])  # [T, N]
rewards = np.concatenate([episode.intrinsic_reward for episode in episodes])  # [T, N]
print(f"{'agent':<8}{'action':<8}{'share of steps':>15}{'mean reward':>13}")
for agent in range(result.spec.num_agents):
    for number, name in enumerate(result.spec.action_names):
        taken = actions[:, agent] == number
        mean = f"{rewards[taken, agent].mean():.3f}" if taken.any() else "-"
        print(f"{agent:<8}{name:<8}{taken.mean():>15.3f}{mean:>13}")

# %% [markdown]
# Only actions that the policy takes can be compared. An action without a step has no mean, and that
# of an action with few steps depends on the few situations in which it was taken. The reward is of
# this seed: networks of other seeds learn other rewards.
