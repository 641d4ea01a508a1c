"""Docstrings as the reference reads them.

They are plain text with formulas in it. What means something to reStructuredText alone, a bar or a
name that ends in an underscore, is protected, and an indented block of an equation is shown as it
stands. Fields of named tuples are described once, in the section ``Attributes``.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_LITERAL = re.compile(r"(``.+?``|`[^`]+`)")
_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example|Examples|Note|Modules):$")


def protect(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Protects the text of a docstring and marks the equations in it as literal."""
    result: list[str] = []
    in_section = in_literal = False
    for line in lines:
        in_section = in_section or bool(_SECTION.match(line))
        is_indented = line.startswith("    ")
        if in_literal and line.strip() and not is_indented:
            in_literal = False
        elif (
            is_indented and not in_section and not in_literal and result and not result[-1].strip()
        ):
            above = next((text for text in reversed(result) if text.strip()), "")
            if not line.lstrip().startswith((">>>", "-", "*")):
                in_literal = True
                if not above.endswith("::"):
                    result += ["::", ""]
        result.append(line if in_literal or ">>>" in line else _protected(line))
    lines[:] = result


def _protected(line: str) -> str:
    parts = _LITERAL.split(line)
    parts[::2] = [re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", x.replace("|", "\\|")) for x in parts[::2]]
    return "".join(parts)


def is_tuple_field(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves the fields of named tuples to their class."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the two."""
    app.connect("autodoc-process-docstring", protect, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", is_tuple_field)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
