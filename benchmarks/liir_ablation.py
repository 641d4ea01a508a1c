"""Compares LIIR with its ablations, each tuned by as many trials, on tasks that may need it.

    python benchmarks/liir_ablation.py
    python benchmarks/liir_ablation.py --tasks relay pursuit-5 --trials 48 --seeds 30 --steps 300000

Every variant has the same number of trials of one Optuna sampler (TPE, the same seed for all) over
its settings: learning rate, entropy bonus, epochs and minibatches for all, and the weight of the
intrinsic reward and its learning rate for those that have them. The best trial is that of the
highest mean return over training, over a few seeds; the report is of fresh seeds at its settings.
Trials are asked for and told in groups. A task has one compiled program for each combination of
epochs, minibatches and the settings of a variant that are no numbers; it trains as many seeds side
by side as a trial has.

Tasks: pursuit on a line (paid when all approach), of two agents and of five; the same paid at an
episode's end; relay (one agent's part is paid for at the end alone, after 16 or 64 steps); a matrix
game with a second-best equilibrium; foraging, also paid at the end; ten cleaners of one room, whose
rewards are shared; battles. ``central critic`` is lambda = 0 again, with a critic that sees the
state, the input of LIIR's extrinsic critic, for the policy directly. ``exact without`` is lambda =
0 at the settings that were chosen for LIIR (``exact``): what the reward alone does there.

Beside the returns stand three diagnostics of the intrinsic reward, means over the last nine tenths
of training: the share of its optimizer's full step that it takes, its saturation, and the cosine of
the proxy advantage with the extrinsic one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import bench_utils
import jax
import jax.numpy as jnp
import numpy as np
import optuna

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import comparison
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.report import plotting


class Task(NamedTuple):
    """An environment and how long it takes to learn.

    Attributes:
        env_id: its ID.
        steps: environment steps of a run. All agents learn most of what they learn within them, so
            that the mean over training tells slow from fast.
        keywords: of `jaxmarl_lite.make`.
    """

    env_id: str
    steps: int
    keywords: Mapping[str, Any] = MappingProxyType({})


TASKS = {
    "pursuit": Task("toy/pursuit", 40_960),
    "pursuit-5": Task("toy/pursuit", 102_400, {"agents": 5}),
    "pursuit, paid late": Task("delayed/toy/pursuit", 40_960),
    "relay": Task("toy/relay", 40_960),
    "long relay": Task("toy/relay", 61_440, {"steps": 64, "immediate_reward": 1 / 64}),
    "climbing": Task("toy/climbing", 40_960),
    "foraging": Task("jumanji/lbf-2s-8x8-2p-2f-coop", 307_200),
    "foraging, paid late": Task("delayed/jumanji/lbf-2s-8x8-2p-2f-coop", 307_200),
    "cleaner-10": Task("jumanji/cleaner-10x10x10a", 102_400),
    "3m": Task("smax/3m", 512_000),
    "2s3z": Task("smax/2s3z", 512_000),
    "3m, paid late": Task("delayed/smax/3m", 512_000),
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
CHOICES = {"num_epochs": (4, 16), "num_minibatches": (1, 4)}
"""Setting -> its values; each combination is a program of its own."""
OWN = {"intrinsic_coef": (1e-3, 1.0), "intrinsic_lr": (1e-4, 1e-2)}
"""Setting -> its range, searched in the logarithm; critics learn at ``lr``, or at 1e-3 if that is
more."""
DIAGNOSTICS = {
    "intrinsic_step_share": "step share",
    "intrinsic_saturation": "saturation",
    "proxy_extrinsic_cosine": "cosine of advantages",
}
"""Metric of the intrinsic reward -> its column in the table."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument(
        "--steps", type=int, help="environment steps of each run; default: the task's own"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT"
    )
    bench_utils.add_numbers(
        parser,
        trials=(16, "trials of the settings, for each variant"),
        group=(4, "trials that are asked for at once"),
        tuning_seeds=(4, "of each trial"),
        seeds=(20, "fresh seeds, at the best trial's settings"),
        points=(20, "of a curve"),
    )
    bench_utils.add_numbers(parser, num_envs=16, num_steps=32, hidden_sizes=[32, 32])
    args = parser.parse_args(argv)
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps is {args.steps}; allowed is 1 or more")
    if args.num_envs % max(CHOICES["num_minibatches"]):
        parser.error(
            f"--num-envs is {args.num_envs}; allowed is a multiple of "
            f"{max(CHOICES['num_minibatches'])}"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
    settings["task_steps"] = str({name: task.steps for name, task in TASKS.items()})
    settings["searched"] = str(COMMON | CHOICES | OWN)
    settings["sampler"] = f"optuna {optuna.__version__} TPE"
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
    env_id, steps, keywords = TASKS[task]
    env = jml.make(env_id, **keywords)
    plain = jml.LIIRConfig(hidden_sizes=tuple(args.hidden_sizes), **VARIANTS[variant])
    updates = max(args.points, (args.steps or steps) // (args.num_envs * args.num_steps))
    updates -= updates % args.points

    def program(epochs: int, num_minibatches: int) -> Callable[..., dict[str, jax.Array]]:
        choices = {"num_epochs": epochs, "num_minibatches": num_minibatches}
        rules = {name: value for name, value in VARIANTS[variant].items() if isinstance(value, str)}
        sizes = {"hidden_sizes": tuple(args.hidden_sizes)}
        config = jml.LIIRConfig(**choices, **rules, **sizes)
        return _curves(task, config, updates, args.points, args.num_envs, args.num_steps)

    if lent is None:
        tried = tuned(program, plain, task, variant, args)
        best = max(tried, key=lambda trial: trial[1])[0]
    else:
        tried = []
        values = {name: value for name, value in lent.items() if name not in VARIANTS[variant]}
        best = dataclasses.replace(plain, **_with_critic(values))
    fresh = jax.random.split(jax.random.key(2), args.seeds)
    pairs = [(key, best) for key in fresh]
    curves = _in_parts(program(*_choices(best)), pairs, args.tuning_seeds)
    returns = curves["episode_return"]
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
    ends = (np.arange(args.points) + 1) * updates // args.points * args.num_envs * args.num_steps
    return {
        "steps": ends.tolist(),
        "returns": returns.round(4).tolist(),  # four digits are far below the noise of an episode
        "best": env.spec.max_return,
        "chosen": settings_of(best),
        "diagnostics": {
            name: float(np.nanmean(curves[name][:, args.points // 10 :])) for name in DIAGNOSTICS
        }
        if best.intrinsic_coef
        else {},
        "trials": [settings_of(config) | {"score": score} for config, score in tried],
    }


@functools.lru_cache(maxsize=32)
def _curves(
    task: str, config: Any, updates: int, points: int, num_envs: int, num_steps: int
) -> Callable[..., dict[str, jax.Array]]:
    """Returns the curves ``[S, points]`` of ``[S]`` keys and configs that differ in floats."""
    env_id, _, keywords = TASKS[task]
    env = jml.make(env_id, **keywords)
    algorithm = jml.make_algorithm("liir", env.spec, config)
    init, train = jml.make_train(algorithm, env, num_envs, num_steps)

    @jax.jit
    @jax.vmap
    def curve(key: jax.Array, config: Any) -> dict[str, jax.Array]:
        state, metrics = train(init(key, config), updates)
        healthy = tree_math.all_finite(state.learner_state)

        def over_training(name: str) -> jax.Array:
            parts = metrics[name].reshape(points, -1)
            return jnp.where(healthy, jnp.nanmean(parts, axis=1), jnp.nan)

        return {name: over_training(name) for name in ("episode_return", *DIAGNOSTICS)}

    return curve


def _in_parts(
    curves: Callable[..., dict[str, jax.Array]], pairs: list[tuple[Any, Any]], size: int
) -> dict[str, np.ndarray]:
    """Returns the curves of pairs of a key and a config, so many at once: one shape, one program.

    The last part is filled up with its last pair.
    """
    parts = []
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        values = curves(*_stacked(part + part[-1:] * (size - len(part))))
        parts.append({name: np.asarray(value)[: len(part)] for name, value in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tuned(
    program: Callable[..., Callable[..., dict[str, jax.Array]]],
    config: Any,
    task: str,
    variant: str,
    args: argparse.Namespace,
) -> list[tuple[Any, float]]:
    """Runs the trials of a variant; returns settings and their mean return over training.

    ``program`` maps a combination of `CHOICES` to a function from keys and configs, ``[seeds]``, to
    curves.
    """
    keys = jax.random.split(jax.random.key(1), args.tuning_seeds)
    sampler = optuna.samplers.TPESampler(
        seed=list(TASKS).index(task), n_startup_trials=args.group, constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried: list[tuple[Any, float]] = []
    while len(tried) < args.trials:
        asked = [study.ask() for _ in range(min(args.group, args.trials - len(tried)))]
        configs = [suggested(trial, config, variant) for trial in asked]
        scores = []
        for item in configs:
            curves = program(*_choices(item))(*_stacked([(key, item) for key in keys]))
            values = np.asarray(curves["episode_return"])
            # a trial with a seed that diverged is not to be chosen
            lost = np.isnan(values).all(1).any()
            scores.append(-np.inf if lost else float(np.nanmean(values)))
        for i, trial in enumerate(asked):
            if np.isfinite(scores[i]):
                study.tell(trial, scores[i])
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            tried.append((configs[i], scores[i]))
    return tried


def suggested(trial: Any, config: Any, variant: str) -> Any:
    """Returns the config of a trial; settings that a variant fixes are not searched."""
    fixed = VARIANTS[variant]
    own = {} if fixed.get("intrinsic_coef") == 0 else OWN
    values: dict[str, Any] = {
        name: trial.suggest_float(name, *ends, log=True)
        for name, ends in (COMMON | own).items()
        if name not in fixed
    }
    values |= {name: trial.suggest_categorical(name, ends) for name, ends in CHOICES.items()}
    return dataclasses.replace(config, **_with_critic(values))


def _choices(config: Any) -> tuple[int, ...]:
    return tuple(getattr(config, name) for name in CHOICES)


def _with_critic(values: dict[str, float]) -> dict[str, float]:
    return values | ({"critic_lr": max(values["lr"], 1e-3)} if "lr" in values else {})


def settings_of(config: Any) -> dict[str, float]:
    """Returns the settings that may be searched."""
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
                    bench_utils.interval_text(comparison.improvement_interval(a, b))
                    for a, b in ((plain[:, -1], returns[:, -1]), (plain.mean(1), returns.mean(1)))
                ]
            settings = ", ".join(f"{name} {value:.2g}" for name, value in row["chosen"].items())
            diagnostics = row.get("diagnostics", {})
            rows.append(
                {
                    "task": task,
                    "steps": f"{row['steps'][-1]:,}",
                    "variant": name,
                    "return at the end": bench_utils.interval_text(returns[:, -1]),
                    "return over training": bench_utils.interval_text(returns.mean(1)),
                    "P(exact better) at the end": beaten[0],
                    "P(exact better) over training": beaten[1],
                    "best": row["best"],
                    **{label: diagnostics.get(name) for name, label in DIAGNOSTICS.items()},
                    "settings": settings,
                }
            )
    s = data["settings"]
    return (
        f"# Where the learned reward helps\n\n{bench_utils.facts_text(data['facts'])}\n\n"
        f"{bench_utils.table(rows)}\nIQM of {s['seeds']} fresh seeds with 95 % bootstrap "
        f"intervals, of the returns of the episodes in training (sampled actions). Settings are "
        f"the best of {s['trials']} trials ({s.get('sampler', 'random')}), each with "
        f"{s['tuning_seeds']} seeds, by the mean over training; {s['num_envs']} environments x "
        f"{s['num_steps']} steps, layers {s['hidden_sizes']}.\n\n"
        "![Return over training of each variant, a panel for each task](liir-ablation.png)\n"
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
