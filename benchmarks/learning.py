"""Measures final returns and learning curves of several algorithms in one environment.

    python benchmarks/learning.py                LIIR, MAPPO, IPPO on lbf-2s-8x8-2p-2f-coop
    python benchmarks/learning.py --env jumanji/rware-tiny-2ag --total-steps 20000000 --workers 2
    python benchmarks/learning.py --env safe/rware-tiny-2ag --algorithms macpo happo mappo
    python benchmarks/learning.py --env smax/3m --algorithms liir lam0=liir:intrinsic_coef=0

An algorithm may have settings changed, and then has a name of its own:
``NAME=ALGORITHM:FIELD=VALUE,FIELD=VALUE``; ``NAME=ALGORITHM.reference`` begins from the settings of
its authors' program instead of the tuned ones. Where the environment has costs, the report has each
agent's each cost beside its limit as well; where it has wins, their share.

Every algorithm trains through `jaxmarl_lite.run` with its tuned settings for this environment, in
a process of its own on one core, ``--workers`` of them at a time. Stopped at any moment,
the same command goes on: finished runs are left as they are, the others continue from their newest
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import command_line
import variants

RUN_OPTIONS = ("seeds", "num_evaluations", "eval_episodes", "num_envs", "num_steps")
RUN_OPTIONS += ("workers", "runs")
"""Options that `reproduce_liir.py` and `reproduce_macpo.py` have as well."""
SIZES = ("seeds", "total_steps", "num_envs", "num_steps", "num_evaluations", "eval_episodes")
SIZES += ("greedy",)
"""Options that `jaxmarl_lite.run` takes as they are."""
CURVES = ("steps", "returns", "win_rates")
"""Fields of a row that are drawn."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--env", default="jumanji/lbf-2s-8x8-2p-2f-coop")
    parser.add_argument("--algorithms", nargs="+", default=["liir", "mappo", "ippo"])
    parser.add_argument(
        "--total-steps", type=command_line.whole_number, default=10_000_000, help="of each seed"
    )
    add_run_options(parser, "learning", seeds=3, eval_episodes=128)
    parser.add_argument(
        "--greedy", action="store_true", help="evaluate the likeliest actions, not sampled ones"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the algorithm of a worker
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        args.variants = {variant.label: variant for variant in map(variants.parse, args.algorithms)}
    except ValueError as error:
        parser.error(str(error))
    if len(args.variants) < len(args.algorithms):
        parser.error(f"--algorithms has one name twice: {' '.join(args.algorithms)}")
    return args


def add_run_options(
    parser: argparse.ArgumentParser, name: str, seeds: int, eval_episodes: int
) -> None:
    """Adds the options of `RUN_OPTIONS`; runs are stored in ``runs/NAME``."""
    command_line.add_numbers(parser, seeds=seeds, num_evaluations=20, eval_episodes=eval_episodes)
    for option in ("--num-envs", "--num-steps"):
        parser.add_argument(
            option, type=command_line.whole_number, help="default: as tuned for the environment"
        )
    workers = {"type": command_line.whole_number, "default": os.cpu_count() or 1}
    parser.add_argument("--workers", **workers, help="runs at once; default: one per core")
    folder = Path(__file__).parent.parent / "runs" / name
    parser.add_argument("--runs", type=Path, default=folder, help="folder of the runs")


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of `RUN_OPTIONS` and ``--out``, name -> value, for a command line."""
    return {name: getattr(args, name) for name in (*RUN_OPTIONS, "out")}


def main(argv: list[str] | None = None) -> int:
    """Trains the unfinished runs, then writes the result files; returns 1 if a run failed."""
    argv = sys.argv[1:] if argv is None else argv
    args = options(argv)
    if args.one:
        work(args)
        return 0
    try:
        check(args)
    except ValueError as error:
        sys.exit(f"learning.py: {error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended as well
    failed = train_all(args, argv)
    done = [name for name in args.variants if name not in failed]
    if done:
        report(args, done, failed)
    return 1 if failed else 0


def check(args: argparse.Namespace) -> None:
    """Raises ValueError if a run cannot be trained or resumed, or would replace other results.

    Runs begun with other settings or more steps cannot be resumed; results of other sizes are not
    replaced.
    """
    from jaxmarl_lite.experiment import config as experiment_config
    from jaxmarl_lite.report import run_dir

    sizes = {name: getattr(args, name) for name in SIZES}
    for name, variant in args.variants.items():
        plan, run_folder = variants.check(variant, args.env, **sizes), folder(args, name)
        if not run_dir.RunFolder(run_folder).exists():
            continue
        try:
            begun_plan = experiment_config.read(run_folder)
            experiment_config.check_resumable(plan, begun_plan, run_folder)
        except (ValueError, run_dir.RunFolderError) as error:
            raise ValueError(f"{name}: {error}; or another --runs") from error
        if begun_plan.total_steps > plan.total_steps:
            raise ValueError(
                f"{name}: total_steps is {plan.total_steps}, but the run in {run_folder} has "
                f"{begun_plan.total_steps}; allowed is as many or more, or another --runs"
            )
    path = args.out / file_name(args.env)
    for name, row in earlier(args).items():
        had = _sizes(row["plan"])
        asked = had | {key: getattr(args, key) for key in had}
        longer = name in args.variants and asked | {"total_steps": 0} == had | {"total_steps": 0}
        if asked != had and not (longer and asked["total_steps"] > had["total_steps"]):
            sizes_text = ", ".join(f"{key} {value}" for key, value in had.items())
            raise ValueError(
                f"{path} holds results of {name} with {sizes_text}; allowed is the same, or "
                "another --out"
            )


def earlier(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the rows of the existing result file, or {}."""
    path = args.out / file_name(args.env)
    return read(path)["rows"] if path.exists() else {}


def _sizes(plan: dict[str, Any]) -> dict[str, Any]:
    """Returns the sizes that all rows of a result file share."""
    shared = {name: plan[name] for name in ("total_steps", "eval_episodes", "greedy")}
    return shared | {"seeds": len(plan["seeds"])}


def file_name(env: str) -> str:
    """Returns the name of an environment's result file."""
    return f"learning-{env.removeprefix('jumanji/').replace('/', '-')}.json"


def read(path: Path) -> dict[str, Any]:
    """Reads a result file."""
    return json.loads(path.read_text(encoding="utf-8"))


def folder(args: argparse.Namespace, algorithm: str) -> Path:
    """Returns the folder of a run."""
    return args.runs / args.env.replace("/", "-") / algorithm


def work(args: argparse.Namespace) -> None:
    """Trains one run, pinned to one core where the system supports it."""
    if args.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {args.core})  # before JAX starts its threads
    import jaxmarl_lite as jml
    from jaxmarl_lite.report import run_dir

    path, variant = folder(args, args.one), args.variants[args.one]
    begun = run_dir.RunFolder(path).exists()
    jml.run(
        variant.algorithm,
        args.env,
        config=variant.config(),
        **{name: getattr(args, name) for name in SIZES},
        **({"resume": path} if begun else {"out": path}),  # type: ignore[arg-type]
    )


def train_all(args: argparse.Namespace, argv: list[str]) -> dict[str, str]:
    """Trains every algorithm in a process, ``--workers`` at a time; returns why some failed."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free: list[int] = list(range(max(1, min(args.workers, len(cores) or args.workers))))
    waiting, running, failed = list(args.variants), {}, {}
    try:
        while waiting or running:
            while waiting and free:
                name, slot = waiting.pop(0), free.pop(0)
                running[name] = _start(name, cores[slot] if cores else None, args, argv), slot
            time.sleep(0.2)
            for name, (process, slot) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    free.append(slot)
                    if process.returncode:
                        failed[name] = (
                            f"ended with code {process.returncode}: {_last_line(_log(args, name))}"
                        )
                    print(f"{name}: {failed.get(name, 'done')}", flush=True)
    finally:
        for process, _ in running.values():
            process.terminate()
    return failed


def _start(
    name: str, core: int | None, args: argparse.Namespace, argv: list[str]
) -> subprocess.Popen[bytes]:
    log = _log(args, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name}: core {'any' if core is None else core}, see {log}", flush=True)
    pin = [] if core is None else ["--core", str(core)]
    with log.open("ab") as file:
        command = [sys.executable, str(Path(__file__).absolute()), *argv, "--one", name, *pin]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _last_line(log: Path) -> str:
    """Returns the last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _log(args: argparse.Namespace, name: str) -> Path:
    path = folder(args, name)
    return path.with_name(f"{path.name}.log")


def report(args: argparse.Namespace, done: list[str], failed: dict[str, str]) -> None:
    """Writes the result files and the figure of all curves."""
    import bench_utils
    import numpy as np

    import jaxmarl_lite as jml
    from jaxmarl_lite.report import plotting

    results = {name: jml.load_run(folder(args, name)) for name in done}
    first = results[done[0]]
    random = {name: interval(result.random_returns) for name, result in results.items()}
    data = {
        "facts": bench_utils.facts(),
        "env": args.env,
        "return_description": first.spec.return_description,
        "max_return": first.spec.max_return,
        "rows": {name: _row(result) | {"random": random[name]} for name, result in results.items()},
        "failed": failed,
    }
    stem = Path(file_name(args.env)).stem
    data["rows"] = earlier(args) | data["rows"]
    spec, first_random = first.spec, random[done[0]]
    style: dict[str, Any] = dict(ylabel=spec.return_description, best=spec.max_return)
    style |= dict(title=args.env, path=args.out / f"{stem}.png")
    style |= dict(random=None if first_random is None else first_random["iqm"])
    if first.costs is None:
        rows = {
            name: {key: np.asarray(row[key], float) for key in CURVES if row[key]}
            for name, row in data["rows"].items()
        }
        wins = {
            name: (row["steps"], row["win_rates"])
            for name, row in rows.items()
            if "win_rates" in row
        }
        returns = {name: (row["steps"], row["returns"]) for name, row in rows.items()}
        plotting.learning_curve(returns, wins=wins, **style)
    else:
        runs = {name: results.get(name) or _earlier_run(args, name, data) for name in data["rows"]}
        drawn = {name: run for name, run in runs.items() if run}
        data["not drawn"] = [name for name in data["rows"] if name not in drawn]
        curves = {name: (run.steps, run.returns, run.costs) for name, run in drawn.items()}
        style |= dict(names=spec.cost_names, meanings=spec.cost_descriptions)
        plotting.constrained_curves(curves, limits=first.limits, **style)
    bench_utils.write(args.out / f"{stem}.json", data, text(data, stem))
    print(f"\n{text(data, stem)}\n{args.out / stem}.json")


def _earlier_run(args: argparse.Namespace, name: str, data: dict[str, Any]) -> Any:
    """Returns the run of an earlier row, or None if its folder holds another run or none."""
    import numpy as np

    import jaxmarl_lite as jml
    from jaxmarl_lite.report import run_dir

    if not run_dir.RunFolder(folder(args, name)).exists():
        return None
    result = jml.load_run(folder(args, name))
    same = np.array_equal(
        result.returns, np.asarray(data["rows"][name]["returns"], float), equal_nan=True
    )
    return result if same else None


def interval(values: Any, by_task: bool = False) -> Any:
    """Returns the IQM of ``[seeds]`` with its 95 % interval, or None for None.

    With ``by_task`` of ``[tasks, seeds]``; the bootstrap then draws within each task.
    """
    from jaxmarl_lite.report import statistics

    if values is None:
        return None
    estimate = statistics.bootstrap_interval(values, by_task=by_task)
    return {
        "iqm": float(estimate.estimate),
        "low": float(estimate.low),
        "high": float(estimate.high),
    }


def interval_text(interval: dict[str, Any] | None, digits: str = ".3f") -> str:
    """Formats an `interval`; None is empty."""
    if interval is None:
        return ""
    return f"{interval['iqm']:{digits}} [{interval['low']:{digits}}, {interval['high']:{digits}}]"


def _row(result: Any) -> dict[str, Any]:
    timings = result.timings
    return {
        "final": interval(result.returns[:, -1]),
        "final_of_each_seed": result.returns[:, -1].tolist(),
        "steps": result.steps.tolist(),
        "returns": result.returns.tolist(),
        "win_rates": None if result.win_rates is None else result.win_rates.tolist(),
        "final_win_rate": None if result.win_rates is None else interval(result.win_rates[:, -1]),
        "algorithm": result.algorithm,
        "costs": None if result.costs is None else _costs(result),
        "cost_curves": None if result.costs is None else result.costs.max((2, 3)).tolist(),
        "minutes": timings.elapsed_seconds / 60,
        "training_minutes": timings.training_seconds / 60,
        "compile_seconds": timings.compile_seconds,
        "steps_per_second": timings.steps_per_second,
        "plan": result.plan.to_dict(),
    }


def _costs(result: Any) -> list[dict[str, Any]]:
    """Returns each agent's final costs, and how often training broke its limit."""
    final, satisfied = result.final_costs(), result.satisfaction_rate()
    rows = []
    for k, name in enumerate(result.spec.cost_names):
        for agent in range(result.spec.num_agents):
            at = (agent, k)
            row = {"cost": name, "agent": agent, "limit": float(result.limits[at])}
            row |= {"kept": float(satisfied[at]), "mean": float(final.estimate[at])}
            row |= {"low": float(final.low[at]), "high": float(final.high[at])}
            row |= _broken(result, at)
            rows.append(row)
    return rows


def _broken(result: Any, at: tuple[int, int]) -> dict[str, float]:
    """Returns the share of updates with mean costs over the limit: of all, of the later half."""
    import numpy as np

    shares = result.metrics["violation_rate"][:, 1:, *at]
    return {
        "broken": float(np.nanmean(shares)),
        "broken_late": float(np.nanmean(shares[:, shares.shape[1] // 2 :])),
    }


def _cost_text(rows: dict[str, Any]) -> str:
    """Formats the costs as a table; empty without costs."""
    import bench_utils

    cells = [
        {
            "algorithm": name,
            "cost": row["cost"],
            "agent": str(row["agent"]),
            "limit": row["limit"],
            "cost per episode, mean [95 %]": interval_text(row | {"iqm": row["mean"]}, ".3g"),
            "upper end within": "yes" if row["high"] <= row["limit"] else "no",
            "P(episode within)": row["kept"],
            "updates over it": row["broken"],
            "in the second half": row["broken_late"],
        }
        for name, result in rows.items()
        for row in result["costs"] or ()
    ]
    return f"{bench_utils.table(cells)}\n" if cells else ""


def text(data: dict[str, Any], stem: str) -> str:
    """Formats the result as Markdown."""
    import bench_utils

    best = data["max_return"]
    rows = [
        {
            "algorithm": name,
            "final return, IQM [95 %]": row["final"] and interval_text(row["final"], ".3g"),
            "of best": row["final"]["iqm"] / best if best else None,
            "win rate, IQM [95 %]": interval_text(row.get("final_win_rate"), ".3g"),
            "random policy": interval_text(row["random"], ".3g"),
            "steps a seed": row["steps"][-1],
            "minutes": row["minutes"],
            "env steps/s": row["steps_per_second"],
            "compile s": row["compile_seconds"],
        }
        for name, row in data["rows"].items()
    ]
    first = next(iter(data["rows"].values()))["plan"]
    settings = "".join(
        f"- {name}: {row['plan']['num_envs']} environments x {row['plan']['num_steps']} steps"
        f"{' out of step' if row['plan'].get('stagger_episodes') else ''}, "
        + ", ".join(f"{key} {value}" for key, value in row["plan"]["config"].items())
        + "\n"
        for name, row in data["rows"].items()
    )
    failed = "".join(f"\nFailed: {name} {why}\n" for name, why in data["failed"].items())
    absent = ", ".join(data.get("not drawn", ()))
    missing = f"Not drawn, as the runs are elsewhere: {absent}.\n\n" if absent else ""
    return (
        f"# Learning on {data['env']}\n\n{bench_utils.facts_text(data['facts'])}\n\nReturn: "
        f"{data['return_description']}; best possible: "
        f"{'not known' if best is None else f'{best:g}'}. {len(first['seeds'])} seeds, "
        f"{first['eval_episodes']} episodes of each seed's "
        f"{'likeliest' if first['greedy'] else 'sampled'} actions at each evaluation; intervals "
        f"are bootstraps over seeds.\n\n{bench_utils.table(rows)}\n"
        f"{_cost_text(data['rows'])}Minutes are of all seeds one after another on one core, "
        "evaluations and checkpoints included, compiling not. Steps are those of the joint "
        f"environment.\n\n![Curves]({stem}.png)\n\n{missing}Settings:\n\n{settings}{failed}"
    )


if __name__ == "__main__":
    command_line.to_the_end(main)
