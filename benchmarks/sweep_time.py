"""Times a sweep of LIIR's intrinsic_coef as one program against one run after the other.

    python benchmarks/sweep_time.py --points 16 --seeds 3 --total-steps 40960

Three ways to the same numbers, each in processes of their own: ``jaxmarl-lite sweep``; one
``jaxmarl-lite train`` for each point, whose programs are compiled anew; and the same commands when
the compilation cache has all programs. The ways take turns with the first points, so that a change
of the machine's load is seen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_utils
import numpy as np


def main() -> int:
    """Measures and writes the table."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--env", default="jumanji/lbf-2s-8x8-2p-2f-coop")
    parser.add_argument("--options", default="", help="further options of train, as one text")
    bench_utils.add_numbers(parser, points=16, seeds=3, total_steps=40_960)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        seconds = _measure(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        {"way": way, "seconds": value, "times the sweep": value / seconds["sweep"]}
        for way, value in seconds.items()
    ]
    facts = bench_utils.facts()
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    text = (
        f"# A sweep of {args.points} values of LIIR's intrinsic_coef, {args.seeds} seeds\n\n"
        f"{args.env}, {args.total_steps:,} steps of each seed: `python benchmarks/sweep_time.py "
        f"--points {args.points} --seeds {args.seeds} --total-steps {args.total_steps}`\n\n"
        f"{bench_utils.table(rows)}\n{bench_utils.facts_text(facts)}\n"
    )
    path = args.out / f"sweep-time-{bench_utils.device_name()}.json"
    bench_utils.write(path, {"facts": facts, "settings": settings, "seconds": seconds}, text)
    print(text)
    return 0


def _measure(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Returns the seconds of each way."""
    values = np.geomspace(1e-3, 1.0, args.points).round(6).tolist()
    shared = f"liir --env {args.env} --seeds {args.seeds} --total-steps {args.total_steps} "
    shared += f"--num-evaluations 2 --quiet --loggers csv {args.options}"
    new, full = folder / "new-cache", folder / "cache"
    grid = ",".join(map(str, values))
    sweep = _command(f"sweep {shared} --grid intrinsic_coef={grid} --out {folder}/sweep", new)
    compiled = cached = 0.0
    for i, value in enumerate(values):
        single = f"train {shared} --intrinsic-coef {value} --out {folder}"
        shutil.rmtree(new, ignore_errors=True)
        compiled += _command(f"{single}/compiled-{i}", new)
        if i == 0:
            shutil.copytree(new, full)
        cached += _command(f"{single}/cached-{i}", full)
    return {
        "sweep": sweep,
        "one run after the other, each compiled": compiled,
        "one run after the other, programs in the cache": cached,
    }


def _command(arguments: str, cache: Path) -> float:
    """Returns the seconds of a command of the command line."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jaxmarl_lite", *arguments.split()],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        check=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    bench_utils.to_the_end(main)
