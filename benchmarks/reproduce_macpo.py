"""Measures return and cost over training on the tasks of Gu et al. 2021 (MACPO).

    python benchmarks/reproduce_macpo.py             9 tasks, 5 algorithms, 1e7 steps, 5 seeds
    python benchmarks/reproduce_macpo.py --tasks halfcheetah-2x3 --steps 1000000 --seeds 3
    python benchmarks/reproduce_macpo.py --algorithms macpo mappo-lagrangian happo

All runs are those of one `jaxmarl_lite.compare`, with the settings that were tuned for them.
Stopped at any moment, the same command continues. The table has the values at the end of training
beside the paper's, read off its figures; the paper's costs are means over the episodes of training,
ours of the last evaluation.
"""

from __future__ import annotations

import argparse
from typing import Any

import bench_utils

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
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=PAPER, default=list(PAPER), metavar="TASK")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    bench_utils.add_run_options(parser, "reproduce-macpo", eval_episodes=16)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Trains task by task and writes the table and the curves; returns 1 if a run failed."""
    args = options(argv)
    envs = [f"safe-mujoco/{task}" for task in args.tasks]
    comparison = bench_utils.compare_runs_of(args, lambda: args.algorithms, envs)
    rows = [row for row in map(_row, comparison.rows()) if row]
    facts = bench_utils.facts()
    figures = []
    for env in comparison.results:
        figures.append(f"{args.name}-{env.split('/')[-1]}.png")
        comparison.plot(env, args.out / figures[-1])
    text = (
        f"# Gu et al. 2021, Safe MAMuJoCo\n\n{bench_utils.facts_text(facts)}\n\n"
        f"{bench_utils.table(rows)}\n\nThe paper's are after 1e7 steps. Costs are of the "
        f"costliest agent.\n\n{''.join(f'![Curves]({name})' for name in figures)}\n"
    )
    data = {"facts": facts, "rows": [list(row.values()) for row in rows]}
    bench_utils.write(args.out / f"{args.name}.json", data, text)
    print(f"\n{text}")
    return 1 if comparison.failed else 0


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of the table; empty for a run that the paper does not have."""
    task, name = row["env"].split("/")[-1], row["label"]
    if task not in PAPER or name not in ALGORITHMS:
        return {}
    mean_return, cost = PAPER[task][ALGORITHMS.index(name)]
    costliest = max(row["costs"], key=lambda entry: entry["mean"]["estimate"])
    within = all(entry["mean"]["high"] <= entry["limit"] for entry in row["costs"])
    return {
        "task": task,
        "algorithm": name,
        "paper: return": mean_return,
        "paper: cost": cost,
        "ours: return, IQM [95 %]": bench_utils.interval_text(row["final_return"], ".0f"),
        "ours: cost, mean [95 %]": bench_utils.interval_text(costliest["mean"], ".3g"),
        "limit": costliest["limit"],
        "upper end within": "yes" if within else "no",
        "steps a seed": row["steps"][-1],
        "seeds": row["seeds"],
    }


if __name__ == "__main__":
    bench_utils.to_the_end(main)
