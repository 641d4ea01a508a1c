"""Reproduces LIIR's experiment (Du et al. 2019) on SMAX, with ablations of the learned reward.

    python benchmarks/reproduce_liir.py              four maps, all algorithms, 1e7 steps, 5 seeds
    python benchmarks/reproduce_liir.py --maps 3m 2s3z --algorithms liir lam0 --steps 1000000
    python benchmarks/reproduce_liir.py --envs toy/pursuit mpe/spread-3a --algorithms liir lam0

The algorithms are LIIR, its ablation (``immediate``: equation 9 alone; ``reference``: the authors'
one scalar; ``lam0``: no intrinsic reward; ``random``: one that stays at its initial weights;
``authors``: the settings of the authors' program, with the exact meta-gradient), and the paper's
baselines. Any other may be added as ``NAME=ALGORITHM:FIELD=VALUE,...``.

Every run is one of `learning.py`, with all learning rates falling to 0 at the end. Stopped at any
moment, the same command goes on where it was. The likeliest actions are evaluated, as is usual in
these battles. The report has win rates (returns, where nothing is won) at the end and as the mean
over training, IQM with 95 % bootstrap intervals over seeds, stratified where maps are pooled, and
how likely a run of LIIR is to beat one of each other algorithm.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import command_line
import learning
import variants

HERE = Path(__file__).parent
MAPS = ("3m", "8m", "2s3z", "3s5z")
KNOWN = {
    "liir": "liir",
    "lam0": "lam0=liir:intrinsic_coef=0",
    "immediate": "immediate=liir:meta_gradient=immediate",
    "reference": "reference=liir:meta_gradient=reference",
    "random": "random=liir:intrinsic_lr=0,intrinsic_init_scale=1",
    "authors": "authors=liir.reference:meta_gradient=exact",
    "mappo": "mappo",
    "ippo": "ippo",
    "iac": "iac",
    "central-v": "central-v",
    "coma": "coma",
    "qmix": "qmix",
}
"""Name -> argument of `learning.py`."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument(
        "--maps", nargs="*", help=f"of SMAX; default: {' '.join(MAPS)}, without --envs"
    )
    parser.add_argument("--envs", nargs="*", default=[], help="other environments, by their names")
    parser.add_argument(
        "--algorithms", nargs="+", default=list(KNOWN), help=f"of {', '.join(KNOWN)}, or others"
    )
    parser.add_argument(
        "--against", help="report its probability of beating others; default: liir, or the first"
    )
    parser.add_argument(
        "--steps", type=command_line.whole_number, default=10_000_000, help="of each seed"
    )
    learning.add_run_options(parser, "reproduce-liir", seeds=5, eval_episodes=128)
    parser.add_argument("--name", default="reproduce-liir", help="of the result files")
    args = parser.parse_args(argv)
    maps = args.maps if args.maps is not None else ([] if args.envs else MAPS)
    args.environments = [*(f"smax/{name}" for name in maps), *args.envs]
    if not args.environments:
        parser.error(
            "--maps names none, and there are no --envs; allowed is at least one environment"
        )
    try:
        plans = [learning.options(_words(env, args)) for env in args.environments]
        for plan in plans:
            learning.check(plan)
    except ValueError as error:
        parser.error(str(error))
    labels = list(
        dict.fromkeys(name for plan in plans for name in [*plan.variants, *learning.earlier(plan)])
    )
    args.against = args.against or ("liir" if "liir" in labels else labels[0])
    if args.against not in labels:
        parser.error(f"--against is {args.against!r}; allowed is one of {', '.join(labels)}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Trains environment by environment and rewrites the report after each."""
    args = options(argv)
    failed, results = 0, {}
    for env in args.environments:
        print(f"\n== {env}", flush=True)
        path = args.out / learning.file_name(env)
        modified = path.stat().st_mtime_ns if path.exists() else 0
        failed |= learning.main(_words(env, args))
        if path.exists() and path.stat().st_mtime_ns > modified:
            results[env] = learning.read(path)
        if results:
            write(results, args)
    return failed


def _words(env: str, args: argparse.Namespace) -> list[str]:
    """Returns the command line of `learning.py` for an environment."""
    algorithms = [annealed(KNOWN.get(name, name), args.steps) for name in args.algorithms]
    options = {"env": env, "algorithms": algorithms, "total_steps": args.steps, "greedy": True}
    return command_line.to_words(options | learning.run_options(args))


def annealed(word: str, steps: int) -> str:
    """Returns the algorithm with learning rates that fall to 0, unless the word sets them."""
    variant = variants.parse(word)
    if {"lr_anneal_steps", "lr_anneal_share"} & set(variant.fields):
        return word
    variant_text = word if "=" in word.partition(":")[0] else f"{variant.label}={word}"
    return f"{variant_text}{',' if ':' in variant_text else ':'}lr_anneal_steps={steps}"


def curves(row: dict[str, Any]) -> Any:
    """Returns win rates ``[seeds, evaluations]``, or returns where nothing is won."""
    import numpy as np

    return np.asarray(row["returns"] if row["win_rates"] is None else row["win_rates"], float)


def summary(results: dict[str, dict[str, Any]], against: str) -> list[dict[str, Any]]:
    """Returns a row for each environment and algorithm, and rows of all environments pooled."""
    import numpy as np

    from jaxmarl_lite.report import statistics

    ends, areas = {}, {}
    for env, data in results.items():
        for name, row in data["rows"].items():
            values = curves(row)
            ends[env, name] = values[:, -1]
            areas[env, name] = statistics.area_under_curve(row["steps"], values)
    measures = {"end": ends, "mean over training": areas}
    rows = []
    for env, data in results.items():
        for name in data["rows"]:
            row: dict[str, Any] = {"env": env, "algorithm": name, "seeds": len(ends[env, name])}
            for title, values in measures.items():
                row[title] = learning.interval(values[env, name])
                if (env, against) in values and name != against:
                    row[f"beaten, {title}"] = beats(values[env, against], values[env, name])
            rows.append(row)
    common = [set(data["rows"]) for data in results.values()]
    names = [
        name for name in next(iter(results.values()))["rows"] if all(name in x for x in common)
    ]
    won = all(
        row["win_rates"] is not None for data in results.values() for row in data["rows"].values()
    )
    if len(results) > 1 and won:  # returns of different environments have no common unit
        for name in names:
            row = {"env": "all", "algorithm": name}
            row["seeds"] = min(len(ends[env, name]) for env in results)
            for title, values in measures.items():
                x = np.stack([values[env, name][: row["seeds"]] for env in results])
                row[title] = learning.interval(x, by_task=True)
                if against in names and name != against:
                    y = np.stack([values[env, against][: row["seeds"]] for env in results])
                    row[f"beaten, {title}"] = beats(y, x)
            rows.append(row)
    return rows


def beats(x: Any, y: Any, resamples: int = 2000) -> dict[str, float]:
    """Returns P(a run of x beats one of y) with its 95 % bootstrap interval.

    The bootstrap resamples the seeds of both sides within each task. Seeds that diverged are left
    out on both sides.
    """
    import numpy as np

    from jaxmarl_lite.report import statistics

    x, y = ([task[~np.isnan(task)] for task in np.atleast_2d(z)] for z in (x, y))
    draw = np.random.default_rng(0)

    def probability(x: Any, y: Any) -> float:
        pairs = zip(x, y, strict=True)
        return float(np.mean([statistics.probability_of_improvement(*pair) for pair in pairs]))

    def resampled(z: Any) -> Any:
        return [task[draw.integers(task.size, size=task.size)] for task in z]

    if not all(task.size for task in [*x, *y]):
        return dict.fromkeys(("iqm", "low", "high"), float("nan"))
    low, high = np.quantile(
        [probability(resampled(x), resampled(y)) for _ in range(resamples)], [0.025, 0.975]
    )
    return {"iqm": probability(x, y), "low": float(low), "high": float(high)}


def text(
    rows: list[dict[str, Any]], results: dict[str, dict[str, Any]], args: argparse.Namespace
) -> str:
    """Formats the result as Markdown."""
    import bench_utils

    first = next(iter(next(iter(results.values()))["rows"].values()))
    wins = any(
        row["win_rates"] is not None for data in results.values() for row in data["rows"].values()
    )
    cells = [
        {
            "environment": row["env"],
            "algorithm": row["algorithm"],
            "seeds": row["seeds"],
            "end, IQM [95 %]": learning.interval_text(row["end"]),
            "mean over training, IQM [95 %]": learning.interval_text(row["mean over training"]),
            f"P({args.against} better) at the end": learning.interval_text(row.get("beaten, end")),
            "over training": learning.interval_text(row.get("beaten, mean over training")),
        }
        for row in rows
    ]
    trained = dict.fromkeys(
        [*args.algorithms, *(name for data in results.values() for name in data["rows"])]
    )
    settings = "".join(
        f"- `{KNOWN.get(name, name)}`\n" for name in trained if "=" in KNOWN.get(name, name)
    )
    for env, data in results.items():
        settings += "".join(
            f"- {name} failed on {env}: {why}\n" for name, why in data["failed"].items()
        )
    facts = bench_utils.facts_text(next(iter(results.values()))["facts"])
    return (
        f"# LIIR's experiment\n\n{facts}\n\n{bench_utils.table(cells)}\n"
        f"{'Win rates, or returns where nothing is won,' if wins else 'Returns'} of "
        f"{first['plan']['eval_episodes']} episodes of each seed's likeliest actions, "
        f"{first['steps'][-1]:,} environment steps a seed. Intervals are bootstraps over seeds; "
        "where environments are pooled, each one's seeds are drawn separately. Settings of each "
        f"run: the files of its environment ({', '.join(map(learning.file_name, results))}).\n\n"
        f"{settings}\n![Curves]({args.name}.png)\n"
    )


def write(results: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    """Writes the report of the results, and the figure."""
    import bench_utils

    rows = summary(results, args.against)
    markdown = text(rows, results, args)
    bench_utils.write(
        args.out / f"{args.name}.json", {"facts": bench_utils.facts(), "rows": rows}, markdown
    )
    draw(results, rows, args.against, args.out / f"{args.name}.png")
    print(f"\n{markdown}")


def draw(
    results: dict[str, dict[str, Any]], rows: list[dict[str, Any]], against: str, path: Path
) -> None:
    """Draws a panel of curves for each environment, and below it P(``against`` is better)."""
    import numpy as np

    from jaxmarl_lite.report import drawing

    names = list(dict.fromkeys(name for data in results.values() for name in data["rows"]))
    looks = {name: (drawing.PALETTE[i % 7], "-" if i < 7 else "--") for i, name in enumerate(names)}
    figure = drawing.new_figure(4.2 * len(results) + 1.6, 6.2)
    panels = figure.subplots(2, len(results), squeeze=False, height_ratios=[3, 2])
    for column, (env, data) in enumerate(results.items()):
        for name, row in data["rows"].items():
            panel = panels[0, column]
            drawing.plot_interval(
                panel, np.asarray(row["steps"]), curves(row), name, names.index(name), False, 0.95
            )
            panel.lines[-1].set_linestyle(looks[name][1])
        wins = next(iter(data["rows"].values()))["win_rates"] is not None
        drawing.style_axes(panels[0, column], "win rate" if wins else "return", env)
        panels[0, column].set_xlabel("environment steps")
        likely = {
            row["algorithm"]: row["beaten, end"]
            for row in rows
            if row["env"] == env and "beaten, end" in row
        }
        bars = panels[1, column]
        for index, (name, interval) in enumerate(likely.items()):
            bars.plot(
                [interval["low"], interval["high"]],
                [index] * 2,
                color=looks[name][0],
                linewidth=6,
                alpha=0.35,
            )
            bars.plot(interval["iqm"], index, "o", color=looks[name][0])
        bars.axvline(0.5, color=drawing.MUTED_COLOR, linestyle="--", linewidth=1)
        bars.set(xlim=(-0.02, 1.02), yticks=range(len(likely)), yticklabels=list(likely))
        bars.invert_yaxis()
        bars.set_xlabel(f"P({against} is better at the end)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    drawing.save(figure, path)


if __name__ == "__main__":
    command_line.to_the_end(main)
