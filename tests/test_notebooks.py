"""What a notebook shows: one line of progress, tables as HTML, and no escape codes."""

import html.parser
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from rich.console import Console

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import comparison
from jaxmarl_lite.report import notebooks, tables

RUN = """
import jaxmarl_lite as jml
result = jml.run("ippo", "toy/counter", config={"hidden_sizes": (4,)}, seeds=2, total_steps=64,
                 num_envs=4, num_steps=4, num_evaluations=2, eval_episodes=4)
"""


@pytest.fixture(scope="module")
def cells():
    """The cells of a small notebook after their execution."""
    sources = [
        RUN,
        "result",
        "result.table()",
        "print(result.summary())",
        RUN + "result.plan.seeds",
    ]
    sources[-1] = sources[-1].replace("eval_episodes=4", "eval_episodes=4, quiet=True")
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("JAX_PLATFORMS", "cpu")
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return notebook.cells


def data_of(cell):
    return [output.data for output in cell.outputs if "data" in output]


def test_nothing_has_escape_codes_or_needs_widgets(cells):
    text = repr([cell.outputs for cell in cells])
    assert "x1b" not in text and "widget" not in text and "stderr" not in text


def test_progress_is_one_line_that_ends_full(cells):
    line, table = data_of(cells[0])
    assert "ippo on toy/counter" in line["text/plain"] and "100%" in line["text/plain"]
    assert f"[{'#' * 30}]" in line["text/plain"] and "evaluation" in line["text/plain"]
    assert '<progress value="4" max="4">' in line["text/html"]
    assert "<td" in table["text/html"] and "IQM" in table["text/plain"]
    printed = "".join(output.text for output in cells[0].outputs if "text" in output)
    assert "compiled in" in printed and "update" not in printed  # as a log would have it
    assert data_of(cells[4]) == [{"text/plain": "(0, 1)"}]  # quiet shows nothing


@pytest.mark.parametrize("cell", [1, 2])
def test_a_result_and_its_table_are_html(cells, cell):
    (data,) = data_of(cells[cell])
    assert data["text/html"].startswith("<table>") and "seed 1</td>" in data["text/html"]
    assert "IQM [95 % interval]" in data["text/html"]


def test_a_summary_is_plain_text(cells, monkeypatch):
    (output,) = cells[3].outputs
    assert "IQM [95 % interval]" in output.text and "seed 0" in output.text
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = tables.result_table({0: 1.0, 1: np.nan}, title="title")
    assert "\x1b" not in tables.to_text(table) and "\x1b" not in comparison._render([table], 140)
    console = Console()
    with console.capture() as captured:
        console.print(table)
    assert "\x1b" in captured.get()  # a terminal still gets its colors


class Reader(html.parser.HTMLParser):
    """The cells of every row, and whether all tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_html_shows_text_as_text():
    table = tables.make_table(("a", "b"), [("<b>", 1), (), ("[red]x[/red]", None)], "a & b")
    text = tables.to_html(table)
    reader = Reader(text)
    assert reader.rows == [["a", "b"], ["<b>", "1"], ["[red]x[/red]"]] and not reader.open
    assert "a &amp; b</caption>" in text and "text-align: right" in text
    grid = tables.NotebookTable.grid()
    grid.add_row(table)
    grid.add_row(table)
    assert tables.to_html(grid) == text * 2 == grid._repr_mimebundle_()["text/html"]


def test_outside_of_a_notebook_nothing_changes(monkeypatch):
    assert not notebooks.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert notebooks.in_notebook() is False


SESSION = """
import sys, jax, jaxmarl_lite as jml
jax.jit(lambda x: x * 3)(1.0)  # before: JAX has looked for a cache in vain
folder = jml.enable_compilation_cache(*sys.argv[1:])
jax.jit(lambda x: x * 5)(1.0)
print(folder, len(list(folder.glob("*-cache"))))
"""


def session(folder, *arguments, **variables):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SESSION, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        env=inherited
        | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "home")}
        | variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_session_keeps_its_programs(tmp_path):
    folder, count = session(tmp_path)
    assert folder == str(tmp_path / "home" / "jaxmarl_lite" / "programs") and int(count) >= 1
    assert session(tmp_path) == [folder, count]  # the second session compiles nothing anew
    folder, count = session(tmp_path, tmp_path / "mine")
    assert folder == str(tmp_path / "mine") and int(count) >= 1
    chosen = str(tmp_path / "chosen")
    assert session(tmp_path, JAX_COMPILATION_CACHE_DIR=chosen)[0] == chosen


def test_a_folder_of_programs_is_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="path is .*; allowed is a folder"):
        jml.enable_compilation_cache(tmp_path / "file")
    with pytest.raises(ValueError, match="path is 3; allowed is the path of a file or folder"):
        jml.enable_compilation_cache(3)
