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
# # Robots within limits
#
# `safe-mujoco/...` are the tasks of the MACPO paper: the joints of one MuJoCo robot are divided
# among agents, and each agent has a cost. Physics is slow on a CPU, so this page trains for a
# moment only, and then shows curves that come with the package, cost beside return.

# %%
import os

import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.report import plotting, statistics

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 16_384))  # per seed; a test makes it small
ENV = "safe-mujoco/halfcheetah-2x3"

# %% [markdown]
# The half-cheetah's six joints belong to two agents, three each. A bomb rolls on a rail in front of
# it, and the cost is 1 in every step in which the cheetah is within nine meters of the bomb.

# %%
env = jml.make(ENV)
spec = env.spec
print(spec.num_agents, "agents,", spec.action_size, "joints each")
print("costs:", dict(zip(spec.cost_names, np.ravel(spec.cost_limits).tolist(), strict=False)))

# %% [markdown]
# The tuned settings of an algorithm in an environment are what `run` and the command line use.

# %%
tuned = jml.tuned("macpo", ENV)
print({name: tuned[name] for name in ("num_envs", "num_steps")})
print("target_kl", tuned["config"].target_kl, " recovery_share", tuned["config"].recovery_share)

# %% [markdown]
# One command trains it for real; a run can be interrupted at any moment and goes on with
# `--resume`:
#
# ```text
# jaxmarl-lite train macpo --env safe-mujoco/halfcheetah-2x3 --seeds 5 --total-steps 3_000_000 --out runs/cheetah
# jaxmarl-lite render runs/cheetah
# ```
#
# Here are two updates, to see that it runs:

# %%
result = jml.run(
    "macpo", ENV, seeds=1, total_steps=STEPS, num_evaluations=1, eval_episodes=4, quiet=True
)
print(f"return {result.final_return().estimate:.1f} of one seed, which has no interval")
print("cost per episode of each agent:", result.final_costs().estimate[:, 0].round(1).tolist())

# %% [markdown]
# ## A stored result
#
# The curves of five seeds come with the package: return and cost of each evaluation, with settings,
# versions and the command. The return is the interquartile mean (IQM) over seeds. The cost is the
# mean, because the limit is on the mean. Both agents pay for the same bomb, so their costs are
# equal.

# %%
frame = jml.reference_results(ENV)
limit = float(np.ravel(spec.cost_limits)[0])
curves = {}
for label, rows in frame.groupby("label"):
    by_step = rows.pivot(index="seed", columns="step")  # a row for each seed
    steps = by_step["eval_return"].columns
    returns = by_step["eval_return"].to_numpy()  # [seeds, evaluations]
    costs = by_step["eval_cost/agent_0/cost_0"].to_numpy()
    curves[label] = plotting.RunCurves(steps, returns, costs[..., None, None], limits=[[limit]])
    score = statistics.bootstrap_interval(returns[:, -1])
    cost = statistics.bootstrap_interval(costs[:, -1], statistics.mean)
    print(f"{label}, {len(returns)} seeds, after {steps[-1]:,} steps, with 95 % intervals:")
    print(f"  return {score.estimate:.0f} (IQM), from {score.low:.0f} to {score.high:.0f}")
    print(f"  cost {cost.estimate:.1f} (mean), from {cost.low:.1f} to {cost.high:.1f}")
    print(f"  seeds within the limit of {limit:g}: {(costs[:, -1] <= limit).sum()}")

# %% [markdown]
# **MACPO does not keep the limit on average here.** Its mean cost after three million steps is more
# than twice the limit. The two seeds with the highest returns have the highest costs, so its return
# is no return *within* the limit. **MAPPO-Lagrangian ends within it** in all five seeds, after one
# million steps. The runs differ in length: MACPO's cost, too, was near the limit after one million
# steps, and rose later. [Limits on costs](../guides/cost-limits.md) lists what to change where a limit is
# broken.

# %%
plotting.plot_runs(
    curves,
    cost_names=spec.cost_names,
    cost_descriptions=spec.cost_descriptions,
    ylabel=spec.return_description,
)
