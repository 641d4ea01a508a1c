"""Compares LIIR with its ablations, each tuned by as many trials, on tasks that may need it.

    python benchmarks/liir_ablation.py
    python benchmarks/liir_ablation.py --tasks relay pursuit-5 --trials 32 --seeds 30 --steps 300000

Every variant has the same number of trials, in two rounds. The first draws learning rate, entropy
bonus, epochs and minibatches, the same draws for all; the second, at the best of them, draws the
settings of the variant alone: lambda and the intrinsic reward's learning rate, so that they are
chosen for their own effect and not for the settings drawn with them. Plain learning (lambda = 0)
draws the settings of the first round again. The best trial is that of the highest mean return over
training, over a few seeds; the report is of fresh seeds at its settings. The trials of a round with
the same epochs and minibatches are one compiled program, and the fresh seeds another.

Tasks: pursuit on a line (paid when all approach), of two agents and of five; the same paid at an
episode's end; relay (one agent's part is paid for at the end alone, after 16 or 64 steps); a matrix
game with a second-best equilibrium; foraging, also paid at the end. ``central critic`` is lambda =
0 again, with a critic that sees the state, the input of LIIR's extrinsic critic, for the policy
directly. ``exact without`` is lambda = 0 at the settings that were chosen for LIIR (``exact``):
what the reward alone does there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_utils
import jax
import jax.numpy as jnp
import numpy as np

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import compare
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.report import plotting

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "pursuit": ("toy/pursuit", {}),
    "pursuit-5": ("toy/pursuit", {"agents": 5}),
    "pursuit, paid late": ("delayed/toy/pursuit", {}),
    "relay": ("toy/relay", {}),
    "long relay": ("toy/relay", {"steps": 64, "immediate_reward": 1 / 64}),
    "climbing": ("toy/climbing", {}),
    "foraging": ("jumanji/lbf-2s-8x8-2p-2f-coop", {}),
    "foraging, paid late": ("delayed/jumanji/lbf-2s-8x8-2p-2f-coop", {}),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "lambda = 0": {"intrinsic_coef": 0.0},
    "exact without": {"intrinsic_coef": 0.0},
    "immediate": {"meta_gradient": "immediate"},
    "reference": {"meta_gradient": "reference"},
    "random": {"intrinsic_lr": 0.0, "intrinsic_init_scale": 1.0},
    "central critic": {"intrinsic_coef": 0.0, "critic_input": "global_state"},
}
"""Fixed settings of each variant. All but the last have LIIR's critics: the proxy critic sees the
agent's observation, the extrinsic critic the state."""
BORROWED = {"exact without": "exact"}
"""Variant -> the one whose settings it takes, instead of being tuned."""
COMMON = {"lr": (1e-4, 1e-2), "entropy_coef": (1e-4, 3e-2)}
CHOICES = {"num_epochs": (2, 4, 8), "num_minibatches": (1, 2, 4)}
"""Setting -> equally likely values; each combination is a program of its own."""
OWN = {"intrinsic_coef": (1e-3, 1.0), "intrinsic_lr": (1e-4, 1e-2)}
"""Setting -> the range of its draws, uniform in the logarithm; critics learn at ``lr``, or at 1e-3
if that is more."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT"
    )
    bench_utils.add_numbers(
        parser,
        trials=(16, "draws of the settings, for each variant"),
        tuning_seeds=(4, "of each trial"),
        seeds=(20, "fresh seeds, at the best trial's settings"),
        steps=(100_000, "environment steps of each run"),
        points=(20, "of a curve"),
    )
    bench_utils.add_numbers(parser, num_envs=16, num_steps=32, hidden_sizes=[32, 32])
    args = parser.parse_args(argv)
    if args.num_envs % max(CHOICES["num_minibatches"]):
        parser.error(
            f"--num-envs is {args.num_envs}; allowed is a multiple of "
            f"{max(CHOICES['num_minibatches'])}"
        )
    args.variants.sort(key=list(VARIANTS).index)  # who borrows comes after who lends
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs task by task and rewrites the report; earlier rows with these settings stay."""
    args = options(argv)
    path = args.out / "liir-ablation.json"
    settings = {
        name: str(value)
        for name, value in vars(args).items()
        if name not in ("tasks", "variants", "out")
    }
    settings["searched"] = str(COMMON | CHOICES | OWN)
    data = bench_utils.begun(path, settings)
    for task in args.tasks:
        for variant, lender in BORROWED.items():
            if variant in args.variants and lender not in {
                *args.variants,
                *data["rows"].get(task, {}),
            }:
                sys.exit(
                    f"--variants has {variant!r}; allowed with {lender!r}, whose settings it takes"
                )
    for task in args.tasks:
        rows = data["rows"].setdefault(task, {})
        for variant in args.variants:
            if variant not in rows:
                began = time.perf_counter()
                lent = rows[BORROWED[variant]]["chosen"] if variant in BORROWED else None
                rows[variant] = measured(task, variant, args, lent)
                last = bench_utils.interval_text(np.asarray(rows[variant]["returns"])[:, -1])
                print(
                    f"{task}, {variant}: {last} after {time.perf_counter() - began:.0f} s",
                    flush=True,
                )
                data["facts"] = bench_utils.facts()
                bench_utils.write(path, data, text(data))
        draw(data["rows"], path.with_suffix(".png"))
    print(f"\n{text(data)}")
    return 0


def measured(
    task: str, variant: str, args: argparse.Namespace, lent: dict[str, float] | None = None
) -> dict[str, Any]:
    """Returns the best trial's settings (or ``lent``), and curves of fresh seeds at them."""
    env_id, keywords = TASKS[task]
    env = jml.make(env_id, **keywords)
    plain = jml.LIIRConfig(hidden_sizes=tuple(args.hidden_sizes), **VARIANTS[variant])
    updates = max(args.points, args.steps // (args.num_envs * args.num_steps))
    updates -= updates % args.points

    @functools.cache
    def program(epochs: int, num_minibatches: int) -> Callable[..., jax.Array]:
        """Returns mean returns ``[points]`` of keys and configs that differ in floats."""
        config = dataclasses.replace(plain, num_epochs=epochs, num_minibatches=num_minibatches)
        algorithm = jml.make_algorithm("liir", env.spec, config)
        init, train = jml.make_train(algorithm, env, args.num_envs, args.num_steps)

        @jax.jit
        @jax.vmap
        def curve(key: jax.Array, config: Any) -> jax.Array:
            state, metrics = train(init(key, config), updates)
            parts = metrics["episode_return"].reshape(args.points, -1)
            return jnp.where(
                tree_math.all_finite(state.learner_state), jnp.nanmean(parts, axis=1), jnp.nan
            )

        return curve

    if lent is None:
        tried = tuned(program, plain, task, variant, args)
        best = max(tried, key=lambda trial: trial[1])[0]
    else:
        tried = []
        values = {name: value for name, value in lent.items() if name not in VARIANTS[variant]}
        best = dataclasses.replace(plain, **_with_critic(values))
    fresh = jax.random.split(jax.random.key(2), args.seeds)
    returns = np.asarray(program(*_choices(best))(*_stacked([(key, best) for key in fresh])))
    diverged = np.isnan(returns).all(1)
    if diverged.all():
        sys.exit(
            f"{task}, {variant}: all {args.seeds} seeds diverged at the settings of the best trial"
        )
    if np.isnan(returns[~diverged]).any():
        sys.exit(
            f"{task}: in a part of training no episode ended; allowed are more --steps or fewer "
            "--points"
        )
    steps = (np.arange(args.points) + 1) * updates // args.points * args.num_envs * args.num_steps
    return {
        "steps": steps.tolist(),
        "returns": returns.tolist(),
        "best": env.spec.max_return,
        "chosen": settings_of(best),
        "trials": [settings_of(config) | {"score": score} for config, score in tried],
    }


def tuned(
    program: Callable[..., Callable[..., jax.Array]],
    config: Any,
    task: str,
    variant: str,
    args: argparse.Namespace,
) -> list[tuple[Any, float]]:
    """Runs the trials of both rounds; returns settings and their mean return over training.

    ``program`` maps a combination of `CHOICES` to a function from keys and configs, ``[trials *
    seeds]``, to curves.
    """
    keys = jax.random.split(jax.random.key(1), args.tuning_seeds)

    def scored(drawn: list[Any]) -> list[tuple[Any, float]]:
        alike: dict[tuple[int, ...], list[Any]] = {}
        for config in drawn:
            alike.setdefault(_choices(config), []).append(config)
        return [
            pair
            for choices, configs in alike.items()
            for pair in scored_alike(program(*choices), configs)
        ]

    def scored_alike(curve: Callable[..., jax.Array], drawn: list[Any]) -> list[tuple[Any, float]]:
        pairs = [(key, config) for config in drawn for key in keys]
        curves = np.asarray(curve(*_stacked(pairs))).reshape(len(drawn), len(keys), -1)
        diverged = np.isnan(curves).all(2).any(1)  # a trial with such a seed is not to be chosen
        means = [
            -np.inf if lost else np.nanmean(values)
            for lost, values in zip(diverged, curves, strict=True)
        ]
        return list(zip(drawn, map(float, means), strict=True))

    draw, second = np.random.default_rng(list(TASKS).index(task)), args.trials // 2
    common = COMMON | CHOICES
    tried = scored(trials(config, common, args.trials - second, draw))
    if second:
        best = max(tried, key=lambda trial: trial[1])[0]
        ranges = {name: ends for name, ends in OWN.items() if name not in VARIANTS[variant]}
        tried += scored(
            trials(
                best,
                common if VARIANTS[variant].get("intrinsic_coef") == 0 else ranges,
                second,
                draw,
            )
        )
    return tried


def trials(
    config: Any, ranges: dict[str, tuple[float, ...]], number: int, draw: np.random.Generator
) -> list[Any]:
    """Returns configs with settings drawn at random."""
    configs = []
    for _ in range(number):
        values = {
            name: int(draw.choice(ends))
            if name in CHOICES
            else float(np.exp(draw.uniform(*np.log(ends))))
            for name, ends in ranges.items()
        }
        configs.append(dataclasses.replace(config, **_with_critic(values)))
    return configs


def _choices(config: Any) -> tuple[int, ...]:
    return tuple(getattr(config, name) for name in CHOICES)


def _with_critic(values: dict[str, float]) -> dict[str, float]:
    return values | ({"critic_lr": max(values["lr"], 1e-3)} if "lr" in values else {})


def settings_of(config: Any) -> dict[str, float]:
    """Returns the settings that may be drawn."""
    floats = {name: float(getattr(config, name)) for name in (*COMMON, *OWN)}
    return floats | dict(zip(CHOICES, _choices(config), strict=True))


def _stacked(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    keys, configs = zip(*pairs, strict=True)
    return jnp.stack(keys), jax.tree.map(lambda *x: jnp.asarray(x, float), *configs)


def text(data: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    rows = []
    for task, task_rows in data["rows"].items():
        plain = np.asarray(task_rows["exact"]["returns"], float) if "exact" in task_rows else None
        for variant, row in task_rows.items():
            returns = np.asarray(row["returns"], float)
            lost = np.isnan(returns).any(1).sum()
            name = f"{variant} ({lost} of {len(returns)} seeds diverged)" if lost else variant
            beaten = ["", ""]
            if plain is not None and variant != "exact":
                beaten = [
                    bench_utils.interval_text(compare.improvement_interval(a, b))
                    for a, b in ((plain[:, -1], returns[:, -1]), (plain.mean(1), returns.mean(1)))
                ]
            settings = ", ".join(f"{name} {value:.2g}" for name, value in row["chosen"].items())
            rows.append(
                {
                    "task": task,
                    "variant": name,
                    "return at the end": bench_utils.interval_text(returns[:, -1]),
                    "return over training": bench_utils.interval_text(returns.mean(1)),
                    "P(exact better) at the end": beaten[0],
                    "P(exact better) over training": beaten[1],
                    "best": row["best"],
                    "settings": settings,
                }
            )
    s, all_rows = data["settings"], [row for x in data["rows"].values() for row in x.values()]
    steps = max(row["steps"][-1] for row in all_rows)
    return (
        f"# Where the learned reward helps\n\n{bench_utils.facts_text(data['facts'])}\n\n"
        f"{bench_utils.table(rows)}\nIQM of {s['seeds']} fresh seeds with 95 % bootstrap "
        f"intervals, of the returns of the episodes in training (sampled actions), {steps:,} "
        f"environment steps. Settings are the best of {s['trials']} draws in two rounds, each with "
        f"{s['tuning_seeds']} seeds, by the mean over training; {s['num_envs']} environments x "
        f"{s['num_steps']} steps, layers {s['hidden_sizes']}.\n\n![Curves](liir-ablation.png)\n"
    )


def draw(rows: dict[str, Any], path: Path) -> None:
    """Draws a panel per task."""
    figure = plotting.new_figure(3.6 * min(len(rows), 4), 3.2 * (1 + (len(rows) - 1) // 4))
    legend: dict[str, Any] = {}
    for index, (task, task_rows) in enumerate(rows.items()):
        axes = figure.add_subplot(1 + (len(rows) - 1) // 4, min(len(rows), 4), index + 1)
        for variant, row in task_rows.items():
            steps, returns = np.asarray(row["steps"]), np.asarray(row["returns"], float)
            plotting.plot_interval(
                axes, steps, returns, variant, list(VARIANTS).index(variant), False, 0.95
            )
        plotting.style_axes(axes, "return" if index % 4 == 0 else "", task, small=True)
        axes.set_xlabel("environment steps", fontsize=8)
        legend |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False
    )
    plotting.save(figure, path)


if __name__ == "__main__":
    bench_utils.to_the_end(main)
