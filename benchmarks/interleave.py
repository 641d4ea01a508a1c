"""Runs programs in processes of their own that compute in turns.

Each program compiles once and then waits. In turns A B A B ... each is asked for a few updates, so
that only one computes at a time and a slow moment of the machine slows both. The ratio of a round
is that of the two medians.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Program:
    """A driver that compiles one program, prints facts, and then makes updates on request.

    A thread waits for its facts, so that several programs can compile at once.

    Attributes:
        facts: the driver's printed facts, or None until then and if it failed.
    """

    def __init__(self, command: Sequence[str], log: Path | None = None):
        self.facts: dict[str, Any] | None = None
        self._command = command
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if log is None else log.open("w"),
            text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        self._reader = threading.Thread(target=self._read_facts, daemon=True)
        self._reader.start()

    def _read_facts(self) -> None:
        with contextlib.suppress(json.JSONDecodeError):  # an empty line: the driver has failed
            self.facts = json.loads(self._readline())

    def _readline(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Waits for the facts, at most ``timeout`` seconds; returns whether they have come."""
        self._reader.join(timeout)
        return self.facts is not None

    def updates(self, number: int) -> list[Any]:
        """Returns the driver's answers for ``number`` updates: seconds, or several measurements."""
        if not self.wait_until_ready():
            raise RuntimeError(f"{' '.join(self._command)} failed; its messages are above")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return json.loads(self._readline())

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def in_turns(
    programs: Mapping[str, Program], rounds: int, updates: int, warmup: int = 2
) -> dict[str, Any]:
    """Times programs in turns; with a peer beside ``own``, also the ratio of their speeds.

    Args:
        programs: name to program; ours is called ``own``.
        rounds: turns of each program.
        updates: updates of a turn.
        warmup: updates of each before the first round, which are not timed.

    Returns:
        ``facts`` and ``seconds`` (the median update of each turn) by name; with a peer ``ratio``
        (their seconds over ours, the median of the rounds) and ``ratio_range``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program.updates(warmup)
    for _ in range(rounds):
        for name, program in programs.items():
            time.sleep(0.2)  # the other program's threads come to rest
            seconds[name].append(statistics.median(program.updates(updates)))
    row: dict[str, Any] = {
        "facts": {name: program.facts for name, program in programs.items()},
        "seconds": seconds,
    }
    for peer in seconds.keys() - {"own"}:
        ratios = [theirs / own for own, theirs in zip(seconds["own"], seconds[peer], strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
    return row
