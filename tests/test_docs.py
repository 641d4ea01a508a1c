"""The documentation builds without a warning, names everything, and a browser shows each page."""

from __future__ import annotations

import dataclasses
import functools
import html.parser
import importlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import reference_results

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIGS = [name for name in jml.__all__ if name.endswith("Config") and name != "LearnerConfig"]

CURVE = "```{learning-curve}"

pytest.importorskip("sphinx", reason="needs the extra docs")
jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")


@pytest.fixture(scope="module")
def tables() -> Any:
    """The module of the directives."""
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module("library_tables")
    sys.path.remove(str(DOCS / "_ext"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_a_config_has_its_meaning_on_a_page(name: str, tables: Any) -> None:
    fields = tables.fields_of(getattr(jml, name))
    names = {field.name for field in dataclasses.fields(getattr(jml, name))}
    assert {field for field, _, _ in fields} == names
    assert all(text.endswith(".") for _, _, text in fields)
    pages = [path.read_text() for path in (DOCS / "algorithms").glob("*.md")]
    assert sum(f"```{{config-fields}} {name}\n" in page for page in pages) == 1


@pytest.mark.parametrize("name", jml.ALGORITHMS)
def test_every_algorithm_has_its_metrics_on_a_page(name: str, tables: Any) -> None:
    pages = [path.read_text() for path in (DOCS / "algorithms").glob("*.md")]
    assert sum(f"```{{algorithm-metrics}} {name}\n" in page for page in pages) == 1
    assert "episode_return" in tables.metrics_of(name)


@pytest.mark.parametrize("name", jml.ALGORITHMS)
def test_every_algorithm_has_a_stored_learning_curve_on_a_page(name: str) -> None:
    pages = [path.read_text() for path in (DOCS / "algorithms").glob("*.md")]
    drawn = [line.split()[1:] for page in pages for line in page.splitlines() if CURVE in line]
    stored = {(run.env, run.label): run.config["algorithm"] for run in reference_results.load()}
    shown = [(env, label) for env, *labels in drawn for label in labels]
    assert set(shown) <= set(stored)
    assert name in {stored[key] for key in shown}


def test_every_tutorial_is_a_notebook_with_a_link_to_itself() -> None:
    """Without the address of a repository there is no link to Colab, with one there is."""
    sys.path.insert(0, str(DOCS / "_ext"))
    notebooks = importlib.import_module("notebooks")
    sys.path.remove(str(DOCS / "_ext"))
    for path in sorted((DOCS / "tutorials").glob("*.py")):
        for repository in ("", "owner/name"):
            text = notebooks.with_links(path.read_text(), path.stem, repository)
            notebook = notebooks.notebook(path, repository)
            assert text.count(f'href="../_static/notebooks/{path.stem}.ipynb"') == 1
            assert ("colab.research.google.com/github/owner/name/" in text) == bool(repository)
            assert notebook.cells[0].cell_type == ("code" if repository else "markdown")
            assert nbformat.validate(notebook) is None
            # the links stand in a cell between the introduction and the first code
            cells = jupytext.reads(text, fmt="py:percent").cells
            kinds = [cell.cell_type for cell in jupytext.read(path).cells]
            assert [cell.cell_type for cell in cells] == [kinds[0], "markdown", *kinds[1:]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, its tutorials executed with few steps. A warning is an error.

    The variable DOCS_SITE names one that is there already.
    """
    if "DOCS_SITE" in os.environ:
        return Path(os.environ["DOCS_SITE"])
    out = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "NOTEBOOK_STEPS": "2048",
    }
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-d", str(out / "doctrees"), "-D", f"nb_execution_cache_path={out / 'cache'}"]
    done = subprocess.run(
        [*command, str(DOCS), str(out / "html")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return out / "html"


class Links(html.parser.HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] or "" for name in ("id", "name") if name in values}
        self.links += [values[name] or "" for name in ("href", "src") if name in values]


def pages_of(site: Path) -> list[Path]:
    """All pages that a reader can come to."""
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


@pytest.mark.slow
@pytest.mark.guard
@pytest.mark.timeout(1600)
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    documented = {name for kind in inventory.values() for name in kind}
    names = [*(set(jml.__all__) - {"__version__"}), *(f"ops.{name}" for name in jml.ops.__all__)]
    known = documented | {name.replace(".algorithms.registry", "") for name in documented}
    assert [name for name in names if f"jaxmarl_lite.{name}" not in known] == []


@pytest.mark.slow
@pytest.mark.guard
@pytest.mark.timeout(1600)
def test_every_internal_link_and_picture_exists(site: Path) -> None:
    parsed = {path: Links(path.read_text(encoding="utf-8")) for path in pages_of(site)}
    assert len(parsed) > 45
    broken = []
    for path, page in parsed.items():
        for link in page.links:
            if "://" in link or link.startswith(("mailto:", "data:", "javascript:")):
                continue
            target, anchor = urldefrag(urljoin(path.as_uri(), link))
            file = Path(unquote(target.removeprefix("file://")).split("?")[0])
            has_anchor = file not in parsed or unquote(anchor) in parsed[file].anchors
            if not file.exists() or (anchor and not has_anchor):
                broken.append((path.name, link))
    assert broken == []


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site, served on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.guard
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_page(site: Path, address: str, width: int) -> None:
    """No error in its console, no picture that is missing, nothing to scroll sideways."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("needs Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    problems: list[tuple[str, str]] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        name = ""
        page.on("console", lambda x: problems.append((name, x.text)) if x.type == "error" else None)
        page.on("pageerror", lambda error: problems.append((name, str(error))))
        for path in pages_of(site):
            name = str(path.relative_to(site))
            page.goto(f"{address}/{name}", wait_until="load")
            beyond = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            if beyond > 0:
                problems.append((name, f"{beyond} px to scroll sideways at {width}"))
            missing = page.evaluate(
                "[...document.images].filter(x => x.complete && !x.naturalWidth).map(x => x.src)"
            )
            problems += [(name, f"no picture {source}") for source in missing]
        browser.close()
    assert problems == []
