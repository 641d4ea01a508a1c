"""Signals that end a run: the run saves what it has computed, then ends as the signal asks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # some platforms lack the last two


class StopRequest:
    """Notes the first signal that asks the process to end; use it as a context.

    Until `deferred` is set, a signal ends the process where it stands. From then on the run is to
    look at `signum` where its state is whole, save, and call `leave`. A second Ctrl-C ends the
    process at once, unless XLA compiles, which nothing can interrupt. Outside the main thread
    Python installs no handlers, and nothing is noted.
    """

    def __init__(self) -> None:
        self.signum = 0
        """The signal that asked, or 0."""
        self.deferred = False
        """Whether the run looks at `signum` itself."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                previous = signal.getsignal(signum)
                # what is ignored stays so, as SIGHUP under nohup; None is a handler that Python
                # cannot restore
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[signum] = previous
                    signal.signal(signum, self._note)
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
        if self.signum and kind is None:  # it came when nothing was left to be saved
            self._end(previous)

    def leave(self) -> None:
        """End as the noted signal asks.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after another signal, with the code 128 + its number.
        """
        self._end(self._previous.get(self.signum))

    def _end(self, previous: Any) -> None:
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if callable(previous):  # the caller's own handler may end the process in another way
            previous(self.signum, None)
        raise SystemExit(128 + self.signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        # only SIGINT: closing a terminal and `timeout` send the others twice, in a moment
        if signum == signal.SIGINT:
            self._restore(signum)
        self.signum = self.signum or signum
        if not self.deferred:
            self.leave()

    def _restore(self, signum: int) -> None:
        handler: Callable[..., Any] | int | None = self._previous.pop(signum, None)
        if handler is not None:
            signal.signal(signum, handler)
