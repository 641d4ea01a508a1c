"""Signals that end a run: the run saves everything computed, then ends as the signal asks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # some platforms lack the last two


class StopRequest:
    """Context manager that records the first signal that asks the process to end.

    Until `deferred` is set, a signal ends the process immediately. From then on the run must read
    `signum` at points where its state is consistent, save, and call `leave`. A second Ctrl-C ends
    the process at once, unless XLA compiles, which nothing can interrupt. Outside the main thread
    Python installs no handlers, and no signal is recorded.

    Attributes:
        signum: number of the recorded signal, or 0.
        deferred: whether the run reads `signum` itself.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                previous = signal.getsignal(signum)
                # An ignored signal stays ignored, as SIGHUP under nohup; None stands for a handler
                # that Python cannot restore.
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[signum] = previous
                    signal.signal(signum, self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        previous = self._previous.get(self.signum)
        for signum in list(self._previous):
            self._restore(signum)
        if self.signum and kind is None:  # the signal came after the last save
            self._end(previous)

    def leave(self) -> None:
        """Ends the process as the recorded signal asks.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after another signal, with the code 128 + its number.
        """
        self._end(self._previous.get(self.signum))

    def _end(self, previous: Any) -> None:
        """Raises the exception of the signal, after the handler that the context replaced."""
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if callable(previous):  # the caller's own handler may end the process in another way
            previous(self.signum, None)
        raise SystemExit(128 + self.signum)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal: records the first one, and ends the process unless it is deferred."""
        # Only SIGINT may end the process at its second arrival: closing a terminal and `timeout`
        # send the other signals twice within a moment.
        if signum == signal.SIGINT:
            self._restore(signum)
        self.signum = self.signum or signum
        if not self.deferred:
            self.leave()

    def _restore(self, signum: int) -> None:
        """Installs the handler that the context replaced."""
        handler: Callable[..., Any] | int | None = self._previous.pop(signum, None)
        if handler is not None:
            signal.signal(signum, handler)
