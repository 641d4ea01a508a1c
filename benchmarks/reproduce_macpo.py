"""Measures return and cost over training on the tasks of Gu et al. 2021 (MACPO).

    python benchmarks/reproduce_macpo.py             9 tasks, 5 algorithms, 1e7 steps, 5 seeds
    python benchmarks/reproduce_macpo.py --tasks halfcheetah-2x3 --steps 1000000 --seeds 3
    python benchmarks/reproduce_macpo.py --algorithms macpo mappo-lagrangian happo

Every run is one of `learning.py`, with the settings that were tuned for it. Stopped at any moment,
the same command resumes. The table has the values at the end of training beside the paper's, read
off its figures; the paper's costs are means over the episodes of training, ours of the last
evaluation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import command_line
import learning

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


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=PAPER, default=list(PAPER), metavar="TASK")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument(
        "--steps", type=int, default=10_000_000, help="environment steps of each seed"
    )
    learning.add_run_options(parser, "reproduce-macpo", seeds=5, eval_episodes=16)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Trains task by task and rewrites the table after each."""
    args = options(argv)
    failed = 0
    for task in args.tasks:
        print(f"\n== {task}", flush=True)
        failed |= learning.main(_words(task, args))
        write(args)
    return failed


def _words(task: str, args: argparse.Namespace) -> list[str]:
    """Returns the command line of `learning.py` for a task."""
    options = {"env": f"safe-mujoco/{task}", "algorithms": args.algorithms}
    return command_line.to_words(options | {"total_steps": args.steps} | learning.run_options(args))


def write(args: argparse.Namespace) -> None:
    """Writes the table of all tasks that have results, and the figure of their curves."""
    import bench_utils

    results = {task: _result(task, args.out) for task in PAPER}
    results = {task: data for task, data in results.items() if data is not None}
    if not results:
        return
    rows = [
        {"task": task, "algorithm": name, **_paper(task, name), **_ours(data["rows"][name])}
        for task, data in results.items()
        for name in ALGORITHMS
        if name in data["rows"]
    ]
    text = (
        f"# Gu et al. 2021, Safe MAMuJoCo\n\n{bench_utils.facts_text(bench_utils.facts())}\n\n"
        f"{bench_utils.table(rows)}\n\nThe paper's are after 1e7 steps. Costs are of the "
        "costliest agent.\n\n![Curves](reproduce-macpo.png)\n"
    )
    data = {"facts": bench_utils.facts(), "rows": [list(row.values()) for row in rows]}
    bench_utils.write(args.out / "reproduce-macpo.json", data, text)
    draw(results, args.out / "reproduce-macpo.png")


def _result(task: str, folder: Path) -> dict[str, Any] | None:
    path = folder / f"learning-safe-mujoco-{task}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _paper(task: str, name: str) -> dict[str, float]:
    mean_return, cost = PAPER[task][ALGORITHMS.index(name)]
    return {"paper: return": mean_return, "paper: cost": cost}


def _ours(row: dict[str, Any]) -> dict[str, Any]:
    costliest = max(row["costs"], key=lambda cost: cost["mean"])
    within = all(cost["high"] <= cost["limit"] for cost in row["costs"])
    cost_interval = costliest | {"iqm": costliest["mean"]}
    return {
        "ours: return, IQM [95 %]": learning.interval_text(row["final"], ".0f"),
        "ours: cost, mean [95 %]": learning.interval_text(cost_interval, ".3g"),
        "limit": costliest["limit"],
        "upper end within": "yes" if within else "no",
        "steps a seed": row["steps"][-1],
        "seeds": len(row["final_of_each_seed"]),
    }


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws returns in the upper row and costs in the lower, a column per task."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from jaxmarl_lite.report import drawing

    figure = Figure(figsize=(4 * len(results), 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(results), squeeze=False)
    for column, (task, data) in enumerate(results.items()):
        for i, name in enumerate(name for name in ALGORITHMS if name in data["rows"]):
            row = data["rows"][name]
            for row_index, values in enumerate((row["returns"], row["cost_curves"])):
                values = np.asarray(values, float)
                drawing.plot_interval(
                    panels[row_index, column],
                    np.asarray(row["steps"]),
                    values,
                    name,
                    i,
                    False,
                    0.95,
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
    command_line.to_the_end(main)
