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
# among agents, and each agent has a cost. Physics is slow on a CPU, so this page trains for a moment
# only, and then shows curves that come with the package.

# %%
import os

import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.report import plotting

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
# One command trains it for real; a run can be interrupted at any moment and goes on with `--resume`:
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
print(result.final_return(), result.costs[:, -1].round(1).tolist())

# %% [markdown]
# ## A stored result
#
# The curves of five seeds come with the package: return and cost of each evaluation, with settings,
# versions and the command.

# %%
frame = jml.reference_results(ENV)
last = frame[frame.step == frame.groupby("label").step.transform("max")]
columns = ["eval_return", "eval_cost/agent_0/cost_0"]
print(last.groupby("label")[columns].mean().round(1))

# %%
curves = {}
for label, rows in frame.groupby("label"):
    table = rows.pivot(index="seed", columns="step", values="eval_return")
    curves[label] = plotting.RunCurves(table.columns.to_numpy(), table.to_numpy())
plotting.plot_runs(curves, ylabel=spec.return_description)
