"""Kills a run at random moments, resumes it each time, and compares its end with an intact run's.

    python benchmarks/kills.py --kills 20 --truncated 0.5
    python benchmarks/kills.py --kills 200 --frozen --updates 8

A run with a checkpoint after every update is started, killed with SIGKILL after a time drawn
uniformly from the length of an undisturbed one (its start, with nothing on the disk yet, and its
end included), resumed, killed again, and so on until it comes through; then the next one begins,
until there were enough kills. After a share of the kills its metrics.jsonl is cut at a random byte
before it is resumed. Every run that came through must hold the undisturbed one's bits: final
training state, and every row of its metrics except for timings.

With ``--frozen`` one process trains all runs, and a kill is a SIGSTOP, a copy of the folder as it
is at that moment, which is what SIGKILL would have left, and a SIGCONT; the copy is resumed.
Nothing is imported or compiled twice, so that hundreds of moments, all of them while the run writes
or trains, take minutes. The runs that were stopped must come through in the same bits as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import command_line
import jax
import numpy as np
from rich.console import Console

import jaxmarl_lite as jml
from jaxmarl_lite.cli import main as cli_main
from jaxmarl_lite.experiment.run_logger import TIMINGS
from jaxmarl_lite.report import checkpoint, run_dir, tables

RUN = shlex.split(
    "--env toy/counter --seeds 2 --eval-episodes 4 --num-envs 8 --num-steps 8 --hidden-sizes 8"
)
BATCH = 64  # environment steps of an update of these sizes


def arguments(options: argparse.Namespace, out: Path) -> list[str]:
    """Returns the command line that begins a run, or resumes an existing one."""
    if (out / "config.json").exists():
        return ["train", "--resume", str(out)]
    sizes = dict(total_steps=options.updates * BATCH, num_evaluations=options.updates, out=out)
    return ["train", options.algorithm, *RUN, *command_line.to_words(sizes)]


def start(options: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    """Begins a run, or resumes an existing one."""
    command = [sys.executable, "-m", "jaxmarl_lite", *arguments(options, out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Trainer:
    """A process that trains one run after the other, and can be frozen meanwhile.

    Args:
        options: parsed command line.
    """

    def __init__(self, options: argparse.Namespace):
        command = [sys.executable, str(Path(__file__)), "--trainer"]
        command += command_line.to_words(
            {"algorithm": options.algorithm, "updates": options.updates}
        )
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def train(self, out: Path, moment: float = 1e6, copy: Path | None = None) -> bool:
        """Trains a run to its end; returns whether that came before ``moment``.

        Args:
            out: folder of the run.
            moment: seconds after which it is frozen.
            copy: path of a copy of its folder at that moment.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(f"{out}\n")
        finished = bool(select.select([stdout], [], [], moment)[0])
        if not finished and copy is not None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)
            if out.exists():
                shutil.copytree(out, copy)
            self._process.send_signal(signal.SIGCONT)
        if stdout.readline() != "0\n":
            raise RuntimeError(f"{out} could not be trained")
        return finished

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def serve(options: argparse.Namespace) -> int:
    """Trains the runs whose folders are lines of the input, and answers with their exit codes."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        out = Path(line.rstrip("\n"))
        print(cli_main.main([*arguments(options, out), "--quiet"]), file=answers, flush=True)
    return 0


def freeze(options: argparse.Namespace, home: Path) -> int:
    """Kills by ``--frozen``; returns how many runs ended otherwise than the undisturbed one."""
    trainer = Trainer(options)
    trainer.train(home / "first")
    began = time.perf_counter()
    trainer.train(home / "whole")
    length, draw = time.perf_counter() - began, random.Random(options.seed)
    expected, out = evidence(home / "whole"), home / "0_0"
    number, kills, cuts, wrong, ended = 0, 0, 0, 0, 0
    reached: list[int] = []  # the newest checkpoint at each kill; -1 where there was none
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it with what is known so far
        while kills < options.kills or out.exists():
            copy = home / f"{number}_{kills + 1}"
            finished = trainer.train(
                out, draw.uniform(0.0, length) if kills < options.kills else 1e6, copy
            )
            ended += 1
            if evidence(out) != expected:
                wrong += 1
                print(f"run {out.name} ended in other bits or rows")
            shutil.rmtree(out)
            if finished:
                number += 1
                out = home / f"{number}_{kills}"
                continue
            kills, out = kills + 1, copy
            newest = checkpoint.latest(out / "checkpoints")
            reached.append(-1 if newest is None else newest)
            if draw.random() < options.truncated:
                cuts += truncate(out / "metrics.jsonl", draw)
    trainer.close()
    print(
        f"{options.algorithm}: {kills} kills of runs of {options.updates} updates, "
        f"{reached.count(-1)} of them before the first checkpoint, rows cut after {cuts}; {ended} "
        f"runs ended, {wrong} in other bits or rows; undisturbed: {length:.1f} s"
    )
    return wrong


def undisturbed(options: argparse.Namespace, out: Path) -> float:
    """Makes a complete run and returns its seconds."""
    began = time.perf_counter()
    process = start(options, out)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode())
    return time.perf_counter() - began


def disturbed(options: argparse.Namespace, out: Path, moment: float) -> tuple[bool, float]:
    """Makes a run or its next part, killed after ``moment`` seconds.

    Returns:
        Whether it ended before, and its seconds.
    """
    began = time.perf_counter()
    process = start(options, out)
    try:
        _, errors = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False, time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{out} could not be resumed: {errors.decode()}")
    return True, time.perf_counter() - began


def truncate(path: Path, draw: random.Random) -> bool:
    """Cuts a file at a random byte; returns whether there was one."""
    if not path.exists():
        return False
    data = path.read_bytes()
    path.write_bytes(data[: draw.randint(0, len(data))])
    return True


def evidence(path: Path) -> tuple[list[bytes], list[str]]:
    """Returns a run's bits: every leaf of its last state, and its rows without timings."""
    states = jml.load_run(path).states
    typed = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(states)
    ]
    rows = [{k: v for k, v in row.items() if k not in TIMINGS} for row in run_dir.load(path).rows]
    json.loads((path / "marl_eval.json").read_text())
    return [np.asarray(x).tobytes() for x in typed], [repr(row) for row in rows]


def main() -> int:
    """Prints a line per kill; returns 1 if a run ended otherwise than the undisturbed one."""
    parser = command_line.make_parser(__doc__, out=False)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--algorithm", default="liir", choices=sorted(jml.ALGORITHMS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--updates", type=int, default=24, help="of each run, with a checkpoint after each"
    )
    parser.add_argument(
        "--frozen", action="store_true", help="stop and copy instead of killing: cheaper by far"
    )
    parser.add_argument("--trainer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--truncated",
        type=float,
        default=0.5,
        help="share of kills after which metrics.jsonl is cut",
    )
    options = parser.parse_args()
    if options.trainer:
        return serve(options)
    home = Path(tempfile.mkdtemp(prefix="kills_"))
    if options.frozen:
        wrong = freeze(options, home)
        shutil.rmtree(home)
        return 1 if wrong else 0
    undisturbed(options, home / "first")  # fills the cache of compiled programs
    length = undisturbed(options, home / "whole")
    expected, draw = evidence(home / "whole"), random.Random(options.seed)
    rows, equal, number, kills, cuts = [], True, 0, 0, 0
    while kills < options.kills:
        out, done = home / f"run_{number}", False
        while not done:
            moment = draw.uniform(0.0, length) if kills < options.kills else 1e6
            done, seconds = disturbed(options, out, moment)
            kills += not done
            checkpoints, ending = out / "checkpoints", "killed"
            newest = checkpoint.latest(checkpoints) if checkpoints.exists() else None
            if done:
                ending = "same bits" if evidence(out) == expected else "OTHER BITS"
                equal &= ending != "OTHER BITS"
            elif draw.random() < options.truncated and truncate(out / "metrics.jsonl", draw):
                ending, cuts = "killed, rows cut", cuts + 1
            newest_text = "none" if newest is None else str(newest)
            rows.append((number, kills, f"{seconds:.2f}", newest_text, ending))
        number += 1
    columns = ("run", "kills so far", "seconds", "newest checkpoint", "")
    title = (
        f"{options.algorithm}: {kills} kills of {number} runs, rows cut after {cuts}; "
        f"undisturbed: {length:.1f} s"
    )
    Console(width=100).print(tables.list_table(columns, rows, title=title))
    shutil.rmtree(home)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
