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
# # A team that keeps two limits
#
# Two agents choose how hard to work, five times an episode. Work pays the team; it also costs its
# agent *energy* and *noise*, each of which has a limit per agent. We train a team without
# limits, measure its costs, and then train two teams with limits: MACPO, whose steps stay
# inside the limits, and MAPPO-Lagrangian, which prices the costs. The best return under the limits
# is the solution of a linear program here, so the price of the limits is known.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.report import plotting

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 150_000))  # per seed; a test makes it small
env = jml.make("toy/budget-two")
spec = env.spec
print("costs:", dict(zip(spec.cost_names, spec.cost_limits, strict=True)))
print(
    "best return without limits:",
    spec.max_return,
    "  within them:",
    round(env.constrained_best(), 2),
)

# %% [markdown]
# ## Without limits
#
# HAPPO maximises the return. The table shows each agent's costs, and the share of episodes within
# each limit.

# %%
common = dict(seeds=3, total_steps=STEPS, num_evaluations=10, eval_episodes=256, quiet=True)
free = jml.run("happo", "toy/budget-two", **common)
print(free.summary())
free.plot()

# %% [markdown]
# ## Within limits
#
# Limits are in cost per episode. They come from the environment here; `cost_limit={"energy": 5,
# "noise": (5, 4)}` in the config would give others, and `--cost-limit energy=5 noise=5,4` does on
# the command line. With `cost_confidence=0.9` the upper end of the mean cost's 90 % interval is
# held under its limit; with 0.5, the default, the mean itself.

# %%
config = jml.MACPOConfig(cost_confidence=0.9)
safe = jml.run("macpo", "toy/budget-two", config=config, **common)
print(safe.summary())
safe.plot()

# %% [markdown]
# MAPPO-Lagrangian needs no trust region: it takes each cost from the advantage at a
# price, and moves the prices. They begin at 0 and rise slowly, so that it has three times as many
# steps here.

# %%
config = jml.MAPPOLagrangianConfig(cost_confidence=0.9, multiplier_ki=0.1, multiplier_kp=2.0)
longer = common | dict(total_steps=3 * STEPS)
priced = jml.run("mappo-lagrangian", "toy/budget-two", config=config, **longer)
print(priced.summary())

# %% [markdown]
# ## Side by side
#
# The constrained algorithms reach the best return under the limits, and no more: a curve above the
# line in the first panel breaks a limit in the others.

# %%
runs = {
    r.algorithm: plotting.RunCurves(r.steps, r.returns, r.costs, limits=safe.limits)
    for r in (free, safe, priced)
}
plotting.plot_runs(
    runs,
    cost_names=spec.cost_names,
    cost_descriptions=spec.cost_descriptions,
    ylabel=spec.return_description,
    best=env.constrained_best(),
)

# %% [markdown]
# The next figure shows the share of MACPO's steps that had to recover, met a broken
# limit, or were cut by one; and the prices of MAPPO-Lagrangian, in reward per unit of cost. The
# prices of the linear program's dual are what they should settle at.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for name in ("infeasible", "recoverable", "constrained", "unconstrained"):
    axes[0].plot(safe.steps, np.nanmean(safe.metrics[f"case_{name}"], (0, 2)), label=name)
for k, name in enumerate(spec.cost_names):
    for agent in range(spec.num_agents):
        axes[1].plot(
            priced.steps,
            np.nanmean(priced.metrics["lagrange_multiplier"][..., agent, k], 0),
            label=f"{name}, {agent}",
        )
axes[0].set(title="MACPO: share of steps", xlabel="environment steps")
axes[1].set(title="MAPPO-Lagrangian: prices", xlabel="environment steps")
for ax in axes:
    ax.legend(fontsize=7)
fig

# %% [markdown]
# The probability of keeping each limit in an episode is another number than keeping
# it on average, and usually smaller:

# %%
for result in (free, safe, priced):
    print(result.algorithm, np.round(result.satisfaction_rate(), 2).tolist())
