"""Web pages of runs: one file each, with everything inside, for light and dark screens.

A page is a list of sections; a section is a title and pieces of HTML that the functions here make
from figures, tables, mappings and files. Text from users is escaped here and nowhere else.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from jaxmarl_lite.report import atomic_io, plotting
from jaxmarl_lite.report.tables import printable

MEDIA = {
    ".gif": "image/gif",
    ".png": "image/png",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
"""Suffix of a file that a page can hold -> its media type."""

_MOST_BYTES = 20_000_000
"""A larger file is named and not embedded."""

_WIDTH, _HEIGHT = 4.6, 3.2
"""Size of a figure in inches; on a telephone it is shown a little smaller than that."""

_COLORS = {
    plotting.TEXT_COLOR: ("ink", "#e8e6e3"),
    "#000000": ("ink", "#e8e6e3"),
    "#8c8c8c": ("muted", "#9b9b9b"),
    "#e6e6e6": ("grid", "#33363b"),
    "#b0b0b0": ("axis", "#6b6f76"),
    "#0072b2": ("blue", "#4db2f0"),
    "#d55e00": ("orange", "#ff8a3d"),
    "#009e73": ("green", "#2fc99b"),
    "#cc79a7": ("pink", "#e39cc3"),
    "#e69f00": ("amber", "#f5b933"),
    "#56b4e9": ("sky", "#8fd0f7"),
    "#5b5b5b": ("gray", "#b9b9b9"),
    "#ffffff": ("card", "#1d2024"),
}
"""Color of a figure -> the name of the color in a page, and its value on a dark screen."""

_STYLE = """
:root { color-scheme: light dark; LIGHT
  --page: #f6f6f4; --line: #dddddb; --note: #66676a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { DARK
    --page: #141619; --line: #34383d; --note: #a5a8ad; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.1rem; margin: 32px 0 10px; }
p { margin: 6px 0; }
.note { color: var(--note); font-size: 0.85rem; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 16px 0 0; padding: 0; }
.facts div { min-width: 90px; }
.facts dt { color: var(--note); font-size: 0.8rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.grid { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); }
figure, .card { margin: 0; padding: 12px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; max-width: 620px; }
svg.plot { fill: var(--ink); }
figure.wide { max-width: none; }
.card { max-width: none; margin-bottom: 14px; }
figure svg.plot, figure img, figure video { display: block; width: 100%; height: auto; }
figure img, figure video { max-width: 520px; margin: 0 auto; background: #ffffff; }
figcaption { color: var(--note); font-size: 0.85rem; margin-top: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; padding: 0;
  margin: 8px 0 0; font-size: 0.85rem; }
.legend svg { width: 30px; height: 10px; margin-right: 6px; vertical-align: middle; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 6px; }
th { text-align: left; font-weight: 600; color: var(--note); vertical-align: bottom; }
th, td { padding: 4px 14px 4px 0; overflow-wrap: normal; }
th { min-width: 4.5em; } td { white-space: nowrap; border-top: 1px solid var(--line); }
tr.rule td { border-top: 2px solid var(--axis); }
.right { text-align: right; } .bold { font-weight: 600; } .dim { color: var(--note); }
.red { color: var(--bad); font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; white-space: pre-wrap; margin: 6px 0;
  font: 0.85rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr));
  gap: 0 28px; margin: 0; font-size: 0.88rem; }
.pairs div { display: flex; justify-content: space-between; gap: 16px; padding: 3px 0;
  border-bottom: 1px solid var(--line); }
.pairs dt { color: var(--note); } .pairs dd { margin: 0; text-align: right; }
summary { cursor: pointer; margin: 8px 0; }
"""


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        title: Its title, as text; empty for none.
        content: Pieces of HTML, as the functions of this module return them.
    """

    title: str
    content: Sequence[str]


def text(value: object) -> str:
    """Returns a value as HTML that shows it as it stands.

    Args:
        value: Any object; its `str` is taken.

    Returns:
        The escaped text; control characters are shown as escapes.

    Example:
        >>> text("<b> & 'c'")
        '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return html.escape(printable(value))


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Returns a whole page.

    Args:
        title: Title, as text.
        subtitle: Line below it, as text.
        sections: Parts of the page; those without content are left out.

    Returns:
        The HTML of the file.
    """
    light = " ".join({name: f"--{name}: {x};" for x, (name, _) in _COLORS.items()}.values())
    dark = " ".join({name: f"--{name}: {x};" for name, x in _COLORS.values()}.values())
    style = _STYLE.replace("LIGHT", light).replace("DARK", dark)
    parts = []
    for section in sections:
        content = "\n".join(piece for piece in section.content if piece)
        if content:
            head = f"<h2>{text(section.title)}</h2>\n" if section.title else ""
            parts.append(f"<section>\n{head}{content}\n</section>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{text(title)}</h1>\n<p class="note">{text(subtitle)}</p>\n{body}\n'
        "</main>\n</body>\n</html>\n"
    )


def save(path: Path, content: str) -> Path:
    """Writes a page, in one rename.

    Args:
        path: File to write; its folder is made where it is missing.
        content: The page.

    Returns:
        The file.

    Raises:
        ValueError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_io.replace_text(path, content)
    except OSError as error:
        raise ValueError(f"path is {str(path)!r}, which cannot be written: {error}") from error
    return path


def check_path(path: Path) -> Path:
    """Returns the path of a page after a check.

    Args:
        path: File to write.

    Returns:
        The same path.

    Raises:
        ValueError: It is a folder, or does not end in .html or .htm.
    """
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ValueError(f"path is {str(path)!r}; allowed is a file's name that ends in .html")
    return path


def paragraph(sentence: str, note: bool = False) -> str:
    """Returns a paragraph.

    Args:
        sentence: Its text.
        note: Whether it is less important than the rest.

    Returns:
        HTML.
    """
    return f"<p{' class=note' if note else ''}>{text(sentence)}</p>"


def code(command: str) -> str:
    """Returns a command, to be copied.

    Args:
        command: Its text.

    Returns:
        HTML.
    """
    return f"<pre>{text(command)}</pre>"


def facts(values: Mapping[str, object]) -> str:
    """Returns a few numbers in large letters.

    Args:
        values: Name -> value.

    Returns:
        HTML.
    """
    entries = (f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{"".join(entries)}</dl>'


def pairs(values: Mapping[str, object]) -> str:
    """Returns many names with their values, in columns.

    Args:
        values: Name -> value; None reads "none", and sequences are joined by commas.

    Returns:
        HTML.
    """
    entries = (f"<div><dt>{text(k)}</dt><dd>{text(show(v))}</dd></div>" for k, v in values.items())
    return f'<dl class="pairs card">{"".join(entries)}</dl>' if values else ""


def show(value: object) -> str:
    """Returns a setting as text.

    Args:
        value: Its value.

    Returns:
        The text; None reads "none", and sequences are joined by commas.
    """
    if isinstance(value, (tuple, list)):
        return ", ".join(map(show, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None or value == "" else str(value)


def details(title: str, content: Sequence[str]) -> str:
    """Returns pieces that are shown after a click on their title.

    Args:
        title: The title.
        content: Pieces of HTML.

    Returns:
        HTML.
    """
    return f"<details><summary>{text(title)}</summary>{''.join(content)}</details>"


def grid(pieces: Sequence[str]) -> str:
    """Returns pieces side by side where the screen is wide enough.

    Args:
        pieces: Pieces of HTML.

    Returns:
        HTML.
    """
    return f'<div class="grid">{"".join(pieces)}</div>' if pieces else ""


def table(content: Table) -> str:
    """Returns a table of rich as HTML; one that holds others becomes several.

    Args:
        content: A table with texts, or a grid with one column of tables.

    Returns:
        HTML; wide tables scroll in their own frame.
    """
    columns = [list(column.cells) for column in content.columns]
    if any(isinstance(cell, Table) for cell in columns[0]):
        return "".join(table(cell) for cell in columns[0] if isinstance(cell, Table))
    sides = ["right" if column.justify == "right" else "" for column in content.columns]
    heads = "".join(
        f"<th{_class(side)}>{text(_plain(column.header))}</th>"
        for side, column in zip(sides, content.columns, strict=True)
    )
    lines = []
    for i, row in enumerate(content.rows):
        after_rule = i > 0 and content.rows[i - 1].end_section
        cells = "".join(
            f"<td{_class(side, column.style, getattr(cells[i], 'style', ''), row.style)}>"
            f"{text(_plain(cells[i]))}</td>"
            for side, column, cells in zip(sides, content.columns, columns, strict=True)
        )
        lines.append(f"<tr{_class('rule' if after_rule else '')}>{cells}</tr>")
    title = f"<caption>{text(_plain(content.title))}</caption>" if content.title else ""
    return (
        f'<div class="card scroll"><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _plain(cell: object) -> str:
    """Returns the text of a cell."""
    return cell.plain if isinstance(cell, Text) else str(cell)


def _class(*styles: object) -> str:
    """Returns the attribute of an element with the classes that styles of rich name."""
    known = {"right", "rule", "bold", "dim", "red"}
    names = dict.fromkeys(name for style in styles for name in str(style or "").split())
    chosen = [name for name in names if name in known]
    return f' class="{" ".join(chosen)}"' if chosen else ""


_numbers = itertools.count()


def figure(panel: plotting.Panel) -> str:
    """Returns a panel of curves as a figure with its picture inside.

    Args:
        panel: The panel.

    Returns:
        HTML; the colors follow those of the page.
    """
    picture = plotting.new_figure(_WIDTH, _HEIGHT)
    axes = picture.add_subplot()
    plotting.draw_panel(axes, panel)
    legend = ""
    if len(panel.curves) > 4:  # beside the curves there is no room for so many
        lines, labels = axes.get_legend_handles_labels()
        entries = (
            f"<li>{_swatch(line)}{text(label)}</li>"
            for line, label in zip(lines, labels, strict=True)
        )
        legend = f'<ul class="legend">{"".join(entries)}</ul>'
        if (drawn := axes.get_legend()) is not None:
            drawn.remove()
    curves = ", ".join(panel.curves)
    label = f"{panel.title}: {panel.ylabel} over environment steps, {curves}"
    return f"<figure>{svg(picture, label)}{legend}</figure>"


def wide_figure(picture: plotting.Figure, label: str) -> str:
    """Returns a figure with several axes side by side, which scrolls where there is no room.

    Args:
        picture: The figure.
        label: What it shows, for those who cannot see it.

    Returns:
        HTML.
    """
    width = picture.get_size_inches()[0]
    sizes = f"min-width: {min(width * 72, 320 * len(picture.axes)):.0f}px; max-width: {width}in"
    return (
        f'<figure class="wide"><div class="scroll"><div style="{sizes}">{svg(picture, label)}'
        "</div></div></figure>"
    )


def _swatch(line: object) -> str:
    """Returns a short piece of a curve, for a legend."""
    dashes = " ".join(f"{x:g}" for x in getattr(line, "_dash_pattern", (0, None))[1] or ())
    color = _themed(f"stroke: {getattr(line, 'get_color', lambda: '#8c8c8c')()}")
    return (
        '<svg viewBox="0 0 30 10" aria-hidden="true"><line x1="0" y1="5" x2="30" y2="5" '
        f'style="{text(color)}; stroke-width: 2.5; stroke-dasharray: {text(dashes or "none")}"/>'
        "</svg>"
    )


def svg(picture: plotting.Figure, label: str) -> str:
    """Returns a figure as an SVG element whose colors follow those of the page.

    Args:
        picture: The figure.
        label: What it shows, for those who cannot see it.

    Returns:
        The element; its names differ from those of every other in the page.
    """
    plotting.save(picture, None)  # turns formulas into plain text
    stream = io.StringIO()
    picture.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    content = stream.getvalue()
    content = content[content.index("<svg") :]
    content = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", content, flags=re.DOTALL)
    prefix = f"p{next(_numbers)}-"
    content = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}", content)
    size = re.search(r'viewBox="[^"]*"', content)
    assert size is not None
    content = content[content.index(">") + 1 :]
    head = (
        '<svg class="plot" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} aria-label="{text(label)}">'
    )
    return head + _themed(content)


def _themed(content: str) -> str:
    """Returns CSS with the colors of figures as names, which differ on dark screens."""

    def name(match: re.Match[str]) -> str:
        color = _COLORS.get(match[0].lower())
        return match[0] if color is None else f"var(--{color[0]})"

    return re.sub(r"(?<=: )#[0-9a-fA-F]{6}\b", name, content)


def media(path: Path, caption: str) -> str:
    """Returns a picture or a video, embedded.

    Args:
        path: A file with one of the suffixes of `MEDIA`.
        caption: What it shows.

    Returns:
        HTML; where the file is too large or cannot be read, a note that names it.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            return paragraph(f"{caption}: {path.name} is too large to be part of this page.", True)
        data = base64.b64encode(atomic_io.read_bytes(path)).decode()
    except OSError as error:
        return paragraph(f"{caption}: {path.name} cannot be read: {error}.", True)
    kind = MEDIA[path.suffix.lower()]
    source = f"data:{kind};base64,{data}"
    element = f'<img alt="{text(caption)}" src="{source}">'
    if kind.startswith("video"):
        element = f'<video controls loop muted playsinline src="{source}"></video>'
    return f"<figure>{element}<figcaption>{text(caption)}</figcaption></figure>"
