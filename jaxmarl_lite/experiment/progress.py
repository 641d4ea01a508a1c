"""Progress of a run on a terminal, in a log or in a notebook."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jaxmarl_lite.report import notebooks
from jaxmarl_lite.report.tables import literal

# Training goes on where printing fails: the terminal is gone, the pipe is closed, the disk of a log
# is full.
_ERRORS_IGNORED = contextlib.suppress(Exception)

_INTERVAL = 30.0
"""Seconds between two lines that say that a program is still being compiled."""


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
        is_notebook = notebooks.in_notebook()
        # A notebook shows no escape codes: its line and tables are its own.
        plain: dict[str, Any] = {"color_system": None, "force_terminal": False}
        self.console = Console(
            quiet=quiet,
            highlight=False,
            soft_wrap=True,
            force_jupyter=False,
            **(plain if is_notebook else {}),
        )
        self._line = notebooks.UpdatingLine(label, updates) if is_notebook and not quiet else None
        self._moving = not quiet and (is_notebook or self.console.is_terminal)
        self._updates, self._batch = updates, batch
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self._moving or is_notebook,
        )
        self._task = self._bar.add_task(literal(label).plain, total=updates, status="compiling")
        self._began: tuple[float, int] | None = None
        self._quiet, self._compiled = quiet, threading.Event()

    def __enter__(self) -> ProgressBar:
        with _ERRORS_IGNORED:
            self._bar.start()
            if self._line is not None:
                self._line.update(status="compiling")
        if not self._moving:
            self.print("compiling (for robots some minutes)")
        if not self._quiet and (self._line is not None or not self._moving):
            threading.Thread(target=self._tell_time, daemon=True).start()
        return self

    def _tell_time(self) -> None:
        """Shows how long the compiler has been at work, until it has finished."""
        start = time.perf_counter()
        while not self._compiled.wait(_INTERVAL):
            text = f"compiling for {time.perf_counter() - start:.0f} s"
            if self._line is None:
                self.print(text)
            else:
                with _ERRORS_IGNORED:
                    self._line.update(status=text)

    def finish_compiling(self) -> None:
        """Ends the lines that say that programs are being compiled."""
        self._compiled.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish_compiling()
        with _ERRORS_IGNORED:
            self._bar.stop()

    def print(self, text: str) -> None:
        """Prints a line above the bar.

        Args:
            text: the line, without markup.
        """
        with _ERRORS_IGNORED:
            self.console.print(literal(text))

    def show(self, make: Callable[[], object]) -> None:
        """Prints the result of a function above the bar, or the error where it fails.

        Args:
            make: function that returns anything that rich can print.
        """
        try:
            if self._line is None:
                self.console.print(make())
            else:
                notebooks.show(make())
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
        self._move(update, _status(speed, current))

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
            self._move(update, status)
            return
        width = len(str(self._updates))
        remaining = self._remaining_time(update)
        self.print(
            f"update {update:>{width}}/{self._updates}  {update * self._batch:,} steps a seed  "
            f"{_status(speed, current)}  evaluation {_number(evaluation)}"
            + (f"  {remaining} left" if remaining else "")
        )

    def _move(self, update: int, status: str) -> None:
        """Shows progress in the bar, or in a notebook's line."""
        with _ERRORS_IGNORED:
            self._bar.update(self._task, completed=update, status=status)
            if self._line is not None:
                remaining = self._remaining_time(update)
                self._line.update(update, status + (f"  {remaining} left" if remaining else ""))

    def _remaining_time(self, update: int) -> str:
        """Returns the time to the end at the pace so far, as M:SS; empty where it is unknown."""
        if self._began is None or update <= self._began[1]:
            return ""
        pace = (time.perf_counter() - self._began[0]) / (update - self._began[1])
        seconds = round(pace * (self._updates - update))
        return f"{seconds // 60}:{seconds % 60:02d}" if seconds else ""


def _status(speed: float, current: float) -> str:
    """Returns speed and return as text."""
    text = f"return {_number(current)}"
    return text if math.isnan(speed) else f"{speed:,.0f} steps/s  {text}"


def _number(value: float) -> str:
    """Returns a number as short text, NaN as a hyphen."""
    return "-" if math.isnan(value) else f"{value:.3g}"
