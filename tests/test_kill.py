"""A run that is killed at random moments and resumed each time ends as an undisturbed one does.

Runs save a checkpoint after every update. They are killed after a time drawn uniformly from the
length of an undisturbed run (its start, with nothing on the disk yet, and its end included),
resumed, killed again, and so on until they come through. After a share of the kills metrics.jsonl
is cut at a random byte. Every run that came through must hold the undisturbed one's bits: the final
training state, and every row of its metrics except for timings.
"""

from __future__ import annotations

import json
import os
import random
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_runs

import jaxmarl_lite as jml
from jaxmarl_lite.cli import main as cli_main

RUN = shlex.split(
    "--env toy/counter --seeds 2 --eval-episodes 4 --num-envs 8 --num-steps 8 --hidden-sizes 8"
)
BATCH = 64  # environment steps of an update of these sizes
CUT_SHARE = 0.5  # of the kills after which metrics.jsonl is cut


def arguments(algorithm: str, updates: int, out: Path) -> list[str]:
    """The command line that begins a run, or resumes an existing one."""
    if (out / "config.json").exists():
        return ["train", "--resume", str(out)]
    sizes = ["--total-steps", str(updates * BATCH), "--num-evaluations", str(updates)]
    return ["train", algorithm, *RUN, *sizes, "--out", str(out)]


def evidence(path: Path) -> Any:
    """A run's bits: every leaf of its last state, and its rows without timings."""
    leaves = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(jml.load_run(path).states)
    ]
    json.loads((path / "marl_eval.json").read_text())
    return [np.asarray(x).tobytes() for x in leaves], tiny_runs.rows(path)


def cut(path: Path, draw: random.Random) -> None:
    """Cuts a file at a random byte, if there is one."""
    if path.exists() and draw.random() < CUT_SHARE:
        data = path.read_bytes()
        path.write_bytes(data[: draw.randint(0, len(data))])


def train(algorithm: str, updates: int, out: Path, timeout: float | None = None) -> float | None:
    """The seconds of a run or its next part in a process; None where it was killed before."""
    command = [sys.executable, "-m", "jaxmarl_lite", *arguments(algorithm, updates, out)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, errors.decode()
    return time.perf_counter() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "kills"), [pytest.param("ippo", 4, marks=pytest.mark.guard), ("liir", 20)]
)
def test_killed_runs_end_in_the_same_bits(algorithm: str, kills: int, tmp_path: Path) -> None:
    updates, draw, done, number = 24, random.Random(0), 0, 0
    train(algorithm, updates, tmp_path / "first")  # fills the cache of compiled programs
    length = train(algorithm, updates, tmp_path / "undisturbed")
    expected = evidence(tmp_path / "undisturbed")
    while done < kills:
        out = tmp_path / f"run_{number}"
        while (
            train(algorithm, updates, out, draw.uniform(0.0, length) if done < kills else None)
            is None
        ):
            done += 1
            cut(out / "metrics.jsonl", draw)
        assert evidence(out) == expected, f"run {number} after {done} kills"
        number += 1


class Trainer:
    """A process that trains one run after the other, and can be stopped meanwhile."""

    def __init__(self, algorithm: str, updates: int):
        self.process = subprocess.Popen(
            [sys.executable, __file__, algorithm, str(updates)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def train(self, out: Path, moment: float = 1e6, copy: Path | None = None) -> bool:
        """Trains a run to its end; whether that came before ``moment`` (seconds), at which its
        folder is copied."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(f"{out}\n")
        finished = bool(select.select([stdout], [], [], moment)[0])
        if not finished and copy is not None:
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
            if out.exists():
                shutil.copytree(out, copy)
            self.process.send_signal(signal.SIGCONT)
        assert stdout.readline() == "0\n", f"{out} could not be trained"
        return finished


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """A trainer of LIIR; it ends with the test."""
    result = Trainer("liir", 8)
    yield result
    result.process.kill()
    result.process.communicate()


@pytest.mark.slow
def test_copies_of_runs_end_in_the_same_bits(trainer: Trainer, tmp_path: Path) -> None:
    """Two hundred moments in minutes: a kill is a SIGSTOP, a copy of the folder as it is then,
    which is what SIGKILL would have left, and a SIGCONT; the copy is resumed. Nothing is imported
    or compiled twice. The runs that were stopped must come through in the same bits as well."""
    trainer.train(tmp_path / "first")
    began = time.perf_counter()
    trainer.train(tmp_path / "undisturbed")
    length, draw = time.perf_counter() - began, random.Random(0)
    expected, out, kills = evidence(tmp_path / "undisturbed"), tmp_path / "0", 0
    while kills < 200 or out.exists():
        copy = tmp_path / f"copy_{kills + 1}"
        moment = draw.uniform(0.0, length) if kills < 200 else 1e6
        finished = trainer.train(out, moment, copy)
        assert evidence(out) == expected, out.name
        shutil.rmtree(out)
        if finished:
            out = tmp_path / str(kills)
            continue
        kills, out = kills + 1, copy
        cut(out / "metrics.jsonl", draw)


def serve(algorithm: str, updates: int) -> None:
    """Trains the runs whose folders are lines of the input, and answers with their exit codes."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        out = Path(line.rstrip("\n"))
        code = cli_main.main([*arguments(algorithm, updates, out), "--quiet"])
        print(code, file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
