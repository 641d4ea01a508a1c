"""The figures of Gu et al. 2021 (MACPO): return and cost against steps, 9 tasks, 5 algorithms,
beside the paper's.

    python benchmarks/reproduce_macpo.py                                             all of it: 1e7 steps, 5 seeds
    python benchmarks/reproduce_macpo.py --tasks halfcheetah-2x3 --steps 1000000 --seeds 3
    python benchmarks/reproduce_macpo.py --algorithms macpo mappo-lagrangian happo

Every run is one of `learning.py`, with the settings that were tuned for it. Stopped at any moment,
the same command goes on where it was. The table has the end of training beside the paper's, read
off its figures; the paper's costs are means over the episodes of training, ours of the last
evaluation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import learning
import variants

HERE = Path(__file__).parent
ALGORITHMS = ("macpo", "mappo-lagrangian", "happo", "mappo", "ippo")
PAPER: dict[str, tuple[tuple[float, float], ...]] = {
    "ant-2x4": ((1380, 10), (2850, 2), (3370, 205), (2620, 205), (830, 285)),
    "ant-4x2": ((1600, 4), (3030, 3), (3600, 205), (2030, 243), (840, 315)),
    "ant-2x4d": ((1230, 6), (2820, 2), (3380, 185), (2230, 228), (840, 275)),
    "halfcheetah-2x3": ((2690, 12), (2550, 2), (3700, 555), (3280, 485), (2170, 85)),
    "halfcheetah-3x2": ((2400, 12), (2510, 2), (3950, 600), (3180, 465), (1830, 180)),
    "halfcheetah-6x1": ((2740, 13), (2690, 4), (4000, 605), (2280, 172), (1260, 65)),
    "manyagent-ant-2x3": ((1630, 4), (2070, 3), (2560, 265), (2310, 255), (2370, 245)),
    "manyagent-ant-3x2": ((1980, 5), (2100, 5), (2610, 255), (2450, 245), (2440, 240)),
    "manyagent-ant-6x1": ((1680, 5), (2220, 15), (2510, 260), (2080, 230), (2180, 285)),
}
"""Task -> return and cost per episode of each algorithm after 1e7 steps, read off the paper's
figures."""


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=PAPER, default=list(PAPER), metavar="TASK")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument(
        "--steps", type=int, default=10_000_000, help="environment steps of each seed"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--num-evaluations", type=int, default=20)
    parser.add_argument("--eval-episodes", type=int, default=16)
    parser.add_argument("--num-envs", type=int, help="default: as tuned for the task")
    parser.add_argument("--num-steps", type=int, help="default: as tuned for the task")
    parser.add_argument("--workers", type=int, help="runs at a time; default: one per core")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "reproduce-macpo")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Task by task; the table is written anew after each."""
    chosen = options(words)
    failed = 0
    for task in chosen.tasks:
        print(f"\n== {task}", flush=True)
        failed |= learning.main(_words(task, chosen))
        write(chosen)
    return failed


def _words(task: str, chosen: argparse.Namespace) -> list[str]:
    """The command line of `learning.py` for a task."""
    words = [
        "--env",
        f"safe-mujoco/{task}",
        "--algorithms",
        *chosen.algorithms,
        "--total-steps",
        str(chosen.steps),
    ]
    for name in (
        "seeds",
        "num_evaluations",
        "eval_episodes",
        "num_envs",
        "num_steps",
        "workers",
        "runs",
        "out",
    ):
        value = getattr(chosen, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return words


def write(chosen: argparse.Namespace) -> None:
    """The table of all tasks that have results, and the picture of their curves."""
    import bench_utils

    found = {task: _result(task, chosen.out) for task in PAPER}
    found = {task: data for task, data in found.items() if data is not None}
    if not found:
        return
    rows = [
        [task, name, *_paper(task, name), *_ours(data["rows"][name])]
        for task, data in found.items()
        for name in ALGORITHMS
        if name in data["rows"]
    ]
    columns = [
        "task",
        "algorithm",
        "paper: return",
        "paper: cost",
        "ours: return, IQM [95 %]",
        "ours: cost, mean [95 %]",
        "limit",
        "upper end within",
        "steps a seed",
        "seeds",
    ]
    text = (
        f"# Gu et al. 2021, Safe MAMuJoCo\n\n{bench_utils.facts_text(bench_utils.facts())}\n\n"
        f"{bench_utils.table(columns, rows)}\n\nThe paper's are after 1e7 steps. Costs are of the "
        "costliest agent."
        "\n\n![Curves](reproduce-macpo.png)\n"
    )
    bench_utils.write(
        chosen.out / "reproduce-macpo.json", {"facts": bench_utils.facts(), "rows": rows}, text
    )
    draw(found, chosen.out / "reproduce-macpo.png")


def _result(task: str, folder: Path) -> dict[str, Any] | None:
    path = folder / f"learning-safe-mujoco-{task}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _paper(task: str, name: str) -> tuple[float, float]:
    return PAPER[task][ALGORITHMS.index(name)]


def _ours(row: dict[str, Any]) -> list[Any]:
    final, cost = row["final"], max(row["costs"], key=lambda of: of["mean"])
    return [
        f"{final['iqm']:.0f} [{final['low']:.0f}, {final['high']:.0f}]",
        f"{cost['mean']:.3g} [{cost['low']:.3g}, {cost['high']:.3g}]",
        cost["limit"],
        "yes" if all(of["high"] <= of["limit"] for of in row["costs"]) else "no",
        row["steps"][-1],
        len(row["final_of_each_seed"]),
    ]


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Return above and cost below, a column per task."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaxmarl_lite.report import drawing

    figure = Figure(figsize=(4 * len(found), 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (task, data) in enumerate(found.items()):
        for i, name in enumerate(name for name in ALGORITHMS if name in data["rows"]):
            row = data["rows"][name]
            for line, values in enumerate((row["returns"], row["cost_curves"])):
                values = np.asarray(values, float)
                drawing.plot_interval(
                    panels[line, column], np.asarray(row["steps"]), values, name, i, False, 0.95
                )
        panels[0, column].set_title(task)
        panels[1, column].axhline(
            data["rows"][next(iter(data["rows"]))]["costs"][0]["limit"], color="k", ls="--", lw=1
        )
        panels[1, column].set_xlabel("environment steps")
    panels[0, 0].set_ylabel("return per episode")
    panels[1, 0].set_ylabel("cost per episode")
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    variants.to_the_end(main)
