"""Two programs in turns on one machine, so that whatever else slows the machine down slows both.

Each is compiled in a process that then waits; in turns A B A B ... each is asked for a few updates,
so that only one computes at a time and nothing is compiled twice. A round's ratio is that of its
two turns' medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any


class Worker:
    """A process that compiles one learner and then makes updates on request."""

    def __init__(self, command: Sequence[str], patience: float):
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._patience, self._command = patience, command
        self.facts: dict[str, Any] = self._answer()

    def updates(self, number: int) -> list[float]:
        """Seconds of each of ``number`` updates."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{' '.join(self._command)} ended with code {self._process.wait()}; its words are "
                "above"
            )
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def in_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, updates: int, warmup: int
) -> dict[str, Any]:
    """Facts, seconds of all turns, and `compared`, of the commands of two drivers, one of them
    called ``own``.

    A turn is ``updates`` updates; before the first, each makes ``warmup`` that are not counted.
    """
    workers: dict[str, Worker] = {}
    try:
        for name, command in commands.items():
            workers[name] = Worker(command, 10)
        for worker in workers.values():
            worker.updates(warmup)
        turns: dict[str, list[list[float]]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                time.sleep(0.2)  # the other's threads come to rest
                turns[name].append(worker.updates(updates))
        facts = {name: worker.facts for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    return {"facts": facts, "seconds": turns} | compared(facts, turns)


def compared(facts: dict[str, Any], turns: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Medians and the ratio of speeds, ours over theirs."""
    rates = {
        name: [
            facts[name]["env_steps_per_update"] / statistics.median(turn) for turn in turns[name]
        ]
        for name in turns
    }
    (peer,) = (name for name in rates if name != "own")
    ratios = [own / theirs for own, theirs in zip(rates["own"], rates[peer], strict=True)]
    return {
        "steps_per_second": {name: statistics.median(each) for name, each in rates.items()},
        "steps_per_second_range": {name: [min(each), max(each)] for name, each in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def rate_text(row: dict[str, Any], name: str) -> str:
    """Steps per second of one of a row's programs, with least and greatest."""
    low, high = row["steps_per_second_range"][name]
    return f"{row['steps_per_second'][name]:,.0f} ({low:,.0f} to {high:,.0f})"


def ratio_text(row: dict[str, Any]) -> str:
    """A row's ratio, with least and greatest."""
    low, high = row["ratio_range"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
