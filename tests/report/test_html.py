"""Web pages of runs: escaped, self-contained, and sound in a real browser."""

from __future__ import annotations

import dataclasses
import html.parser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import config

import jaxmarl_lite as jml
from jaxmarl_lite.cli import train
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import web_report
from jaxmarl_lite.report import html as pages
from jaxmarl_lite.report import plotting, tables

SIZES: dict[str, Any] = dict(
    num_envs=4, num_steps=4, eval_episodes=4, total_steps=64, num_evaluations=2, quiet=True
)
NAME = "a <b onclick='x'> & \"c\""

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (path := shutil.which(name))
    ),
    None,
) or next((str(p) for p in Path.home().glob(".cache/ms-playwright/*/*/chrome")), None)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
)

PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("body *")].filter(
    (x) => x.getBoundingClientRect().right > innerWidth + 1 && !x.closest(".scroll"));
  const broken = [...document.images].filter((x) => !x.complete || !x.naturalWidth);
  parent.postMessage([innerWidth, root.scrollWidth, wide.length, document.images.length,
    broken.length, document.querySelectorAll("svg.plot").length,
    getComputedStyle(document.body).backgroundColor].join(" "), "*");
});</script>"""
FRAME = """<body><iframe width="390" height="800" src="PAGE"></iframe><p id="out"></p><script>
addEventListener("message", (x) => { document.getElementById("out").textContent = x.data; });
</script></body>"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with costs; one has a name that is HTML, and a video."""
    folder = tmp_path_factory.mktemp("runs")
    for name, lr in ((NAME, 1e-3), ("plain", 1e-2)):
        small = config("ippo", lr=lr)
        jml.run("ippo", "toy/budget", config=small, seeds=2, out=folder / name, **SIZES)
    frames = [Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)) for i in range(3)]
    frames[0].save(folder / NAME / "episode.gif", save_all=True, append_images=frames[1:])
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    path = jml.load_run(runs / NAME).report()
    assert path == runs / NAME / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison_page(runs: Path) -> str:
    comparison = jml.compare_runs([runs / NAME, runs / "plain"])
    return comparison.report(runs / "comparison.html").read_text(encoding="utf-8")


class _Reader(html.parser.HTMLParser):
    """Collects the tags and the text of a page, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def test_a_page_holds_everything(page: str) -> None:
    reader = _read(page)
    names = [tag for tag, _ in reader.tags]
    assert names.count("svg") == 2 and names.count("img") == 1 and "script" not in names
    for words in (
        "ippo on toy/budget",
        "seed 1",
        "random policy",
        "energy, agent 1",
        "entropy_coef",
    ):
        assert words in reader.text
    assert "limit" in reader.text and "jaxlib" in reader.text and "device kind" in reader.text
    images = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert images[0] and images[0].startswith("data:image/gif;base64,")


@pytest.mark.parametrize("name", ["page", "comparison_page"])
def test_nothing_is_loaded_and_nothing_of_a_user_is_markup(
    name: str, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(name)
    reader = _read(page)
    assert NAME in reader.text and "<b onclick" not in page
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        assert not any(attribute.startswith("on") for attribute in attributes)
        for attribute in ("src", "href", "xlink:href"):
            value = attributes.get(attribute)
            assert value is None or value.startswith(("data:", "#")), value
            assert value is None or not value.startswith("#") or value[1:] in ids
    addresses = set(re.findall(r"https?://[\w./]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!#)", page)


def test_a_comparison_names_what_differs_and_how_little_two_seeds_say(
    comparison_page: str,
) -> None:
    reader = _read(comparison_page)
    assert "settings that differ" in reader.text
    assert re.search(r"lr0\.0010\.01", reader.text)
    assert "as few as 2 seeds" in reader.text and "better) at the end" in reader.text


def test_the_commands(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", str(runs / "plain"), "--out", str(tmp_path / "new" / "p.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "p.html")
    arguments = ["compare", str(runs / "plain"), str(runs / NAME), "--out", str(tmp_path)]
    assert main([*arguments, "--report"]) == 0
    assert (tmp_path / "comparison.html").is_file()
    assert str(tmp_path / "comparison.html") in capsys.readouterr().out.replace("\n", "")
    for out, message in ((tmp_path, "ends in .html"), (tmp_path / "page.txt", "ends in .html")):
        assert main(["report", str(runs / "plain"), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err


def test_the_command_in_the_page_has_the_plan(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []

    def plan(algorithm: str, env: str, **settings: Any) -> None:
        names = experiment_config.RunConfig.__dataclass_fields__
        kept = {k: v for k, v in settings.items() if k in names}
        plans.append(experiment_config.make_run_config(algorithm, env, **kept)[0])

    monkeypatch.setattr(train, "run", plan)
    expected = [
        jml.load_run(runs / NAME).plan,
        experiment_config.make_run_config(
            "macpo",
            "toy/budget",
            config={"cost_limit": {"energy": (2.0, 3.5)}, "hidden_sizes": (4, 4)},
            seeds=(5, 2),
            num_envs=8,
        )[0],
        experiment_config.make_run_config(
            "qmix", "toy/counter", config={"recurrent": False}, seeds=1, greedy=False
        )[0],
    ]
    for run_plan in expected:
        command = web_report.command_of(run_plan)
        assert command is not None
        words = shlex.split(command)
        assert words[:2] == ["jaxmarl-lite", "train"]
        train.train(words[2:])
        assert plans[-1] == run_plan


def test_tables_and_texts_are_escaped() -> None:
    table = tables.make_table(("<a>", "n"), [("<i>x</i>\x1b", 1), (), ("y", 2)], "t & u")
    result = pages.table(table)
    assert "<i>" not in result and "&lt;i&gt;x&lt;/i&gt;\\x1b" in result and "t &amp; u" in result
    assert 'class="right"' in result and 'class="rule"' in result
    panel = plotting.Panel("<b>", "<u>", {f"<s>{i}": ([0, 1], [[0.0, 1.0]]) for i in range(6)})
    figure = pages.figure(panel)
    assert not re.search(r"<[bus]>", figure) and figure.count("<li>") == 6


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.gif").write_bytes(b"GIF89a")
    monkeypatch.setattr(pages, "_MOST_BYTES", 3)
    assert "film.gif is too large" in pages.media(tmp_path / "film.gif", "film")


def test_an_unfinished_run_says_so(runs: Path, tmp_path: Path) -> None:
    result = jml.load_run(runs / "plain")
    longer = experiment_config.extend(result.plan, 640)
    path = dataclasses.replace(result, plan=longer, path=None).report(tmp_path / "page.html")
    assert "not finished: 4 of 40 updates" in path.read_text()
    with pytest.raises(ValueError, match="the run has no folder"):
        dataclasses.replace(result, path=None).report()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["page", "comparison_page"])
def test_in_a_browser(
    name: str, dark: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """390 pixels wide: no error, nothing beside the screen, every picture loaded."""
    page = request.getfixturevalue(name)
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    (tmp_path / "frame.html").write_text(FRAME.replace("PAGE", "page.html"))
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ":CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<p id="out">(.+?)</p>', done.stdout)
    assert found is not None, done.stdout[:500] + done.stderr
    inner, scroll, wide, images, broken, plots, *color = found[1].split(" ", 6)
    assert int(inner) in range(370, 391) and int(scroll) <= int(inner)
    assert (int(wide), int(broken)) == (0, 0)
    assert (int(images), int(plots)) == ((1, 2) if name == "page" else (0, 3))
    assert color == ["rgb(20, 22, 25)" if dark else "rgb(246, 246, 244)"]
