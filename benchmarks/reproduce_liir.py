"""LIIR's experiment (Du et al. 2019) on SMAX, with what the paper lacks: does the learned reward
help?

    python benchmarks/reproduce_liir.py                                    four maps, all algorithms, 1e7 steps, 5 seeds
    python benchmarks/reproduce_liir.py --maps 3m 2s3z --algorithms liir lam0 reference mappo --steps 1000000
    python benchmarks/reproduce_liir.py --envs toy/pursuit mpe/spread-3a --algorithms liir lam0

The algorithms are LIIR, its ablation (``immediate``: equation 9 alone; ``reference``: the authors'
one scalar; ``lam0``: no intrinsic reward; ``random``: one that stays as it was drawn; ``authors``:
the settings of the authors' program, with the exact meta-gradient), and the paper's baselines. Any
other may be added as ``NAME=ALGORITHM:FIELD=VALUE,...``.

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
"""Name -> what `learning.py` is told."""


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--maps", nargs="*", help=f"of SMAX; default: {' '.join(MAPS)}, without --envs"
    )
    parser.add_argument("--envs", nargs="*", default=[], help="other environments, by their names")
    parser.add_argument(
        "--algorithms", nargs="+", default=list(KNOWN), help=f"of {', '.join(KNOWN)}, or others"
    )
    parser.add_argument(
        "--against", help="whose probability of beating others is told; default: liir, or the first"
    )
    parser.add_argument(
        "--steps", type=variants.whole, default=10_000_000, help="environment steps of each seed"
    )
    parser.add_argument("--seeds", type=variants.whole, default=5)
    parser.add_argument("--num-evaluations", type=variants.whole, default=20)
    parser.add_argument("--eval-episodes", type=variants.whole, default=128)
    parser.add_argument("--num-envs", type=variants.whole, help="default: as tuned")
    parser.add_argument("--num-steps", type=variants.whole, help="default: as tuned")
    parser.add_argument(
        "--workers", type=variants.whole, help="runs at a time; default: one per core"
    )
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "reproduce-liir")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--name", default="reproduce-liir", help="of the result files")
    chosen = parser.parse_args(arguments)
    maps = chosen.maps if chosen.maps is not None else ([] if chosen.envs else MAPS)
    chosen.environments = [*(f"smax/{name}" for name in maps), *chosen.envs]
    if not chosen.environments:
        parser.error(
            "--maps names none, and there are no --envs; allowed is at least one environment"
        )
    try:
        plans = [learning.options(_words(env, chosen)) for env in chosen.environments]
        for plan in plans:
            learning.check(plan)
    except ValueError as error:
        parser.error(str(error))
    labels = list(
        dict.fromkeys(name for plan in plans for name in [*plan.variants, *learning.earlier(plan)])
    )
    chosen.against = chosen.against or ("liir" if "liir" in labels else labels[0])
    if chosen.against not in labels:
        parser.error(f"--against is {chosen.against!r}; allowed is one of {', '.join(labels)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Environment by environment; the report is written anew after each."""
    chosen = options(arguments)
    failed, found = 0, {}
    for env in chosen.environments:
        print(f"\n== {env}", flush=True)
        path = chosen.out / learning.file_name(env)
        before = path.stat().st_mtime_ns if path.exists() else 0
        failed |= learning.main(_words(env, chosen))
        if path.exists() and path.stat().st_mtime_ns > before:
            found[env] = learning.read(path)
        if found:
            write(found, chosen)
    return failed


def _words(env: str, chosen: argparse.Namespace) -> list[str]:
    """The command line of `learning.py` for an environment."""
    algorithms = [annealed(KNOWN.get(name, name), chosen.steps) for name in chosen.algorithms]
    words = [
        "--env",
        env,
        "--algorithms",
        *algorithms,
        "--total-steps",
        str(chosen.steps),
        "--greedy",
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


def annealed(word: str, steps: int) -> str:
    """The same algorithm, its learning rates falling to 0 at the end of training, unless the word
    says otherwise.
    """
    variant = variants.parse(word)
    if {"lr_anneal_steps", "lr_anneal_share"} & set(variant.fields):
        return word
    whole = word if "=" in word.partition(":")[0] else f"{variant.label}={word}"
    return f"{whole}{',' if ':' in whole else ':'}lr_anneal_steps={steps}"


def curves(row: dict[str, Any]) -> Any:
    """Win rates ``[seeds, evaluations]``, or returns where nothing is won."""
    import numpy as np

    return np.asarray(row["returns"] if row["win_rates"] is None else row["win_rates"], float)


def summary(found: dict[str, dict[str, Any]], against: str) -> list[dict[str, Any]]:
    """A row for each environment and algorithm, then for all environments together where there are
    several.
    """
    import numpy as np

    from jaxmarl_lite.report import statistics

    ends, areas = {}, {}
    for env, data in found.items():
        for name, row in data["rows"].items():
            values = curves(row)
            ends[env, name], areas[env, name] = (
                values[:, -1],
                statistics.area_under_curve(row["steps"], values),
            )
    rows = []
    for env, data in found.items():
        for name in data["rows"]:
            given = {"end": ends, "mean over training": areas}
            row: dict[str, Any] = {"env": env, "algorithm": name, "seeds": len(ends[env, name])}
            for title, values in given.items():
                row[title] = learning.interval(values[env, name])
                if (env, against) in values and name != against:
                    row[f"beaten, {title}"] = beats(values[env, against], values[env, name])
            rows.append(row)
    names = [
        name
        for name in next(iter(found.values()))["rows"]
        if all(name in d["rows"] for d in found.values())
    ]
    won = all(
        row["win_rates"] is not None for data in found.values() for row in data["rows"].values()
    )
    if len(found) > 1 and won:  # returns of different environments have no common unit
        for name in names:
            row = {
                "env": "all",
                "algorithm": name,
                "seeds": min(len(ends[env, name]) for env in found),
            }
            for title, values in {"end": ends, "mean over training": areas}.items():
                x = np.stack([values[env, name][: row["seeds"]] for env in found])
                row[title] = learning.interval(x, by_task=True)
                if against in names and name != against:
                    y = np.stack([values[env, against][: row["seeds"]] for env in found])
                    row[f"beaten, {title}"] = beats(y, x)
            rows.append(row)
    return rows


def beats(x: Any, y: Any, resamples: int = 2000) -> dict[str, float]:
    """P(a run of x beats one of y), with its 95 % interval: both sides' seeds drawn anew, each
    task's apart.

    Seeds that diverged are left out, on both sides.
    """
    import numpy as np

    from jaxmarl_lite.report import statistics

    x, y = (
        [task[~np.isnan(task)] for task in np.atleast_2d(z)] for z in (x, y)
    )  # those that did not diverge
    draw = np.random.default_rng(0)

    def likely(x: Any, y: Any) -> float:
        return float(
            np.mean(
                [statistics.probability_of_improvement(*pair) for pair in zip(x, y, strict=True)]
            )
        )

    def again(z: Any) -> Any:
        return [task[draw.integers(task.size, size=task.size)] for task in z]

    if not all(task.size for task in [*x, *y]):
        return dict.fromkeys(("iqm", "low", "high"), float("nan"))
    low, high = np.quantile([likely(again(x), again(y)) for _ in range(resamples)], [0.025, 0.975])
    return {"iqm": likely(x, y), "low": float(low), "high": float(high)}


def words(each: dict[str, float] | None) -> str:
    """An interval to three decimals; empty for none."""
    return "" if each is None else f"{each['iqm']:.3f} [{each['low']:.3f}, {each['high']:.3f}]"


def text(
    rows: list[dict[str, Any]], found: dict[str, dict[str, Any]], chosen: argparse.Namespace
) -> str:
    """The table, with everything needed to read it."""
    import bench_utils

    first = next(iter(next(iter(found.values()))["rows"].values()))
    wins = any(
        row["win_rates"] is not None for data in found.values() for row in data["rows"].values()
    )
    columns = [
        "environment",
        "algorithm",
        "seeds",
        "end, IQM [95 %]",
        "mean over training, IQM [95 %]",
        f"P({chosen.against} better) at the end",
        "over training",
    ]
    cells = [
        [
            row["env"],
            row["algorithm"],
            row["seeds"],
            words(row["end"]),
            words(row["mean over training"]),
            words(row.get("beaten, end")),
            words(row.get("beaten, mean over training")),
        ]
        for row in rows
    ]
    trained = dict.fromkeys(
        [*chosen.algorithms, *(name for of in found.values() for name in of["rows"])]
    )
    settings = "".join(
        f"- `{KNOWN.get(name, name)}`\n" for name in trained if "=" in KNOWN.get(name, name)
    )
    for env, of in found.items():
        settings += "".join(
            f"- {name} failed on {env}: {why}\n" for name, why in of["failed"].items()
        )
    facts = bench_utils.facts_text(next(iter(found.values()))["facts"])
    return (
        f"# LIIR's experiment\n\n{facts}\n\n{bench_utils.table(columns, cells)}\n"
        f"{'Win rates, or returns where nothing is won,' if wins else 'Returns'} of "
        f"{first['plan']['eval_episodes']} "
        f"episodes of each seed's likeliest actions, {first['steps'][-1]:,} environment steps a "
        "seed. Intervals are "
        "bootstraps over seeds; where environments are pooled, each one's seeds are drawn apart. "
        "Settings of each run: "
        "the files of its environment "
        f"({', '.join(learning.file_name(env) for env in found)}).\n\n{settings}\n![Curves]({chosen.name}.png)\n"
    )


def write(found: dict[str, dict[str, Any]], chosen: argparse.Namespace) -> None:
    """The report of what is there, and the picture."""
    import bench_utils

    rows = summary(found, chosen.against)
    said = text(rows, found, chosen)
    bench_utils.write(
        chosen.out / f"{chosen.name}.json", {"facts": bench_utils.facts(), "rows": rows}, said
    )
    draw(found, rows, chosen.against, chosen.out / f"{chosen.name}.png")
    print(f"\n{said}")


def draw(
    found: dict[str, dict[str, Any]], rows: list[dict[str, Any]], against: str, path: Path
) -> None:
    """A panel of curves for each environment, and below how likely ``against`` is to be better at
    the end.
    """
    import numpy as np

    from jaxmarl_lite.report import drawing

    names = list(dict.fromkeys(name for data in found.values() for name in data["rows"]))
    looks = {name: (drawing.PALETTE[i % 7], "-" if i < 7 else "--") for i, name in enumerate(names)}
    figure = drawing.new_figure(4.2 * len(found) + 1.6, 6.2)
    panels = figure.subplots(2, len(found), squeeze=False, height_ratios=[3, 2])
    for column, (env, data) in enumerate(found.items()):
        for name, row in data["rows"].items():
            above = panels[0, column]
            drawing.plot_interval(
                above, np.asarray(row["steps"]), curves(row), name, names.index(name), False, 0.95
            )
            above.lines[-1].set_linestyle(looks[name][1])
        wins = next(iter(data["rows"].values()))["win_rates"] is not None
        drawing.style_axes(panels[0, column], "win rate" if wins else "return", env)
        panels[0, column].set_xlabel("environment steps")
        likely = {
            row["algorithm"]: row["beaten, end"]
            for row in rows
            if row["env"] == env and "beaten, end" in row
        }
        below = panels[1, column]
        for place, (name, each) in enumerate(likely.items()):
            below.plot(
                [each["low"], each["high"]],
                [place] * 2,
                color=looks[name][0],
                linewidth=6,
                alpha=0.35,
            )
            below.plot(each["iqm"], place, "o", color=looks[name][0])
        below.axvline(0.5, color=drawing.MUTED_COLOR, linestyle="--", linewidth=1)
        below.set(xlim=(-0.02, 1.02), yticks=range(len(likely)), yticklabels=list(likely))
        below.invert_yaxis()
        below.set_xlabel(f"P({against} is better at the end)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    drawing.save(figure, path)


if __name__ == "__main__":
    variants.to_the_end(main)
