"""Imports Jumanji without its side effect on the plots of a notebook."""

from __future__ import annotations

import builtins
import importlib


def import_jumanji() -> None:
    """Imports Jumanji while it cannot detect that it runs in a notebook.

    In a notebook, Jumanji's import switches matplotlib to the `ipympl` backend: an error where that
    is not installed, and a change of the user's own plots where it is. If the user has imported
    Jumanji before, it has switched already.
    """
    marker = builtins.__dict__.pop("__IPYTHON__", None)
    try:
        importlib.import_module("jumanji")
    finally:
        if marker is not None:
            builtins.__dict__["__IPYTHON__"] = marker
