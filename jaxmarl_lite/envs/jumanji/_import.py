"""Importing Jumanji without what it does to a notebook."""

from __future__ import annotations

import builtins
import importlib


def import_jumanji() -> None:
    """Import Jumanji while it cannot see that it is in a notebook.

    There its import switches matplotlib to the `ipympl` backend: an error where that is not
    installed, and a change of the user's own pictures where it is. Imported before, by the user, it
    has done so already.
    """
    marker = builtins.__dict__.pop("__IPYTHON__", None)
    try:
        importlib.import_module("jumanji")
    finally:
        if marker is not None:
            builtins.__dict__["__IPYTHON__"] = marker
