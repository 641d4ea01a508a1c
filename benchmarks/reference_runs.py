"""Trains the reference results that come with the package, and stores their learning curves.

    python benchmarks/reference_runs.py --list            every group with its command
    python benchmarks/reference_runs.py toy-budget lbf     train these, then store their curves
    python benchmarks/reference_runs.py 3m --labels liir   one of their variants

A group is one call of ``jaxmarl-lite compare``, with the settings tuned for each algorithm. Stopped
at any moment, the same command continues. The curves of every finished run replace those in
``jaxmarl_lite/reference_data``; `jaxmarl_lite.reference_results` reads them. Values that
papers publish for the same environments stand beside them in ``published.json``.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import bench_utils

from jaxmarl_lite.experiment import compare, reference_results
from jaxmarl_lite.experiment.comparison import folder_name
from jaxmarl_lite.experiment.memory import DeviceMemoryError
from jaxmarl_lite.experiment.runner import RunError

CONSTRAINED = ("macpo", "mappo-lagrangian", "happo", "mappo")
COOPERATIVE = (
    *("liir", "lambda-0=liir:intrinsic_coef=0", "mappo", "ippo", "happo", "hatrpo"),
    *("coma", "iac", "central-v", "qmix"),
)
FORAGING = ("liir", "lambda-0=liir:intrinsic_coef=0", "mappo", "ippo")
BATTLES = (*FORAGING, "qmix")


class Group(NamedTuple):
    """Variants that are trained alike in one environment."""

    env: str
    variants: tuple[str, ...]
    total_steps: int
    eval_episodes: int = 32
    seeds: int = 5


GROUPS = {
    "toy-relay": Group("toy/relay", COOPERATIVE, 500_000, eval_episodes=256),
    "toy-budget": Group("toy/budget", CONSTRAINED, 500_000, eval_episodes=1024),
    "search-and-rescue": Group("safe/search-and-rescue-2s-40t", CONSTRAINED, 1_000_000, 128),
    "warehouse": Group("safe/rware-tiny-2ag", CONSTRAINED, 1_000_000, 128),
    "halfcheetah": Group("safe-mujoco/halfcheetah-2x3", CONSTRAINED, 3_000_000),
    "ant": Group("safe-mujoco/ant-2x4", CONSTRAINED, 3_000_000),
    "manyagent-ant": Group("safe-mujoco/manyagent-ant-2x3", CONSTRAINED, 1_000_000),
    "safe-velocity": Group("safe-velocity/halfcheetah-2x3", CONSTRAINED, 1_000_000),
    "lbf": Group("jumanji/lbf-2s-8x8-2p-2f-coop", FORAGING, 2_000_000, 128),
    "3m": Group("smax/3m", BATTLES, 2_000_000, 128),
    "2s3z": Group("smax/2s3z", BATTLES, 2_000_000, 128),
    "8m": Group("smax/8m", BATTLES, 2_000_000, 128),
    "3s5z": Group("smax/3s5z", BATTLES, 2_000_000, 128),
}
"""Name -> group."""


def command(group: Group, variants: Sequence[str]) -> str:
    """Returns the command that trains variants of a group."""
    return shlex.join(
        [
            *("jaxmarl-lite", "compare", *variants, "--env", group.env),
            *("--total-steps", str(group.total_steps), "--seeds", str(group.seeds)),
            *("--eval-episodes", str(group.eval_episodes), "--out", "runs/reference"),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Trains the groups and stores their curves; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--labels", nargs="+", help="variants of the groups; default: all")
    parser.add_argument("--list", action="store_true", help="print the commands and train nothing")
    parser.add_argument(
        "--runs", type=Path, default=bench_utils.RESULTS.parents[1] / "runs/reference"
    )
    parser.add_argument("--out", type=Path, default=reference_results.DATA, help="folder of curves")
    bench_utils.add_numbers(
        parser, workers=(os.cpu_count() or 1, "runs at once; default: one per core")
    )
    args = parser.parse_args(argv)
    if unknown := [name for name in args.groups if name not in GROUPS]:
        parser.error(f"GROUP is {unknown[0]}; allowed is one of {', '.join(GROUPS)}")
    groups = {name: GROUPS[name] for name in args.groups or (GROUPS if args.list else ())}
    if not groups:
        parser.error("no GROUP is given; allowed is at least one, or --list")
    known = {
        compare.parse_variant(text).label for group in groups.values() for text in group.variants
    }
    if unknown := [label for label in args.labels or () if label not in known]:
        parser.error(f"--labels has {unknown[0]}; allowed is one of {', '.join(sorted(known))}")
    has_failed = False
    for name, group in groups.items():
        variants = [
            text
            for text in group.variants
            if not args.labels or compare.parse_variant(text).label in args.labels
        ]
        print(f"{name}: {command(group, variants)}", flush=True)
        if variants and not args.list:
            has_failed |= not train(group, variants, args.runs, args.out, args.workers)
    return 1 if has_failed else 0


def train(
    group: Group, variants: Sequence[str], runs: Path, out: Path, workers: int | None
) -> bool:
    """Trains variants of a group and stores their curves; returns whether all were finished."""
    try:
        comparison = compare.compare(
            variants,
            group.env,
            out=runs,
            seeds=group.seeds,
            total_steps=group.total_steps,
            eval_episodes=group.eval_episodes,
            workers=workers,
        )
    except (RunError, DeviceMemoryError) as error:
        print(error, flush=True)
        return False
    failed = comparison.failed.get(group.env, {})
    for variant in variants:
        label = compare.parse_variant(variant).label
        if label not in failed:
            path = runs / folder_name(group.env) / label
            print(reference_results.record(path, label, command(group, [variant]), out), flush=True)
    for label, reason in failed.items():
        print(f"{label} failed: {reason}", flush=True)
    return not failed


if __name__ == "__main__":
    bench_utils.to_the_end(main)
