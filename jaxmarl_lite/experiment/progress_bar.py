"""What a person sees while a run goes on: a moving bar on a terminal or in a notebook, plain lines
anywhere else.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from jaxmarl_lite.report.text import literal


class ProgressBar:
    """The progress of one run; use it as a context.

    Args:
        label: of the run.
        updates: of each seed, in the whole run.
        batch: environment steps of an update of one seed.
        quiet: show nothing at all.
    """

    def __init__(self, label: str, updates: int, batch: int, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._moving = not quiet and (self.console.is_terminal or self.console.is_jupyter)
        self._updates, self._batch = updates, batch
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._moving,
        )
        self._task = self._bar.add_task(literal(label).plain, total=updates, words="compiling")
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> ProgressBar:
        with _unharmed():
            self._bar.start()
        if not self._moving:
            self.print("compiling (for robots some minutes)")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _unharmed():
            self._bar.stop()

    def print(self, text: str) -> None:
        """A line above the bar."""
        with _unharmed():
            self.console.print(literal(text))

    def show(self, make: Callable[[], Any]) -> None:
        """What a function makes, anything rich can print, above the bar; where that fails, why."""
        try:
            self.console.print(make())
        except Exception as error:
            self.print(f"what was to be shown here failed: {type(error).__name__}: {error}")

    def update(self, update: int, speed: float, current: float) -> None:
        """A chunk is done: updates so far, environment steps per second of all seeds, current
        return.
        """
        if self._began is None:
            self._began = time.perf_counter(), update
        with _unharmed():
            self._bar.update(self._task, completed=update, words=_words(speed, current))

    def log_evaluation(self, update: int, speed: float, current: float, evaluation: float) -> None:
        """An evaluation is done: a line where no bar moves."""
        if self._moving:
            words = f"{_words(speed, current)}, evaluation {_number(evaluation)}"
            with _unharmed():
                self._bar.update(self._task, completed=update, words=words)
            return
        width = len(str(self._updates))
        left = self._left(update)
        self.print(
            f"update {update:>{width}}/{self._updates}  {update * self._batch:,} steps a seed  "
            f"{_words(speed, current)}  evaluation {_number(evaluation)}"
            + (f"  {left} left" if left else "")
        )

    def _left(self, update: int) -> str:
        """Time to the end at the pace so far."""
        if self._began is None or update <= self._began[1]:
            return ""
        pace = (time.perf_counter() - self._began[0]) / (update - self._began[1])
        seconds = round(pace * (self._updates - update))
        return f"{seconds // 60}:{seconds % 60:02d}" if seconds else ""


def _unharmed() -> contextlib.suppress:
    """Printing may fail: the terminal is gone, the pipe is closed, the disk of a log is full.
    Training goes on.
    """
    return contextlib.suppress(Exception)


def _words(speed: float, current: float) -> str:
    text = f"return {_number(current)}"
    return text if math.isnan(speed) else f"{speed:,.0f} steps/s  {text}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
