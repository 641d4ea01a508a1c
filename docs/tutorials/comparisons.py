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

STEPS = int(os.environ.get("NOTEBOOK_STEPS", 6_000))  # per seed; a test makes it small
ENV = "toy/relay"
common = dict(total_steps=STEPS, num_evaluations=5, eval_episodes=64, num_envs=16, num_steps=32)

# %% [markdown]
# The runs are short on purpose. After 100,000 steps both algorithms are at the best possible
# return, 5, and a comparison at the end would decide nothing. Compare where runs still differ.
#
# ## The same effort for each
#
# `sweep` trains every point of a grid. Points that differ in floats alone run side by side as one
# program, so that nine points compile once.

# %%
grid = {"lr": [3e-4, 1e-3, 3e-3], "entropy_coef": [0.0, 0.003, 0.01]}
sweeps = {
    name: jml.sweep(name, ENV, grid=grid, seeds=2, out=f"runs/tuning/{name}", quiet=True, **common)
    for name in ("ippo", "mappo")
}
for name, sweep in sweeps.items():
    print(name, sweep.best)

# %% [markdown]
# The figure has a panel for each setting: a dot is a point of the grid with its interval, and the
# circle is the best point. In the last panel each point is a line through its settings to its
# score; the darker a line, the better the point.

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
# The table has the interquartile mean with a 95 % bootstrap interval, and the probability that a
# run of one algorithm beats a run of the other, by the return at the end and by its mean over
# training. An interval of that probability that contains 0.5 says that the data do not decide. The
# two measures are different questions, and may have different answers.

# %%
row = comparison.rows()[-1]  # MAPPO's, against IPPO
for when in ("final", "over_training"):
    chance = row[f"against_{when}"]
    decided = "does not decide" if chance["low"] <= 0.5 <= chance["high"] else "decides"
    print(f"P(ippo better), {when}: {chance['low']:.2f} to {chance['high']:.2f}, {decided}")

# %% [markdown]
# A decision holds for this task, this length and these grids: another grid of learning rates may
# turn it round. In tasks with random starts a measured return may exceed "best possible" a little:
# that is the best *expected* return, and evaluation episodes are a sample.

# %%
comparison.plot()

# %% [markdown]
# ## Beside recorded results
#
# Learning curves by seed come with the package, with their settings, versions and commands. Here is
# the mean over all seeds at the last step. MACPO and MAPPO-Lagrangian keep a limit that the other
# two do not know, so their returns are no comparison by themselves.

# %%
frame = jml.reference_results("toy/budget")
last = frame[frame["step"] == frame.groupby("label")["step"].transform("max")]
print(last.groupby("label")["eval_return"].agg(["mean", "count"]).round(2))

# %% [markdown]
# `jaxmarl-lite compare runs/mine --reference` draws your run beside them, and beside the values
# that papers publish. For larger spaces `jml.optimize`, or `jaxmarl-lite sweep --optuna`, is an
# Optuna study with a pruner.
