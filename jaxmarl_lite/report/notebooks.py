"""Output of a notebook: one line that is replaced as a run goes on."""

from __future__ import annotations

import html
import sys
from typing import Any

_CELLS = 30


def in_notebook() -> bool:
    """Returns whether this is the kernel of a notebook, which shows more than a terminal can."""
    if sys.modules.get("IPython") is None:
        return False
    from IPython.core.getipython import get_ipython  # pyright: ignore[reportMissingImports]

    return getattr(get_ipython(), "kernel", None) is not None


class UpdatingLine:
    """A line of a notebook's output that changes in place, without widgets or escape codes.

    Args:
        label: text before the bar.
        total: the amount of work.
    """

    def __init__(self, label: str, total: int):
        self._label, self._total = label, total
        self._done, self._status = 0, ""
        self._handle: Any = None

    def update(self, done: int | None = None, status: str | None = None) -> None:
        """Shows the state of the work.

        Args:
            done: the amount that is done; None: as before.
            status: text after the bar; None: as before.
        """
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        self._done = self._done if done is None else done
        self._status = self._status if status is None else status
        if self._handle is None:
            self._handle = display(self._bundle(), raw=True, display_id=True)
        else:
            self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        """Returns the line as text and as HTML."""
        share = min(1.0, self._done / max(1, self._total))
        percent = f"{share:4.0%}"
        full = round(_CELLS * share)
        bar = "#" * full + "." * (_CELLS - full)
        label, status = html.escape(self._label), html.escape(self._status)
        return {
            "text/plain": f"{self._label} [{bar}] {percent} {self._status}",
            "text/html": f'{label} <progress value="{self._done}" max="{self._total}"></progress> '
            f"{percent} {status}",
        }


def show(value: object) -> None:
    """Shows a value as a notebook shows the last line of a cell.

    Args:
        value: such as a table.
    """
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    display(value)
