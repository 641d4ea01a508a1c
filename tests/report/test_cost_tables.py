import io

import numpy as np
import pytest
from rich.console import Console

from jaxmarl_lite.report import tables

INF = np.inf


def rendered(table, colors=False):
    written = io.StringIO()
    console = Console(
        width=100, color_system="standard" if colors else None, force_terminal=colors, file=written
    )
    console.print(table)
    return written.getvalue()


def table_words(table):
    return [line.split() for line in rendered(table).splitlines()]


def test_a_run_has_a_line_per_cost_and_agent_red_when_over():
    costs = np.array([[[1.0, 3.0], [8.0, 0.0]], [[1.0, 5.0], [8.0, 0.0]]])
    limits = [[2.0, 4.5], [9.0, INF]]
    table = tables.cost_table(
        costs, limits, [[1, 0.75], [0.5, np.nan]], [[0, 3.5], [0, np.nan]], 10, ("speed",)
    )
    lines = table_words(table)
    assert ["speed,", "agent", "0", "2", "1.00", "[1.00,", "1.00]", "1.000", "0.0"] in lines
    assert ["cost", "1,", "agent", "0", "4.5", "4.00", "[3.00,", "5.00]", "0.750", "3.5"] in lines
    assert ["cost", "1,", "agent", "1", "none", "0.00", "[0.00,", "0.00]", "-", "-"] in lines
    assert "updates over it, of 10" in rendered(table)
    red = [line for line in rendered(table, colors=True).splitlines() if "\x1b[31m" in line]
    assert len(red) == 1 and "4.00" in red[0]  # its mean keeps the limit, its interval does not


def test_many_agents_have_two_lines_unless_their_limits_differ():
    costs = np.arange(8.0)[None, :, None]
    equal = table_words(
        tables.cost_table(costs, np.full((8, 1), 5.0), np.eye(8)[:, :1], np.zeros((8, 1)), 10)
    )
    assert ["cost", "0,", "mean", "of", "8", "agents", "5", "3.50", "0.125", "0.0"] in equal
    assert ["cost", "0,", "worst", "agent", "(7)", "5", "7.00", "0.000", "0.0"] in equal
    unequal = rendered(
        tables.cost_table(costs, np.arange(8.0)[:, None], np.ones((8, 1)), np.zeros((8, 1)), 10)
    )
    assert all(f"agent {i}" in unequal for i in range(8)) and "worst" not in unequal


def test_an_evaluation_pools_episodes_and_shows_every_seed():
    played = {
        0: np.array([[[1.0], [5.0]]] * 10),
        3: np.array([[[2.0], [7.0]]] * 10),
        7: np.full((10, 2, 1), np.nan),
    }
    pooled, by_seed = tables.evaluation_cost_tables(played, [[INF], [6.0]], ("speed",), "here")
    lines = table_words(pooled)
    # Wilson's interval of 10 of 20 episodes
    assert "here" in rendered(pooled) and lines[-2][:6] == [
        "speed,",
        "agent",
        "1",
        "6",
        "6.00",
        lines[-2][5],
    ]
    assert lines[-2][-3:] == ["0.500", "[0.299,", "0.701]"] and lines[-3][:4] == [
        "speed,",
        "agent",
        "0",
        "none",
    ]
    lines = table_words(by_seed)
    assert ["seed", "0", "5.00", "(agent", "1),", "1.000"] in lines and [
        "seed",
        "7",
        "left",
        "out",
    ] in lines
    assert ["seed", "3", "7.00", "(agent", "1),", "0.000"] in lines
    red = [line for line in rendered(by_seed, colors=True).splitlines() if "\x1b[31m" in line]
    assert len(red) == 1 and "7.00" in red[0]
    assert len(tables.evaluation_cost_tables({0: played[0]}, [[INF], [6.0]])) == 1


@pytest.mark.parametrize(
    ("values", "text"), [([1, 1], "1"), ([0.1, 2], "0.1, 2"), ([INF, INF], "none")]
)
def test_limits_in_words(values, text):
    assert tables.format_limit(np.asarray(values, np.float32)) == text
