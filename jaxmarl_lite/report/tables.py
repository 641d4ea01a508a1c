"""Results as rich tables, built from plain data.

Text from users and environments is shown as text: no markup, no control characters.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from jaxmarl_lite.report import statistics
from jaxmarl_lite.report.statistics import Interval, bootstrap_interval

MAX_AGENT_LINES = 6
"""With more agents, plots and tables show their mean and their worst agent or range instead."""

_HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but line breaks, and the surrogates of undecodable bytes."""


def printable(text: object) -> str:
    r"""Returns the text with control characters and undecodable bytes as escapes, such as ``\x1b``.

    Line breaks stay.

    Args:
        text: Any object; its `str` is taken.

    Returns:
        The escaped text.
    """
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def literal(text: object, style: str = "") -> Text:
    """Returns the text for rich, shown as it stands.

    Rich reads brackets and colons in a `str` as styles and pictograms.

    Args:
        text: Any object; its `str` is taken.
        style: Rich style of the whole text.

    Returns:
        A rich text without markup.
    """
    return Text(printable(text), style)


_CSS = {"bold": "font-weight: bold", "red": "color: red", "dim": "opacity: 0.6"}


class NotebookTable(Table):
    """A rich table that a notebook shows as HTML, and anything else as text without colors."""

    def _repr_mimebundle_(self, *args: Any, **keywords: Any) -> dict[str, str]:
        """Returns the forms of the table, which notebooks ask for by this name."""
        return {"text/plain": to_text(self), "text/html": to_html(self)}

    def _repr_html_(self) -> str:
        """Returns the table as HTML, which notebooks ask for by this name."""
        return to_html(self)

    def __str__(self) -> str:
        return to_text(self)


def to_text(table: Table, width: int = 100) -> str:
    """Returns a table as text, without escape codes whatever the environment asks for.

    Args:
        table: A rich table.
        width: Width, in characters.
    """
    # FORCE_COLOR, and a notebook's kernel, change what a console prints by default.
    console = Console(width=width, color_system=None, force_terminal=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def to_html(table: Table) -> str:
    """Returns a table as HTML; a grid as the tables in it, one below the other.

    Args:
        table: A rich table whose cells are rich texts, or tables.
    """
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    if any(isinstance(cell, Table) for row in rows for cell in row):
        return "".join(_cell_html(cell) for row in rows for cell in row)
    parts = ["<table>"]
    if table.title:
        parts.append(f'<caption style="text-align: left">{_cell_html(table.title)}</caption>')
    if table.show_header:
        cells = (_tag("th", column.header, column) for column in table.columns)
        parts.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
    parts.append("<tbody>")
    for row in rows:
        cells = (_tag("td", *pair) for pair in zip(row, table.columns, strict=True))
        parts.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*parts, "</tbody></table>"])


def _tag(name: str, cell: Any, column: Column) -> str:
    """Returns a cell of a table as HTML."""
    styles = {str(column.style), str(getattr(cell, "style", ""))}
    css = [f"text-align: {column.justify}", *(_CSS[x] for x in sorted(styles & _CSS.keys()))]
    return f'<{name} style="{"; ".join(css)}">{_cell_html(cell)}</{name}>'


def _cell_html(cell: Any) -> str:
    """Returns the content of a cell as HTML."""
    if isinstance(cell, Table):
        return to_html(cell)
    return html.escape(cell.plain if isinstance(cell, Text) else str(cell))


def make_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    results: bool = False,
) -> Table:
    """Builds a table.

    Args:
        columns: Heads of the columns.
        rows: Rows with an entry per column: any object, None for an empty cell, or a rich text with
            a style of its own. A row without entries is a rule.
        title: Title, shown as it stands.
        results: Whether all columns but the first are results as text, shown to the right. By
            default the first column is in bold, and columns of numbers are to the right.

    Returns:
        A rich table.

    Raises:
        ValueError: The length of a row is not that of ``columns``.
    """
    head = None if title is None else literal(title, "table.title")
    table = NotebookTable(title=head, box=box.SIMPLE_HEAD, title_justify="left")
    for i, name in enumerate(columns):
        cells = [row[i] for row in rows if len(row) > i and row[i] is not None]
        numbers = bool(cells) and all(isinstance(cell, (int, float)) for cell in cells)
        table.add_column(
            literal(name),
            justify="right" if numbers or (results and i > 0) else "left",
            style="bold" if i == 0 and not results else None,
            overflow="fold",
        )
    for row in rows:
        if not row:
            table.add_section()
            continue
        if len(row) != len(columns):
            raise ValueError(
                f"expected {len(columns)} entries ({', '.join(columns)}), got {len(row)}: {row!r}"
            )
        table.add_row(*_styled("", *row))
    return table


def _styled(style: str, *cells: object) -> list[Text]:
    """Returns the cells of a row in a style; rich texts keep their own."""
    return [
        cell if isinstance(cell, Text) else literal("" if cell is None else cell, style)
        for cell in cells
    ]


def format_number(value: float, others: Sequence[float] = ()) -> str:
    """Formats a number with the decimals that its size deserves; NaN reads "left out".

    Args:
        value: Number to format.
        others: Numbers shown beside it; the largest size among all of them sets the decimals.

    Returns:
        The number with thousands separators.
    """
    if np.isnan(value):
        return "left out"
    sizes = [abs(entry) for entry in (value, *others) if np.isfinite(entry)]
    size = max(sizes, default=0.0)
    decimals = 4 if 0 < size < 0.1 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{decimals}f}"


def format_interval(interval: Interval, count_seeds: bool = True) -> str:
    """Formats an interval as ``0.97 [0.94, 0.99]``; of one value just that.

    Args:
        interval: Interval of one statistic.
        count_seeds: Whether the text says so where there was one seed only, or where seeds were
            left out.

    Returns:
        The text.
    """
    numbers = [float(interval.estimate), float(interval.low), float(interval.high)]
    centre, low, high = (format_number(value, numbers) for value in numbers)
    text = centre if interval.degenerate else f"{centre} [{low}, {high}]"
    count = int(np.min(interval.count))
    if not count_seeds:
        return text
    if count == 0:
        return "no seed is left"
    text += " (one seed: no interval)" * (count == 1)
    left_out = f" ({count} of {interval.seeds} seeds; the rest were left out)"
    return text + left_out * (count < interval.seeds)


def format_share(successes: int, count: int) -> str:
    """Formats a share with Wilson's 95 % interval, as ``0.500 [0.299, 0.701]``.

    Args:
        successes: Number of successes.
        count: Number of trials, at least 1.

    Returns:
        The text.
    """
    share = statistics.proportion_interval(successes, count)
    return f"{share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]"


def result_table(
    returns: Mapping[int, float],
    *,
    random: ArrayLike | None = None,
    best: float | None = None,
    meaning: str = "return",
    title: str | None = None,
    extra: Mapping[str, Mapping[int, float]] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Table:
    """Builds the table of a run's end.

    It has a line per seed, then the IQM with its 95 % interval, the random policy, the best
    possible return, and facts about the run.

    Args:
        returns: Seed -> final return; NaN for a diverged seed.
        random: Return of the random policy, of every seed or one number, if measured.
        best: Highest possible return, if known.
        meaning: Meaning of the return, in words; heads its column.
        title: Title of the table.
        extra: Further columns: name -> seed -> number.
        facts: Further lines: label -> text.

    Returns:
        A rich table.
    """
    columns = [(meaning, returns), *(extra or {}).items()]
    blank = [""] * (len(columns) - 1)
    rows: list[Sequence[object]] = []
    for seed, value in returns.items():
        cells = (
            format_number(column[seed], list(column.values())) if seed in column else ""
            for _, column in columns
        )
        rows.append(_styled("red" if np.isnan(value) else "", f"seed {seed}", *cells))
    rows.append(())
    if returns:
        intervals = (bootstrap_interval(list(column.values())) for _, column in columns)
        rows.append(_styled("bold", "IQM [95 % interval]", *map(format_interval, intervals)))
    for lines in (_levels(random, best), facts or {}):
        rows += [*(_styled("dim", *line, *blank) for line in lines.items()), ()]
    return make_table(["", *(name for name, _ in columns)], rows, title, results=True)


def _levels(random: ArrayLike | None, best: float | None) -> dict[str, str]:
    """Returns labels and texts of the returns that are known beside those of runs."""
    lines = {}
    if random is not None:
        interval = bootstrap_interval(np.atleast_1d(random))
        lines["random policy"] = format_interval(interval, count_seeds=np.ndim(random) > 0)
    if best is not None:
        lines["best possible"] = format_number(best)
    return lines


def cost_label(cost: int, names: Sequence[str]) -> str:
    """Returns the cost's own name, or ``cost 0`` ... where it has none.

    Args:
        cost: Number of the cost, from 0.
        names: Names of the costs, in order; may be shorter than the costs.

    Returns:
        The label.
    """
    return names[cost] if cost < len(names) else f"cost {cost}"


def format_limit(values: ArrayLike) -> str:
    """Formats the limits of agents: one number where they agree, all of them where they do not.

    Args:
        values: Limits ``[N]``, in cost per episode; inf reads "none".

    Returns:
        The text.
    """
    texts = [
        "none" if np.isinf(value) else f"{value:g}"
        for value in np.asarray(values, np.float64).round(6)
    ]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def worst_agent(costs: ArrayLike, limits: ArrayLike) -> int:
    """Returns the agent farthest over its limit, or the costliest where none has a limit.

    Agents whose cost is NaN, and agents without a limit beside others that have one, come last.

    Args:
        costs: Cost of each agent, ``[N]``.
        limits: Limit of each agent, ``[N]``, inf where there is none.

    Returns:
        The agent's number, from 0.
    """
    costs, limits = np.asarray(costs, float), np.asarray(limits, float)
    excess = costs - limits if np.isfinite(limits).any() else costs
    return int(np.argmax(np.where(np.isnan(excess), -np.inf, excess)))


def cost_table(
    costs: ArrayLike,
    limits: ArrayLike,
    satisfaction: ArrayLike,
    violations: ArrayLike,
    updates: float,
    names: Sequence[str] = (),
) -> Table:
    """Builds the table of costs at the end of a run: a line per cost and agent.

    With more than `MAX_AGENT_LINES` agents of one limit, a cost has two lines: the mean over its
    agents, and the worst of them. A cost is red where its interval reaches over the limit.

    Args:
        costs: Costs of the last evaluation, in cost per episode, ``[seeds, N, K]``; NaN for a
            diverged seed.
        limits: Limits ``[N, K]``, in cost per episode, inf where there is none.
        satisfaction: Probability of keeping the limit, ``[N, K]``, 0 to 1.
        violations: Number of updates that broke the limit, mean over seeds, ``[N, K]``.
        updates: Number of updates with ended episodes, mean over seeds; NaN where none was counted.
        names: Name of each cost.

    Returns:
        A rich table.
    """
    costs, limits, satisfaction, violations = (
        np.asarray(x, float) for x in (costs, limits, satisfaction, violations)
    )
    violations_head = (
        "updates over it" if np.isnan(updates) else f"updates over it, of {updates:,.0f}"
    )
    rows = []
    for k in range(limits.shape[1]):
        for label, values, agents in _agent_lines(costs[..., k], limits[:, k]):
            limit, share = limits[agents, k], satisfaction[agents, k].mean()
            broken = violations[agents, k].mean()
            rows.append(
                (
                    f"{cost_label(k, names)}, {label}",
                    format_limit(limit),
                    _cost_text(values, float(limit[0])),
                    "-" if np.isnan(share) else f"{share:.3f}",
                    "-" if np.isnan(broken) else f"{broken:.1f}",
                )
            )
    columns = (
        "cost per episode",
        "limit",
        "mean [95 % interval]",
        "P(kept)",
        violations_head,
    )
    return make_table(columns, rows, results=True)


def evaluation_cost_tables(
    costs: Mapping[int, ArrayLike], limits: ArrayLike, names: Sequence[str] = (), title: str = ""
) -> list[Table]:
    """Builds the tables of costs of freshly played episodes.

    The first is over all seeds' episodes together. It has the mean cost with its bootstrap interval
    over episodes, the limit, and the probability of keeping it with Wilson's interval; both
    intervals are about these policies, not about seeds that were not trained. With several seeds, a
    second, compact table has a line per seed.

    Args:
        costs: Seed -> cost of each episode, ``[episodes, N, K]``; a diverged seed's may be NaN.
        limits: Limits ``[N, K]``, in cost per episode, inf where there is none.
        names: Name of each cost.
        title: Title of the first table.

    Returns:
        One or two rich tables.
    """
    limits = np.asarray(limits)
    played = {seed: np.asarray(values) for seed, values in costs.items()}
    sound = [values for values in played.values() if np.isfinite(values).all()]
    rows = []
    for k in range(limits.shape[1] if sound else 0):
        pooled = np.concatenate(sound)[..., k]
        for i, limit in enumerate(limits[:, k].tolist()):
            satisfied = int(np.sum(pooled[:, i] <= limit))
            rows.append(
                (
                    f"{cost_label(k, names)}, agent {i}",
                    format_limit([limit]),
                    _cost_text(pooled[:, i], limit),
                    format_share(satisfied, len(pooled)) if np.isfinite(limit) else "-",
                )
            )
    columns = (
        "cost per episode",
        "limit",
        "mean [95 % interval]",
        "P(kept) [95 % interval]",
    )
    result = [make_table(columns, rows, title or None, results=True)]
    if len(played) > 1:
        result.append(_worst_agent_table(played, limits, names))
    return result


def _worst_agent_table(
    played: Mapping[int, np.ndarray], limits: np.ndarray, names: Sequence[str]
) -> Table:
    """Builds the table of every seed's worst agent, cost by cost."""
    rows = []
    for seed, values in played.items():
        cells: list[object] = [f"seed {seed}"]
        for k in range(limits.shape[1]):
            mean = values[..., k].mean(0)
            i = worst_agent(mean, limits[:, k])
            limit, share = limits[i, k], np.mean(values[:, i, k] <= limits[i, k])
            text = f"{format_number(float(mean[i]))} (agent {i})"
            text += f", {share:.3f}" * bool(np.isfinite(limit))
            finite = np.isfinite(mean).all()
            cells.append(literal(text, "red" if mean[i] > limit else "") if finite else "left out")
        rows.append(cells)
    columns = ["", *(cost_label(k, names) for k in range(limits.shape[1]))]
    return make_table(columns, rows, "worst agent of each seed: mean cost, P(kept)", results=True)


def _agent_lines(costs: np.ndarray, limits: np.ndarray) -> list[tuple[str, np.ndarray, list[int]]]:
    """Splits the costs ``[seeds, N]`` and limits ``[N]`` of one cost into the lines of a table.

    Returns:
        Label, cost of every seed, and agents, of each line.
    """
    agents = list(range(limits.size))
    if limits.size <= MAX_AGENT_LINES or np.unique(limits).size > 1:
        return [(f"agent {i}", costs[:, i], [i]) for i in agents]
    worst = worst_agent(statistics.mean(costs, axis=0), limits)
    return [
        (f"mean of {limits.size} agents", costs.mean(1), agents),
        (f"worst agent ({worst})", costs[:, worst], [worst]),
    ]


def _cost_text(costs: np.ndarray, limit: float) -> Text:
    """Formats the mean of costs with its interval, red where it reaches over the limit."""
    interval = bootstrap_interval(costs, statistics.mean)
    text = format_interval(interval, count_seeds=False)
    return literal(text, "red" if interval.high > limit else "")
