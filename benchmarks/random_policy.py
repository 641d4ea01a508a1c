"""Measures what uniformly random actions reach in every listed environment.

    python benchmarks/random_policy.py                       all of them
    python benchmarks/random_policy.py smax/3m toy/relay     these again

The results come with the package: ``jaxmarl-lite list NAME`` and the documentation show them.
Environments that are measured replace their earlier row; those that are listed no more are dropped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import bench_utils

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import random_results
from jaxmarl_lite.report import atomic_io

LONG = 500
"""Episodes of more steps are those of robots, whose physics is slow on a CPU."""


def main(argv: list[str] | None = None) -> int:
    """Measures the environments and rewrites the file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("envs", nargs="*", metavar="ENV", help="default: all that are listed")
    parser.add_argument(
        "--out", type=Path, default=random_results.DATA, help="file of the measurements"
    )
    bench_utils.add_numbers(
        parser,
        episodes=(256, "of each environment"),
        long_episodes=(32, f"the same where an episode may have more than {LONG} steps"),
    )
    args = parser.parse_args(argv)
    listed = [name for name, _ in jml.list_environments()]
    if unknown := [name for name in args.envs if name not in listed]:
        parser.error(f"ENV is {unknown[0]}; allowed is a name that jaxmarl-lite list shows")
    rows = bench_utils.read(args.out).get("rows", {})
    for name in args.envs or listed:
        began = time.perf_counter()
        is_long = jml.make(name).spec.max_episode_steps > LONG
        result = random_results.measure(name, args.long_episodes if is_long else args.episodes)
        rows[name] = result._asdict() | {"measured": measured()}
        lines = [
            f"{atomic_io.to_json(name)}: {atomic_io.to_json(rows[name])}"
            for name in listed
            if name in rows
        ]
        atomic_io.replace_text(args.out, '{"rows": {\n' + ",\n".join(lines) + "\n}}\n")
        low, high = result.interval
        print(
            f"{name}: {result.mean_return:g} [{low:g}, {high:g}] after "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return 0


def measured() -> str:
    """Returns when and with what: a line, so that the file stays small."""
    facts = bench_utils.facts()
    names = ("jaxmarl-lite", "jax", "jumanji", "jaxmarl", "mujoco-mjx")
    packages = [f"{name} {facts['packages'][name]}" for name in names if name in facts["packages"]]
    return ", ".join([facts["date"], facts["device_kind"], *packages])


if __name__ == "__main__":
    bench_utils.to_the_end(main)
