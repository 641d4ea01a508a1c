import io
import re

import numpy as np
import pytest
from rich.console import Console

from jaxmarl_lite.report import tables
from jaxmarl_lite.report.statistics import Interval, bootstrap_interval
from jaxmarl_lite.report.tables import printable


def rendered(table, width=100):
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_interval_text():
    assert tables.format_interval(Interval(0.9712, 0.94, 0.9949, 5, 5)) == "0.97 [0.94, 0.99]"
    assert tables.format_interval(Interval(-1234.5, -2000.0, -1.0, 5, 5)) == "-1,234 [-2,000, -1]"
    assert tables.format_interval(Interval(0.5, 0.5, 0.5, 1, 1)) == "0.50 (one seed: no interval)"
    four = tables.format_interval(Interval(0.5, 0.4, 0.6, 4, 5))
    assert four == "0.50 [0.40, 0.60] (4 of 5 seeds; the rest were left out)"
    assert "no seed is left" in tables.format_interval(bootstrap_interval([np.nan]))


def test_number_text_keeps_the_decimals_of_its_neighbours():
    assert tables.format_number(0.0123) == "0.0123" and tables.format_number(0.0) == "0.00"
    assert (
        tables.format_number(3.0, [250.0]) == "3.0"
        and tables.format_number(float("nan")) == "left out"
    )


def test_result_table():
    returns = {0: 0.9, 1: 1.0, 2: float("nan"), 3: 0.8, 4: 0.7}
    text = rendered(
        tables.result_table(
            returns, random=0.1, best=1.0, meaning="team return", extra={"cost": {0: 3.5}}
        )
    )
    lines = [line.split() for line in text.splitlines()]
    assert ["seed", "0", "0.90", "3.50"] in lines and ["seed", "2", "left", "out"] in lines
    assert ["random", "policy", "0.10"] in lines and ["best", "possible", "1.00"] in lines
    assert "0.85 [" in text and "4 of 5 seeds" in text and "team return" in text


def test_make_table_shows_brackets_and_refuses_ragged_rows():
    text = rendered(
        tables.make_table(
            ["name", "agents"], [["matrix[climbing]", 2], ["lbf", None]], title="Worlds"
        )
    )
    assert "matrix[climbing]" in text and "Worlds" in text and "None" not in text
    with pytest.raises(ValueError, match="2 entries"):
        tables.make_table(["a", "b"], [[1]])


@pytest.mark.parametrize(
    "text", ["speed [m/s]", "[/red]", "[bold]b[/bold]", ":warning:", "\x1b[31m", "[link=x]"]
)
def test_words_in_tables_are_text(text: str) -> None:
    console = Console(
        width=200, color_system="truecolor", force_terminal=True, legacy_windows=False
    )
    pooled = {0: np.zeros((3, 1, 1)), 1: np.zeros((3, 1, 1))}
    for table in (
        tables.result_table({0: 1.0}, meaning=text, title=text, extra={text: {0: 1.0}}),
        tables.make_table((text, "b"), [(text, 1)], title=text),
        tables.cost_table(np.zeros((2, 1, 1)), [[1.0]], [[1.0]], [[0.0]], 3, (text,)),
        *tables.evaluation_cost_tables(pooled, [[1.0]], (text,), text),
    ):
        with console.capture() as captured:
            console.print(table)
        assert printable(text) in re.sub("\x1b\\[[0-9;]*m", "", captured.get())
