"""The first study of LIIR's paper: two agents pursue a target on a line. Which moves does the
learned reward favour?

    python benchmarks/pursuit.py
    python benchmarks/pursuit.py --variants exact reference none --seeds 20 --steps 400000

The team is paid when both agents approach the target (`toy/pursuit`), so that what one does right
may go unpaid. Over training, the script asks every agent's intrinsic reward about all places and
moves, and draws its mean for moves towards the target, away from it, and for staying; with it the
returns of the episodes in training. Variants are LIIR's meta-gradients, and ``none``: intrinsic_lr
0, a reward that stays as it began.
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
import variants

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import liir
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.report import drawing, statistics
from jaxmarl_lite.types import Observation

VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "immediate": {"meta_gradient": "immediate"},
    "reference": {"meta_gradient": "reference"},
    "none": {"intrinsic_lr": 0.0},
}
MOVES = ("toward", "away", "stay")


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--steps", type=variants.whole, default=400_000, help="environment steps of each seed"
    )
    parser.add_argument("--seeds", type=variants.whole, default=10)
    parser.add_argument(
        "--checks", type=variants.whole, default=40, help="moments at which the rewards are asked"
    )
    parser.add_argument("--num-envs", type=variants.whole, default=64)
    parser.add_argument("--num-steps", type=variants.whole, default=20)
    parser.add_argument("--hidden-sizes", type=variants.whole, nargs="+", default=[32, 32])
    parser.add_argument("--intrinsic-coef", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the policy and the critics")
    parser.add_argument("--intrinsic-lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=bench_utils.RESULTS)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Train every variant, and write what its rewards said."""
    chosen = options(words)
    path = chosen.out / "pursuit.json"
    data = bench_utils.begun(
        path, {k: str(v) for k, v in vars(chosen).items() if k not in ("variants", "out")}
    )
    rows = data["rows"]
    try:
        _setup(VARIANTS[chosen.variants[0]], chosen)
    except ValueError as error:
        sys.exit(f"pursuit.py: {error}")
    for name in chosen.variants:
        if name not in rows:
            rows[name] = study(VARIANTS[name], chosen)
            print(f"{name}: {_line(rows[name])}", flush=True)
            data["facts"] = bench_utils.facts()
            bench_utils.write(path, data, text(data))
            draw(rows, path.with_suffix(".png"))
    print(f"\n{text(data)}")
    return 0


def study(changes: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """Curves of one variant: ``[seeds][checks + 1]`` of each kind of move, ``[seeds][checks]`` of
    the returns.
    """
    env, init, train = _setup(changes, chosen)
    batch = chosen.num_envs * chosen.num_steps
    updates = math.ceil(chosen.steps / batch / chosen.checks)
    go = jax.jit(jax.vmap(functools.partial(train, num_updates=updates)))
    ask = jax.jit(jax.vmap(lambda state: asked(env, state.learner_state)))
    states = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), chosen.seeds))
    told, returns = [ask(states)], []
    for _ in range(chosen.checks):
        states, metrics = go(states)
        told.append(ask(states))
        returns.append(np.nanmean(metrics["return"], axis=1))
    sound = np.asarray(jax.vmap(tree_math.all_finite)(states.learner_state))[:, None]
    curves = {move: np.stack([one[move] for one in told], axis=1) for move in MOVES}
    curves |= {"return": np.stack(returns, axis=1)}
    steps = [i * updates * batch for i in range(chosen.checks + 1)]
    return {
        "steps": steps,
        **{name: np.where(sound, curve, np.nan).tolist() for name, curve in curves.items()},
    }


def _setup(changes: dict[str, Any], chosen: argparse.Namespace) -> Any:
    env = jml.make("toy/pursuit")
    settings = {
        "intrinsic_coef": chosen.intrinsic_coef,
        "intrinsic_lr": chosen.intrinsic_lr,
        "lr": chosen.lr,
        "critic_lr": chosen.lr,
    }
    config = jml.LIIRConfig(hidden_sizes=tuple(chosen.hidden_sizes), **settings | changes)
    algorithm = jml.make_algorithm("liir", env.spec, config)
    return env, *jml.make_train(
        algorithm, env, num_envs=chosen.num_envs, num_steps=chosen.num_steps
    )


def asked(env: Any, learner: Any) -> dict[str, jax.Array]:
    """Mean intrinsic reward of each kind of move, over both agents and all places but the
    target's.
    """
    reach = env.reach
    offset, move = jnp.meshgrid(
        jnp.concatenate([jnp.arange(-reach, 0), jnp.arange(1, reach + 1)]), jnp.arange(3)
    )
    offset, move = offset.reshape(-1), move.reshape(-1)
    both = jnp.stack([offset, offset], -1) / reach
    lead = both.shape
    obs = Observation(both[..., None], both, jnp.ones((*lead, 3), bool), jnp.ones(lead, bool))
    said = liir.intrinsic_rewards(env.spec, learner, obs, jnp.stack([move, move], -1)).mean(-1)
    way = jnp.sign(offset) * (move - 1)
    kinds = {"toward": way > 0, "away": way < 0, "stay": way == 0}
    return {name: jnp.where(kind, said, 0.0).sum() / kind.sum() for name, kind in kinds.items()}


def _interval(values: Any) -> str:
    found = statistics.bootstrap_interval(values)
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _line(row: dict[str, Any]) -> str:
    gap = np.asarray(row["toward"], float) - np.asarray(row["away"], float)
    return (
        f"toward less away {_interval(gap[:, -1])}, return "
        f"{_interval(np.asarray(row['return'], float)[:, -1])}"
    )


def text(data: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""
    best = jml.make("toy/pursuit").spec.max_return
    cells = []
    for name, row in data["rows"].items():
        toward, away, returns = (
            np.asarray(row[part], float) for part in ("toward", "away", "return")
        )
        gap = toward - away
        lost = int(np.isnan(returns[:, -1]).sum())
        cells.append(
            [
                f"{name} ({lost} of {len(returns)} seeds diverged)" if lost else name,
                _interval(toward[:, -1]),
                _interval(away[:, -1]),
                _interval(gap[:, -1]),
                _interval(gap.max(1)),
                float((gap[~np.isnan(gap[:, -1]), -1] > 0).mean()),
                _interval(statistics.area_under_curve(row["steps"][1:], returns)),
                _interval(returns[:, -1]),
            ]
        )
    columns = [
        "meta-gradient",
        "reward towards",
        "reward away",
        "difference",
        "largest difference",
        "share of seeds above 0",
        "return over training",
        "return at the end",
    ]
    steps = next(iter(data["rows"].values()))["steps"][-1]
    settings = ", ".join(
        f"{name} {value}" for name, value in (data["settings"] | {"steps": f"{steps:,}"}).items()
    )
    return (
        "# Pursuit on a "
        f"line\n\n{bench_utils.facts_text(data['facts'])}\n\n{bench_utils.table(columns, cells)}\n"
        "IQM over seeds with 95 % bootstrap intervals. Rewards are intrinsic ones, before their "
        "weight intrinsic_coef, "
        "at the end of training, of both agents at all places but the target's; "
        f"the best return is {best:g}. {settings}.\n\n"
        "![Curves](pursuit.png)\n"
    )


def draw(rows: dict[str, Any], path: Path) -> None:
    """A panel of rewards for each variant, and one of returns."""
    figure = drawing.new_figure(3.4 * (len(rows) + 1), 3.4)
    *panels, last = figure.subplots(1, len(rows) + 1)
    for place, ((name, row), axes) in enumerate(zip(rows.items(), panels, strict=True)):
        for i, move in enumerate(MOVES):
            values = np.asarray(row[move], float)
            drawing.plot_interval(axes, np.asarray(row["steps"]), values, move, i, False, 0.95)
        axes.axhline(0.0, color=drawing.MUTED_COLOR, linewidth=0.8)
        drawing.style_axes(axes, "intrinsic reward" if place == 0 else "", name, small=True)
        axes.set_xlabel("environment steps", fontsize=8)
        steps, returns = np.asarray(row["steps"][1:]), np.asarray(row["return"], float)
        drawing.plot_interval(last, steps, returns, name, place, False, 0.95)
    panels[0].legend(frameon=False, fontsize=8)
    drawing.style_axes(last, "return", "returns in training", small=True)
    last.set_xlabel("environment steps", fontsize=8)
    last.legend(frameon=False, fontsize=8)
    drawing.save(figure, path)


if __name__ == "__main__":
    variants.to_the_end(main)
