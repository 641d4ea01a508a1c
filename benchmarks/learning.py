"""What is learned: final evaluation returns and learning curves of several algorithms in one
environment.

    python benchmarks/learning.py                                     LIIR, MAPPO, IPPO on lbf-2s-8x8-2p-2f-coop
    python benchmarks/learning.py --env jumanji/rware-tiny-2ag --total-steps 20000000 --workers 2
    python benchmarks/learning.py --env safe/rware-tiny-2ag --algorithms macpo mappo-lagrangian happo mappo
    python benchmarks/learning.py --env smax/3m --greedy --algorithms liir lam0=liir:intrinsic_coef=0 ref=liir.reference

An algorithm may have settings changed, and then has a name of its own:
``NAME=ALGORITHM:FIELD=VALUE,FIELD=VALUE``; ``NAME=ALGORITHM.reference`` begins from the settings of
its authors' program instead of the tuned ones. Where the environment has costs, the report has each
agent's each cost beside its limit as well; where it has wins, their share.

Every algorithm trains through `jaxmarl_lite.run` with its settings for this environment as they
are, in a process of its own on one core, ``--workers`` of them at a time. Stopped at any moment,
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

import variants

HERE = Path(__file__).parent
CURVES = ("steps", "returns", "win_rates")
"""What of a row is drawn."""


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="jumanji/lbf-2s-8x8-2p-2f-coop")
    parser.add_argument("--algorithms", nargs="+", default=["liir", "mappo", "ippo"])
    parser.add_argument(
        "--total-steps",
        type=variants.whole,
        default=10_000_000,
        help="environment steps of each seed",
    )
    parser.add_argument("--seeds", type=variants.whole, default=3)
    parser.add_argument("--num-evaluations", type=variants.whole, default=20)
    parser.add_argument(
        "--eval-episodes", type=variants.whole, default=128, help="of each evaluation and seed"
    )
    parser.add_argument(
        "--greedy", action="store_true", help="evaluate the likeliest actions, not sampled ones"
    )
    parser.add_argument(
        "--num-envs", type=variants.whole, help="default: as tuned for this environment"
    )
    parser.add_argument(
        "--num-steps", type=variants.whole, help="default: as tuned for this environment"
    )
    parser.add_argument(
        "--workers",
        type=variants.whole,
        default=os.cpu_count() or 1,
        help="runs at once, a core each",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=HERE.parent / "runs" / "learning",
        help="where the runs are kept",
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of the result files"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the algorithm of a worker
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    try:
        chosen.variants = {
            variant.label: variant for variant in map(variants.parse, chosen.algorithms)
        }
    except ValueError as error:
        parser.error(str(error))
    if len(chosen.variants) < len(chosen.algorithms):
        parser.error(f"--algorithms has one name twice: {' '.join(chosen.algorithms)}")
    return chosen


def main(words: list[str] | None = None) -> int:
    """Train what is not finished yet, then write the result files; 1 when a run failed."""
    words = sys.argv[1:] if words is None else words
    chosen = options(words)
    if chosen.one:
        work(chosen)
        return 0
    try:
        check(chosen)
    except ValueError as error:
        sys.exit(f"learning.py: {error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended as well
    failed = train_all(chosen, words)
    done = [name for name in chosen.variants if name not in failed]
    if done:
        report(chosen, done, failed)
    return 1 if failed else 0


def check(chosen: argparse.Namespace) -> None:
    """Raise ValueError for what cannot be trained, for runs begun with other settings or more
    steps, and for results of other sizes that this would replace.
    """
    from jaxmarl_lite.experiment import config as experiment_config
    from jaxmarl_lite.report import run_dir

    sizes = dict(seeds=chosen.seeds, total_steps=chosen.total_steps, num_envs=chosen.num_envs)
    sizes |= dict(
        num_steps=chosen.num_steps,
        num_evaluations=chosen.num_evaluations,
        eval_episodes=chosen.eval_episodes,
    )
    sizes |= dict(greedy=chosen.greedy)
    for name, variant in chosen.variants.items():
        wanted, where = variants.check(variant, chosen.env, **sizes), folder(chosen, name)
        if not run_dir.RunFolder(where).exists():
            continue
        try:
            begun = experiment_config.read(where)
            experiment_config.check_resumable(wanted, begun, where)
        except (ValueError, run_dir.RunFolderError) as error:
            raise ValueError(f"{name}: {error}; or another --runs") from error
        if begun.total_steps > wanted.total_steps:
            raise ValueError(
                f"{name}: total_steps is {wanted.total_steps}, but the run in {where} has "
                f"{begun.total_steps}; allowed "
                "is as many or more, or another --runs"
            )
    path = chosen.out / file_name(chosen.env)
    for name, row in earlier(chosen).items():
        had = _sizes(row["plan"])
        asked = had | {
            name: getattr(chosen, name)
            for name in ("seeds", "total_steps", "eval_episodes", "greedy")
        }
        longer = name in chosen.variants and asked | {"total_steps": 0} == had | {"total_steps": 0}
        if asked != had and not (longer and asked["total_steps"] > had["total_steps"]):
            told = ", ".join(f"{key} {value}" for key, value in had.items())
            raise ValueError(
                f"{path} holds results of {name} with {told}; allowed is the same, or another --out"
            )


def earlier(chosen: argparse.Namespace) -> dict[str, Any]:
    """The rows of the result file that is there already."""
    path = chosen.out / file_name(chosen.env)
    return read(path)["rows"] if path.exists() else {}


def _sizes(plan: dict[str, Any]) -> dict[str, Any]:
    """What all rows of a result file have in common."""
    return {name: plan[name] for name in ("total_steps", "eval_episodes", "greedy")} | {
        "seeds": len(plan["seeds"])
    }


def file_name(env: str) -> str:
    """The result file of an environment."""
    return f"learning-{env.removeprefix('jumanji/').replace('/', '-')}.json"


def read(path: Path) -> dict[str, Any]:
    """A result file."""
    return json.loads(path.read_text(encoding="utf-8"))


def folder(chosen: argparse.Namespace, algorithm: str) -> Path:
    """Where a run is kept."""
    return chosen.runs / chosen.env.replace("/", "-") / algorithm


def work(chosen: argparse.Namespace) -> None:
    """One run, on one core if the system can be told so."""
    if chosen.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {chosen.core})  # before JAX starts its threads
    import jaxmarl_lite as jml
    from jaxmarl_lite.report import run_dir

    path, variant = folder(chosen, chosen.one), chosen.variants[chosen.one]
    begun = run_dir.RunFolder(path).exists()
    jml.run(
        variant.algorithm,
        chosen.env,
        config=variant.config(),
        greedy=chosen.greedy,
        seeds=chosen.seeds,
        total_steps=chosen.total_steps,
        num_envs=chosen.num_envs,
        num_steps=chosen.num_steps,
        num_evaluations=chosen.num_evaluations,
        eval_episodes=chosen.eval_episodes,
        **({"resume": path} if begun else {"out": path}),  # type: ignore[arg-type]
    )


def train_all(chosen: argparse.Namespace, words: list[str]) -> dict[str, str]:
    """Start a process for every algorithm, as many at a time as there are workers; why some
    failed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free: list[int] = list(range(max(1, min(chosen.workers, len(cores) or chosen.workers))))
    waiting, running, failed = list(chosen.variants), {}, {}
    try:
        while waiting or running:
            while waiting and free:
                name, slot = waiting.pop(0), free.pop(0)
                running[name] = _start(name, cores[slot] if cores else None, chosen, words), slot
            time.sleep(0.2)
            for name, (process, slot) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    free.append(slot)
                    if process.returncode:
                        failed[name] = (
                            f"ended with code {process.returncode}: "
                            f"{_last_words(_log(chosen, name))}"
                        )
                    print(f"{name}: {failed.get(name, 'done')}", flush=True)
    finally:
        for process, _ in running.values():
            process.terminate()
    return failed


def _start(
    name: str, core: int | None, chosen: argparse.Namespace, words: list[str]
) -> subprocess.Popen[bytes]:
    log = _log(chosen, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name}: core {'any' if core is None else core}, see {log}", flush=True)
    place = [] if core is None else ["--core", str(core)]
    with log.open("ab") as file:
        command = [sys.executable, str(Path(__file__).absolute()), *words, "--one", name, *place]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _last_words(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _log(chosen: argparse.Namespace, name: str) -> Path:
    path = folder(chosen, name)
    return path.with_name(f"{path.name}.log")


def report(chosen: argparse.Namespace, done: list[str], failed: dict[str, str]) -> None:
    """Result files and the picture of all curves."""
    import bench_utils
    import numpy as np

    import jaxmarl_lite as jml
    from jaxmarl_lite.report import plotting

    results = {name: jml.load_run(folder(chosen, name)) for name in done}
    first = results[done[0]]
    random = {name: interval(result.random_returns) for name, result in results.items()}
    data = {
        "facts": bench_utils.facts(),
        "env": chosen.env,
        "return_description": first.spec.return_description,
        "max_return": first.spec.max_return,
        "rows": {name: _row(result) | {"random": random[name]} for name, result in results.items()},
        "failed": failed,
    }
    stem = Path(file_name(chosen.env)).stem
    data["rows"] = earlier(chosen) | data["rows"]
    looks: dict[str, Any] = dict(
        ylabel=first.spec.return_description, title=chosen.env, path=chosen.out / f"{stem}.png"
    )
    looks |= dict(
        best=first.spec.max_return,
        random=None if random[done[0]] is None else random[done[0]]["iqm"],
    )
    if first.costs is None:
        whole = data["rows"].items()
        rows = {
            name: {key: np.asarray(row[key], float) for key in CURVES if row[key]}
            for name, row in whole
        }
        wins = {
            name: (row["steps"], row["win_rates"])
            for name, row in rows.items()
            if "win_rates" in row
        }
        returns = {name: (row["steps"], row["returns"]) for name, row in rows.items()}
        plotting.learning_curve(returns, wins=wins, **looks)
    else:
        shown = {
            name: found
            for name in data["rows"]
            if (found := results.get(name) or _still(chosen, name, data))
        }
        data["not drawn"] = [name for name in data["rows"] if name not in shown]
        curves = {
            name: (result.steps, result.returns, result.costs) for name, result in shown.items()
        }
        spec = first.spec
        plotting.constrained_curves(
            curves,
            limits=first.limits,
            names=spec.cost_names,
            meanings=spec.cost_descriptions,
            **looks,
        )
    bench_utils.write(chosen.out / f"{stem}.json", data, text(data, stem))
    print(f"\n{text(data, stem)}\n{chosen.out / stem}.json")


def _still(chosen: argparse.Namespace, name: str, data: dict[str, Any]) -> Any:
    """The run of an earlier row, if it is where it was."""
    import numpy as np

    import jaxmarl_lite as jml
    from jaxmarl_lite.report import run_dir

    if not run_dir.RunFolder(folder(chosen, name)).exists():
        return None
    found = jml.load_run(folder(chosen, name))
    same = np.array_equal(
        found.returns, np.asarray(data["rows"][name]["returns"], float), equal_nan=True
    )
    return found if same else None


def interval(values: Any, by_task: bool = False) -> Any:
    """IQM of ``[seeds]`` with its 95 % interval; by task of ``[tasks, seeds]``, each task apart.
    None of None.
    """
    from jaxmarl_lite.report import statistics

    if values is None:
        return None
    found = statistics.bootstrap_interval(values, by_task=by_task)
    return {"iqm": float(found.estimate), "low": float(found.low), "high": float(found.high)}


def _row(result: Any) -> dict[str, Any]:
    took = result.timings
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
        "minutes": took.elapsed_seconds / 60,
        "training_minutes": took.training_seconds / 60,
        "compile_seconds": took.compile_seconds,
        "steps_per_second": took.steps_per_second,
        "plan": result.plan.to_dict(),
    }


def _costs(result: Any) -> list[dict[str, Any]]:
    """The last evaluation's costs of every agent, and how often a limit was broken in training."""
    final, kept = result.final_costs(), result.satisfaction_rate()
    rows = []
    for k, name in enumerate(result.spec.cost_names):
        for agent in range(result.spec.num_agents):
            at = (agent, k)
            row = {
                "cost": name,
                "agent": agent,
                "limit": float(result.limits[at]),
                "kept": float(kept[at]),
            }
            row |= {
                "mean": float(final.estimate[at]),
                "low": float(final.low[at]),
                "high": float(final.high[at]),
            }
            for part, share in _broken(result, at).items():
                row[part] = share
            rows.append(row)
    return rows


def _broken(result: Any, at: tuple[int, int]) -> dict[str, float]:
    """Share of updates whose episodes cost more than the limit on average: of all, and of the
    second half.
    """
    import numpy as np

    shares = result.metrics["violation_rate"][:, 1:, *at]
    return {
        "broken": float(np.nanmean(shares)),
        "broken_late": float(np.nanmean(shares[:, shares.shape[1] // 2 :])),
    }


def _cost_text(rows: dict[str, Any]) -> str:
    """The costs as a table; empty where there are none."""
    import bench_utils

    found = [
        [
            name,
            row["cost"],
            str(row["agent"]),
            row["limit"],
            f"{row['mean']:.3g} [{row['low']:.3g}, {row['high']:.3g}]",
            "yes" if row["high"] <= row["limit"] else "no",
            row["kept"],
            row["broken"],
            row["broken_late"],
        ]
        for name, of in rows.items()
        for row in of["costs"] or ()
    ]
    columns = [
        "algorithm",
        "cost",
        "agent",
        "limit",
        "cost per episode, mean [95 %]",
        "upper end within",
        "P(episode within)",
        "updates over it",
        "in the second half",
    ]
    return f"{bench_utils.table(columns, found)}\n" if found else ""


def text(data: dict[str, Any], stem: str) -> str:
    """The table, with everything needed to read it."""
    import bench_utils

    def words(interval: dict[str, Any] | None) -> str:
        return (
            ""
            if interval is None
            else f"{interval['iqm']:.3g} [{interval['low']:.3g}, {interval['high']:.3g}]"
        )

    best = data["max_return"]
    rows = [
        [
            name,
            row["final"] and words(row["final"]),
            row["final"]["iqm"] / best if best else None,
            words(row.get("final_win_rate")),
            words(row["random"]),
            row["steps"][-1],
            row["minutes"],
            row["steps_per_second"],
            row["compile_seconds"],
        ]
        for name, row in data["rows"].items()
    ]
    columns = [
        "algorithm",
        "final return, IQM [95 %]",
        "of best",
        "win rate, IQM [95 %]",
        "random policy",
        "steps a seed",
        "minutes",
        "env steps/s",
        "compile s",
    ]
    first = next(iter(data["rows"].values()))["plan"]
    settings = "".join(
        f"- {name}: {row['plan']['num_envs']} worlds x {row['plan']['num_steps']} steps"
        f"{' out of step' if row['plan'].get('stagger_episodes') else ''}, "
        + ", ".join(f"{key} {value}" for key, value in row["plan"]["config"].items())
        + "\n"
        for name, row in data["rows"].items()
    )
    failed = "".join(f"\nFailed: {name} {why}\n" for name, why in data["failed"].items())
    absent = ", ".join(data.get("not drawn", ()))
    missing = f"Not drawn, as the runs are elsewhere: {absent}.\n\n" if absent else ""
    return (
        f"# Learning on {data['env']}\n\n{bench_utils.facts_text(data['facts'])}\n\n"
        f"Return: {data['return_description']}; best possible: "
        f"{'not known' if best is None else f'{best:g}'}. "
        f"{len(first['seeds'])} seeds, {first['eval_episodes']} episodes of each seed's "
        f"{'likeliest' if first['greedy'] else 'sampled'} actions at each evaluation; intervals "
        "are bootstraps over "
        f"seeds.\n\n{bench_utils.table(columns, rows)}\n{_cost_text(data['rows'])}"
        "Minutes are of all seeds one after another on one core, "
        "evaluations and checkpoints included, compiling not. Steps are those of the joint "
        "environment.\n\n"
        f"![Curves]({stem}.png)\n\n{missing}Settings:\n\n{settings}{failed}"
    )


if __name__ == "__main__":
    variants.to_the_end(main)
