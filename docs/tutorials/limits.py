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
# # A team with two limits
#
# Two agents choose how hard to work, five times an episode. Work pays the team; it also costs its
# agent *energy* and *noise*, each of which has a limit per agent. We train a team without
# limits, measure its costs, and then train two teams with limits: MACPO, whose steps
# solve a problem with the limits as constraints in a trust region, and MAPPO-Lagrangian, which
# prices the costs. The best return under the limits is the solution of a linear program here, so
# the price of each limit is known.

# %%
import os

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
# HAPPO maximizes the return. The table shows each agent's costs, and the share of episodes within
# each limit. In the tables "best possible" is the best return *without* limits, 30.

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
config = {"cost_confidence": 0.9}
safe = jml.run("macpo", "toy/budget-two", config=config, **common)
print(safe.summary())
safe.plot()

# %% [markdown]
# MAPPO-Lagrangian needs no trust region: it takes each cost from the advantage at a
# price, and moves the prices. They begin at 0, overshoot, and settle slowly, so that it has three
# times as many steps here.

# %%
config = {"cost_confidence": 0.9, "multiplier_ki": 0.1, "multiplier_kp": 2.0}
longer = common | dict(total_steps=3 * STEPS)
priced = jml.run("mappo-lagrangian", "toy/budget-two", config=config, **longer)
print(priced.summary())

# %% [markdown]
# ## Side by side
#
# The line "best possible" of the first panel is the best return under the limits here, 10.83. A
# curve above it breaks a limit in the other panels, which show the agent that is farthest over its limit; where the agents'
# limits differ, as for noise, the curve is the cost less the limit. HAPPO knows no limits. MACPO
# comes near the line. MAPPO-Lagrangian is a little above it at the end, and over some limits,
# because its prices and costs are still settling.

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
# ## Steps and prices
#
# A limit has a price: the return that one more unit of cost would bring. We raise each limit by a
# small amount, and compute the best return again.

# %%
RAISE = 1e-3
prices = np.zeros(safe.limits.shape)  # [agents, costs]
for agent, k in np.ndindex(prices.shape):
    limits = safe.limits.copy()
    limits[agent, k] += RAISE
    by_name = dict(zip(spec.cost_names, map(tuple, limits.T), strict=True))
    prices[agent, k] = (env.constrained_best(by_name) - env.constrained_best()) / RAISE
    print(f"{spec.cost_names[k]}, agent {agent}: {prices[agent, k]:.2f} of return per unit of cost")

# %% [markdown]
# The left panel shows which share of MACPO's steps found each of four cases:
#
# - unconstrained: every step of the trust region keeps the limits;
# - constrained: the limits are kept, and one of them cuts the trust region;
# - recoverable: a limit is broken, and can be met in this step;
# - infeasible: a limit is broken, and no step in the trust region meets all of them.
#
# While a limit is broken, the steps lead back to it. The costs are means of sampled episodes, so
# that a mean that sits at its limit is over it in part of the updates, and steps recover to the
# end.
#
# The right panel shows the multipliers of MAPPO-Lagrangian, in reward per unit of cost. They come
# near the prices above, the dashed lines. At these prices a unit of cost takes as much as it
# brings, so that the costs themselves settle slowly.

# %%
cases = {
    name: (safe.steps, safe.metrics[f"case_{name}"].mean(-1))  # mean over agents
    for name in ("unconstrained", "constrained", "recoverable", "infeasible")
}
multipliers = {
    f"{name}, agent {agent}": (priced.steps, priced.metrics["lagrange_multiplier"][..., agent, k])
    for k, name in enumerate(spec.cost_names)
    for agent in range(spec.num_agents)
}
lines = [plotting.HLine(price, f"price {price:.2f}") for price in np.unique(prices.round(3))]
plotting.draw_panels(
    [
        plotting.Panel("MACPO: cases", "share of steps", cases),
        plotting.Panel("MAPPO-Lagrangian: multipliers", "reward per cost", multipliers, lines),
    ]
)

# %% [markdown]
# The probability of keeping each limit in an episode is another number than keeping
# it on average, and usually smaller:

# %%
for result in (free, safe, priced):
    print(result.algorithm, np.round(result.satisfaction_rate(), 2).tolist())
