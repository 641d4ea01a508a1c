"""Progress of a run for the user: a moving bar on a terminal or in a notebook, else plain lines."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from jaxmarl_lite.report.text import literal


class ProgressBar:
    """Display of the progress of one run, used as a context manager.

    Args:
        label: label of the run.
        updates: updates of each seed in the whole run.
        batch: environment steps of one update of one seed.
        quiet: whether to show nothing at all.

    Attributes:
        console: console that everything is printed to.
    """

    def __init__(self, label: str, updates: int, batch: int, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._moving = not quiet and (self.console.is_terminal or self.console.is_jupyter)
        self._updates, self._batch = updates, batch
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._moving,
        )
        self._task = self._bar.add_task(literal(label).plain, total=updates, status="compiling")
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> ProgressBar:
        with _errors_suppressed():
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
        with _errors_suppressed():
            self._bar.stop()

    def print(self, text: str) -> None:
        """Prints a line above the bar.

        Args:
            text: the line, without markup.
        """
        with _errors_suppressed():
            self.console.print(literal(text))

    def show(self, make: Callable[[], object]) -> None:
        """Prints the result of a function above the bar, or the error where it fails.

        Args:
            make: function that returns anything that rich can print.
        """
        try:
            self.console.print(make())
        except Exception as error:
            self.print(f"the result cannot be shown: {type(error).__name__}: {error}")

    def update(self, update: int, speed: float, current: float) -> None:
        """Shows the state after a chunk of updates.

        Args:
            update: updates so far.
            speed: environment steps per second of all seeds together; NaN if unknown.
            current: return of recent training episodes; NaN if unknown.
        """
        if self._began is None:
            self._began = time.perf_counter(), update
        with _errors_suppressed():
            self._bar.update(self._task, completed=update, status=_status(speed, current))

    def log_evaluation(self, update: int, speed: float, current: float, evaluation: float) -> None:
        """Shows the state after an evaluation; prints a line where there is no moving bar.

        Args:
            update: updates so far.
            speed: environment steps per second of all seeds together; NaN if unknown.
            current: return of recent training episodes; NaN if unknown.
            evaluation: mean return of the evaluation; NaN if unknown.
        """
        if self._moving:
            status = f"{_status(speed, current)}, evaluation {_number(evaluation)}"
            with _errors_suppressed():
                self._bar.update(self._task, completed=update, status=status)
            return
        width = len(str(self._updates))
        remaining = self._remaining_time(update)
        self.print(
            f"update {update:>{width}}/{self._updates}  {update * self._batch:,} steps a seed  "
            f"{_status(speed, current)}  evaluation {_number(evaluation)}"
            + (f"  {remaining} left" if remaining else "")
        )

    def _remaining_time(self, update: int) -> str:
        """Returns the time to the end at the pace so far, as M:SS; empty where it is unknown."""
        if self._began is None or update <= self._began[1]:
            return ""
        pace = (time.perf_counter() - self._began[0]) / (update - self._began[1])
        seconds = round(pace * (self._updates - update))
        return f"{seconds // 60}:{seconds % 60:02d}" if seconds else ""


def _errors_suppressed() -> contextlib.suppress:
    """Returns a context that ignores errors of printing, so that training goes on.

    Printing may fail: the terminal is gone, the pipe is closed, the disk of a log is full.
    """
    return contextlib.suppress(Exception)


def _status(speed: float, current: float) -> str:
    """Returns speed and return as text."""
    text = f"return {_number(current)}"
    return text if math.isnan(speed) else f"{speed:,.0f} steps/s  {text}"


def _number(value: float) -> str:
    """Returns a number as short text, NaN as a hyphen."""
    return "-" if math.isnan(value) else f"{value:.3g}"
