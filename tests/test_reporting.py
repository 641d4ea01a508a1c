"""What a run shows and writes beside its rows and checkpoints: it may fail, and it shows words as
they are."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import SIZES, Lottery, config, updates

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.envs.wrappers import Cost, with_costs
from jaxmarl_lite.experiment import run_logger
from jaxmarl_lite.report import checkpoint, loggers, plotting, run_dir, tracking
from jaxmarl_lite.report.tables import printable

RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("ippo"), total_steps=updates(2), num_evaluations=2
)


@dataclasses.dataclass(frozen=True)
class Worded(Lottery):
    """A lottery with a return of this meaning."""

    meaning: str = ""

    @property
    def spec(self) -> Any:
        return dataclasses.replace(super().spec, return_description=self.meaning)


@pytest.mark.parametrize("message", ["speed [m/s]", "[/red] $x_$ :warning: \x1b[31m"])
def test_words_are_shown_as_they_are(
    message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"br[/a] {message.replace('/', '')}"
    env = Worded(0.0, 0.0, f"test/{message.replace('/', '')}", message)
    result = jml.run("ippo", env, out=path, **dict(RUN, quiet=False))
    said = capsys.readouterr().out
    assert printable(message) in said and "\x1b[31m" not in said
    assert printable(message) in result.summary() and (path / "curve.png").exists()
    assert "failed" not in said
    assert main(["evaluate", str(path / "none")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def broken(*args: Any, **keywords: Any) -> Any:
    raise RuntimeError("out of\nink")


def test_what_fails_beside_the_rows_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[int] = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: (saved.append(args[1]), save(*args))[1])

    def draw(*args: Any) -> None:
        assert saved, "the first checkpoint is written before the first picture"
        broken()

    monkeypatch.setattr(run_logger, "draw", draw)
    monkeypatch.setattr(tracking.TensorBoardLogger, "write", broken)
    monkeypatch.setattr(loggers, "marl_eval_json", broken)
    monkeypatch.setattr(jml.Result, "table", broken)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=broken))
    both, loud = ["tensorboard", "wandb=p"], dict(RUN, quiet=False)
    with pytest.warns(run_dir.RunFolderWarning) as caught:
        result = jml.run("ippo", "toy/counter", out=tmp_path, loggers=both, **loud)
    said = capsys.readouterr().out
    warned = "; ".join(str(warning.message) for warning in caught)
    for name in ("curve.png", "TensorBoard", "marl_eval.json", "W&B"):
        assert (
            warned.count(f"{name} failed, and the run goes on without it: RuntimeError: out of ink")
            == 1
        )
    assert "the result cannot be shown: RuntimeError: out of" in said
    np.testing.assert_array_equal(jml.load_run(tmp_path).returns, result.returns)
    monkeypatch.undo()
    jml.resume_run(tmp_path, quiet=True)  # it is finished, and what is missing is made
    assert (tmp_path / "curve.png").exists() and "step_2" in (
        tmp_path / "marl_eval.json"
    ).read_text()


def test_a_terminal_that_is_gone_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Gone())
    assert jml.run("ippo", "toy/counter", **dict(RUN, quiet=False)).returns.shape == (2, 3)


def drawn_costs(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[float]]]:
    """Title, axis and limits of each panel of ``plot --metric eval_cost``."""
    figures: list[Any] = []
    save = plotting.save
    with monkeypatch.context() as patch:
        patch.setattr(
            plotting, "save", lambda figure, path: (figures.append(figure), save(figure, path))[1]
        )
        assert (
            main(["plot", str(path), "--metric", "eval_cost", "--out", str(path / "costs.pdf")])
            == 0
        )
    assert (path / "costs.pdf").read_bytes().startswith(b"%PDF")
    return [
        (
            axes.get_title(loc="left"),
            axes.get_ylabel(),
            [line.get_ydata()[0] for line in axes.lines if line.get_label().startswith("_")],
        )
        for axes in figures[0].axes
    ]


def test_costs_of_an_own_environment_keep_names_and_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    tax = Cost("tax", "coins paid [$/h]", lambda state, action, later: jnp.ones(2), 2.5)
    env = with_costs(Lottery(0.0, 0.0), [tax])
    jml.run("ippo", env, out=tmp_path / "run", **RUN)
    assert drawn_costs(tmp_path / "run", monkeypatch) == [("cost: tax", "coins paid [$/h]", [2.5])]
    folder = run_dir.RunFolder(tmp_path / "run")
    assert run_logger.read_spec(folder) == env.spec
    stored = folder.spec.read_text()
    folder.spec.unlink()  # as in runs of earlier versions
    assert drawn_costs(tmp_path / "run", monkeypatch) == [("cost 0", "cost per episode", [])]
    for damage in (
        "[]",
        "{",
        stored.replace('"tax"', "3"),
        stored.replace('"num_agents"', '"agents"'),
    ):
        folder.spec.write_text(damage)
        assert main(["plot", str(folder.path), "--metric", "eval_cost"]) == 2


def test_evaluations_do_not_take_longer_and_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made of all rows takes a share of the time; the clock stands still but for it."""
    current = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: current[0])
    built: list[float] = []

    def make() -> None:
        built.append(current[0])
        current[0] += 0.01 * len(built)

    file = run_logger._Rebuilt(make, stale=False)
    for _ in range(2000):
        current[0] += 0.05  # an evaluation
        file.refresh()
    file.refresh(immediately=True)
    spent = 0.01 * len(built) * (len(built) + 1) / 2
    assert 3 < len(built) < 200 and spent < 0.06 * current[0]
    file.refresh(immediately=True)
    assert built[-1] <= current[0] and len(set(built)) == len(built), (
        "at the end it is made if something is missing"
    )


def test_marl_eval_is_whole_when_a_run_ends(tmp_path: Path) -> None:
    jml.run(
        "ippo", "toy/counter", out=tmp_path, **dict(RUN, total_steps=updates(6), num_evaluations=6)
    )
    nested = json.loads((tmp_path / "marl_eval.json").read_text())
    names = dict(environment="toy", task="counter", algorithm="ippo")
    assert nested == loggers.marl_eval_json(run_dir.load(tmp_path).rows, **names)
    steps = [f"step_{i}" for i in range(7)]
    assert list(nested["toy"]["counter"]["ippo"]["seed_0"]) == [*steps, "absolute_metrics"]
