"""Reproduces the first study of LIIR's paper, in which two agents pursue a target on a line.

    python benchmarks/pursuit.py
    python benchmarks/pursuit.py --variants exact reference none --seeds 20 --steps 400000

Which moves does the learned reward favor? The team is paid when both agents approach the target
(`toy/pursuit`), so that a good move of one agent may go unpaid. Over training, the script evaluates
every agent's intrinsic reward at all positions and moves, and plots its mean for moves towards the
target, away from it, and for staying, beside the returns of the episodes in training. Variants are
LIIR's meta-gradients, and ``none``: intrinsic_lr 0, a reward that stays at its initial weights.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from pathlib import Path
from typing import Any

import bench_utils
import jax
import jax.numpy as jnp
import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.report import plotting, statistics
from jaxmarl_lite.types import Observation

VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "immediate": {"meta_gradient": "immediate"},
    "reference": {"meta_gradient": "reference"},
    "none": {"intrinsic_lr": 0.0},
}
MOVES = ("toward", "away", "stay")


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    bench_utils.add_numbers(
        parser,
        steps=(400_000, "environment steps of each seed"),
        seeds=10,
        checks=(40, "number of times the rewards are evaluated"),
    )
    bench_utils.add_numbers(parser, num_envs=64, num_steps=20, hidden_sizes=[32, 32])
    parser.add_argument("--intrinsic-coef", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the policy and the critics")
    parser.add_argument("--intrinsic-lr", type=float, default=1e-4)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Trains every variant, and writes its rewards and returns."""
    args = options(argv)
    path = args.out / "pursuit.json"
    data = bench_utils.begun(
        path, {k: str(v) for k, v in vars(args).items() if k not in ("variants", "out")}
    )
    rows = data["rows"]
    try:
        _setup(VARIANTS[args.variants[0]], args)
    except ValueError as error:
        sys.exit(f"pursuit.py: {error}")
    for name in args.variants:
        if name not in rows:
            rows[name] = study(VARIANTS[name], args)
            print(f"{name}: {_line(rows[name])}", flush=True)
            data["facts"] = bench_utils.facts()
            bench_utils.write(path, data, text(data))
            draw(rows, path.with_suffix(".png"))
    print(f"\n{text(data)}")
    return 0


def study(changes: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Returns a variant's curves: moves ``[seeds][checks + 1]``, returns ``[seeds][checks]``."""
    env, algorithm, init, train = _setup(changes, args)
    batch = args.num_envs * args.num_steps
    updates = math.ceil(args.steps / batch / args.checks)
    advance = jax.jit(jax.vmap(functools.partial(train, num_updates=updates)))
    reward_of = algorithm.intrinsic_reward
    evaluate = jax.jit(jax.vmap(lambda state: mean_rewards(env, reward_of, state.learner_state)))
    states = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), args.seeds))
    rewards, returns = [evaluate(states)], []
    for _ in range(args.checks):
        states, metrics = advance(states)
        rewards.append(evaluate(states))
        returns.append(np.nanmean(metrics["episode_return"], axis=1))
    finite = np.asarray(jax.vmap(tree_math.all_finite)(states.learner_state))[:, None]
    curves = {move: np.stack([one[move] for one in rewards], axis=1) for move in MOVES}
    curves |= {"return": np.stack(returns, axis=1)}
    steps = [i * updates * batch for i in range(args.checks + 1)]
    return {
        "steps": steps,
        **{name: np.where(finite, curve, np.nan).tolist() for name, curve in curves.items()},
    }


def _setup(changes: dict[str, Any], args: argparse.Namespace) -> Any:
    env = jml.make("toy/pursuit")
    settings = dict(intrinsic_coef=args.intrinsic_coef, intrinsic_lr=args.intrinsic_lr)
    settings |= dict(lr=args.lr, critic_lr=args.lr)
    config = jml.LIIRConfig(hidden_sizes=tuple(args.hidden_sizes), **settings | changes)
    algorithm = jml.make_algorithm("liir", env.spec, config)
    sizes = dict(num_envs=args.num_envs, num_steps=args.num_steps)
    return env, algorithm, *jml.make_train(algorithm, env, **sizes)


def mean_rewards(env: Any, reward_of: Any, learner: Any) -> dict[str, jax.Array]:
    """Returns the mean intrinsic reward by kind of move, over agents and non-target positions."""
    reach = env.reach
    offset, move = jnp.meshgrid(
        jnp.concatenate([jnp.arange(-reach, 0), jnp.arange(1, reach + 1)]), jnp.arange(3)
    )
    offset, move = offset.reshape(-1), move.reshape(-1)
    both = jnp.stack([offset, offset], -1) / reach
    lead = both.shape
    obs = Observation(both[..., None], both, jnp.ones((*lead, 3), bool), jnp.ones(lead, bool))
    rewards = reward_of(learner, obs, jnp.stack([move, move], -1)).mean(-1)
    direction = jnp.sign(offset) * (move - 1)
    kinds = {"toward": direction > 0, "away": direction < 0, "stay": direction == 0}
    return {name: jnp.where(kind, rewards, 0.0).sum() / kind.sum() for name, kind in kinds.items()}


def _line(row: dict[str, Any]) -> str:
    gap = np.asarray(row["toward"], float) - np.asarray(row["away"], float)
    return (
        f"toward less away {bench_utils.interval_text(gap[:, -1])}, return "
        f"{bench_utils.interval_text(np.asarray(row['return'], float)[:, -1])}"
    )


def text(data: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    best = jml.make("toy/pursuit").spec.max_return
    cells = []
    for name, row in data["rows"].items():
        toward, away, returns = (np.asarray(row[x], float) for x in ("toward", "away", "return"))
        gap, area = toward - away, statistics.area_under_curve(row["steps"][1:], returns)
        lost = int(np.isnan(returns[:, -1]).sum())
        note = f" ({lost} of {len(returns)} seeds diverged)" if lost else ""
        cells.append(
            {
                "meta-gradient": f"{name}{note}",
                "reward towards": bench_utils.interval_text(toward[:, -1]),
                "reward away": bench_utils.interval_text(away[:, -1]),
                "difference": bench_utils.interval_text(gap[:, -1]),
                "largest difference": bench_utils.interval_text(gap.max(1)),
                "share of seeds above 0": float((gap[~np.isnan(gap[:, -1]), -1] > 0).mean()),
                "return over training": bench_utils.interval_text(area),
                "return at the end": bench_utils.interval_text(returns[:, -1]),
            }
        )
    steps = next(iter(data["rows"].values()))["steps"][-1]
    settings = ", ".join(
        f"{name} {value}" for name, value in (data["settings"] | {"steps": f"{steps:,}"}).items()
    )
    return (
        f"# Pursuit on a line\n\n{bench_utils.facts_text(data['facts'])}\n\n"
        f"{bench_utils.table(cells)}\nIQM over seeds with 95 % bootstrap intervals. "
        "Rewards are intrinsic ones, before their weight intrinsic_coef, at the end of training, "
        f"of both agents at all positions but the target's; the best return is {best:g}. "
        f"{settings}.\n\n"
        "![Return and learned rewards over training, a line for each meta-gradient](pursuit.png)\n"
    )


def draw(rows: dict[str, Any], path: Path) -> None:
    """Draws a panel of rewards for each variant, and one of returns."""
    figure = plotting.new_figure(3.4 * (len(rows) + 1), 3.4)
    *panels, last = figure.subplots(1, len(rows) + 1)
    for index, ((name, row), axes) in enumerate(zip(rows.items(), panels, strict=True)):
        for i, move in enumerate(MOVES):
            values = np.asarray(row[move], float)
            plotting.plot_interval(axes, np.asarray(row["steps"]), values, move, i, False, 0.95)
        axes.axhline(0.0, color=plotting.MUTED_COLOR, linewidth=0.8)
        plotting.style_axes(axes, "intrinsic reward" if index == 0 else "", name, small=True)
        axes.set_xlabel("environment steps", fontsize=8)
        steps, returns = np.asarray(row["steps"][1:]), np.asarray(row["return"], float)
        plotting.plot_interval(last, steps, returns, name, index, False, 0.95)
    panels[0].legend(frameon=False, fontsize=8)
    plotting.style_axes(last, "return", "returns in training", small=True)
    last.set_xlabel("environment steps", fontsize=8)
    last.legend(frameon=False, fontsize=8)
    plotting.save(figure, path)


if __name__ == "__main__":
    bench_utils.to_the_end(main)
