"""Kill a run with SIGKILL at random moments, resume it each time, and compare its end with an undisturbed run's.

    python benchmarks/kills.py --kills 20

A run is started, killed after a time drawn uniformly from the length of an undisturbed one (its start, with nothing
on the disk yet, and its end included), resumed, killed again, and so on until it comes through; then the next one
begins, until there were enough kills. Every run that came through must hold the undisturbed one's bits: final training
state, and every row of its metrics except for timings.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

import jaxmarl_lite as jml
from jaxmarl_lite.report import checkpoint, runfolder, tables
from jaxmarl_lite.running.record import TIMINGS

RUN = (
    "--env toy/counter --seeds 2 --total-steps 10240 --evaluations 40 --eval-episodes 4 --num-envs 8 --num-steps 8 "
    "--hidden 8"
).split()


def start(algorithm: str, out: Path) -> subprocess.Popen[bytes]:
    """Begin a run, or resume it where there is one."""
    command = [sys.executable, "-m", "jaxmarl_lite", "train"]
    command += ["--resume", str(out)] if (out / "config.json").exists() else [algorithm, *RUN, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def undisturbed(algorithm: str, out: Path) -> float:
    """A whole run; answers its seconds."""
    began = time.perf_counter()
    process = start(algorithm, out)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(said.decode())
    return time.perf_counter() - began


def disturbed(algorithm: str, out: Path, moment: float) -> tuple[bool, float]:
    """A run, or its next part, killed after ``moment`` seconds; whether it came through before, and its seconds."""
    began = time.perf_counter()
    process = start(algorithm, out)
    try:
        _, said = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False, time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{out} could not be resumed: {said.decode()}")
    return True, time.perf_counter() - began


def evidence(path: Path) -> tuple[list[bytes], list[str]]:
    """The bits of a finished run: every leaf of its last state, and its rows without timings."""
    states = jml.load_run(path).states
    typed = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
             for x in jax.tree.leaves(states)]  # fmt: skip
    rows = [{k: v for k, v in row.items() if k not in TIMINGS} for row in runfolder.load(path).rows]
    json.loads((path / "marl_eval.json").read_text())
    return [np.asarray(x).tobytes() for x in typed], [repr(row) for row in rows]


def main() -> int:
    """Print a line per kill; answers 1 when some run ended otherwise than the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--algorithm", default="liir", choices=sorted(jml.ALGORITHMS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="kills_"))
    undisturbed(options.algorithm, home / "first")  # fills the cache of compiled programs
    length = undisturbed(options.algorithm, home / "whole")
    wanted, draw = evidence(home / "whole"), random.Random(options.seed)
    rows, equal, number, kills = [], True, 0, 0
    while kills < options.kills:
        out, done = home / f"run_{number}", False
        while not done:
            moment = draw.uniform(0.0, length) if kills < options.kills else 1e6
            done, seconds = disturbed(options.algorithm, out, moment)
            kills += not done
            reached = checkpoint.latest(out / "checkpoints") if (out / "checkpoints").exists() else None
            ending = ("same bits" if evidence(out) == wanted else "OTHER BITS") if done else "killed"
            equal &= ending != "OTHER BITS"
            rows.append((number, kills, f"{seconds:.2f}", "none" if reached is None else str(reached), ending))
        number += 1
    columns = ("run", "kills so far", "seconds", "newest checkpoint", "")
    title = f"{options.algorithm}: {kills} kills of {number} runs; undisturbed: {length:.1f} s, 40 checkpoints"
    Console(width=100).print(tables.list_table(columns, rows, title=title))
    shutil.rmtree(home)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
