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
# # Sweeps and honest comparisons
#
# Is one algorithm better than another, or was it tuned longer and drawn a lucky seed? Three habits
# answer most of that: tune each with the same effort, compare on fresh seeds, and report an
# interval with the difference.

# %%
import os

import jaxmarl_lite as jml

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 40_000))  # per seed; a test makes it small
ENV = "toy/pursuit"
common = dict(total_steps=STEPS, num_evaluations=5, eval_episodes=64, num_envs=16, num_steps=32)

# %% [markdown]
# ## The same effort for each
#
# `sweep` trains every point of a grid. Points that differ in floats alone run side by side as one
# program, so that nine points compile once.

# %%
grid = {"lr": [1e-3, 3e-3, 1e-2], "entropy_coef": [0.0, 0.003, 0.01]}
sweeps = {
    name: jml.sweep(name, ENV, grid=grid, seeds=2, out=f"runs/tuning/{name}", quiet=True, **common)
    for name in ("ippo", "mappo")
}
for name, sweep in sweeps.items():
    print(name, sweep.best)

# %%
sweeps["ippo"].plot()

# %% [markdown]
# ## Fresh seeds
#
# The best of nine points was chosen because its seeds did well, so its score is too good. The
# comparison uses seeds that took no part in the choice.

# %%
for name, sweep in sweeps.items():
    jml.run(
        name,
        ENV,
        config=sweep.best,
        seeds=range(100, 108),
        out=f"runs/fresh/{name}",
        quiet=True,
        **common,
    )
comparison = jml.compare_runs(["runs/fresh/ippo", "runs/fresh/mappo"])
print(comparison.summary())

# %% [markdown]
# The table has the interquartile mean with a 95 % bootstrap interval, and the probability that a run
# of one algorithm beats a run of the other. An interval of that probability that contains 0.5 says
# that the data do not decide.

# %%
comparison.plot()

# %% [markdown]
# ## Beside recorded results
#
# Learning curves by seed come with the package, with their settings, versions and commands.

# %%
frame = jml.reference_results("toy/budget")
print(frame.groupby("label")[["eval_return"]].last())

# %% [markdown]
# `jaxmarl-lite compare runs/mine --reference` draws your run beside them, and beside the values that
# papers publish. For larger spaces `jml.optimize`, or `jaxmarl-lite sweep --optuna`, is an Optuna
# study with a pruner.
