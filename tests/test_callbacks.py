"""Functions of the user that a run calls after every evaluation."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import SIZES, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.report import checkpoint

RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("ippo"), total_steps=updates(4), num_evaluations=4
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    jml.run("ippo", "toy/counter", out=path, **RUN)
    return path


def check_continues(path: Path, undisturbed: Path) -> None:
    result = jml.resume_run(path, quiet=True)
    assert result.stopped is None and jml.load_run(path).stopped is None
    assert_same_bits(result.states, jml.load_run(undisturbed).states)
    assert rows(path) == rows(undisturbed)


def test_reports_hold_the_rows_of_each_evaluation(tmp_path: Path) -> None:
    reports: list[jml.EvaluationReport] = []
    lengths: list[int] = []

    def note(report: jml.EvaluationReport) -> None:
        reports.append(report)
        lengths.append(len(report.history))
        assert checkpoint.latest(tmp_path / "run" / "checkpoints") == report.update

    result = jml.run("ippo", "toy/counter", out=tmp_path / "run", on_evaluation=note, **RUN)
    assert [report.update for report in reports] == [0, 1, 2, 3, 4] and result.stopped is None
    assert lengths == [2, 4, 6, 8, 10]
    assert [report.step for report in reports] == result.steps.tolist()
    for e, report in enumerate(reports):
        assert [row["seed"] for row in report.rows] == [0, 1]
        assert report.folder == tmp_path / "run" and report.plan == result.plan
        np.testing.assert_array_equal(report.metric("eval_return"), result.returns[:, e])
        assert report.mean("eval_return") == pytest.approx(result.returns[:, e].mean())
    with pytest.raises(ValueError, match=r"metric is 'eval_retrun'; .*nearest: eval_return"):
        reports[0].mean("eval_retrun")


def test_costs_are_arrays_with_their_limits() -> None:
    reports: list[jml.EvaluationReport] = []
    settings = dict(RUN, config=config("ippo"), total_steps=updates(1), num_evaluations=1)
    result = jml.run("ippo", "toy/budget-two", on_evaluation=reports.append, **settings)
    assert result.costs is not None and reports[1].folder is None
    np.testing.assert_array_equal(reports[1].metric("eval_cost"), result.costs[:, 1])
    np.testing.assert_array_equal(
        reports[1].metric("eval_cost/agent_1/cost_0"), result.costs[:, 1, 1, 0]
    )
    np.testing.assert_array_equal(reports[1].limits, result.limits)
    assert reports[1].mean("eval_cost") == pytest.approx(result.costs[:, 1].mean())


@pytest.mark.parametrize("answer", [True, np.bool_(True), "good \n enough"])
def test_a_callback_ends_the_run_and_it_goes_on(
    answer: Any, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[int] = []

    def stop(report: jml.EvaluationReport) -> Any:
        return answer if report.update == 2 else None

    both = [stop, lambda report: heard.append(report.update)]
    result = jml.run(
        "ippo", "toy/counter", out=tmp_path, on_evaluation=both, **dict(RUN, quiet=False)
    )
    assert heard == [0, 1, 2]
    assert result.steps.tolist() == [0, updates(1), updates(2)]
    assert result.states.num_updates.tolist() == [2, 2]
    reason = "good enough" if isinstance(answer, str) else "stop returned True"
    assert result.stopped == jml.load_run(tmp_path).stopped == reason
    said = capsys.readouterr().out
    hint = f"Stopped at update 2 ({reason}); continue from update 2: "
    assert f"{hint}jaxmarl-lite train --resume {tmp_path}\n" in said
    check_continues(tmp_path, undisturbed)


def test_a_stop_at_the_last_evaluation_ends_nothing(tmp_path: Path) -> None:
    result = jml.run(
        "ippo", "toy/counter", out=tmp_path, on_evaluation=lambda r: r.update == 4, **RUN
    )
    assert result.stopped is None and len(result.steps) == 5


@pytest.mark.parametrize("error", [OSError("no network"), KeyError("x"), SystemExit(3)])
def test_what_a_callback_raises_is_shown_once_the_run_is_saved(
    error: BaseException, undisturbed: Path, tmp_path: Path
) -> None:
    def fail(report: jml.EvaluationReport) -> None:
        if report.update == 3:
            raise error

    with pytest.raises(type(error)) as caught:
        jml.run("ippo", "toy/counter", out=tmp_path, on_evaluation=fail, **RUN)
    assert caught.value is error
    (note,) = error.__notes__
    assert "update 3" in note and f"jaxmarl-lite train --resume {tmp_path}" in note
    check_continues(tmp_path, undisturbed)


def test_an_answer_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"the result of count is 5; allowed is None or False"):
        jml.run("ippo", "toy/counter", on_evaluation=count, **RUN)


def count(report: jml.EvaluationReport) -> int:
    return 5


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (5, "on_evaluation is 5; allowed is a function"),
        ([print, None], "on_evaluation is None; allowed is a function"),
        (dict, "on_evaluation is <class 'dict'>; allowed is a function"),
        ("nothing", "on_evaluation is 'nothing'; allowed is module:name"),
        ("math:pi", "on_evaluation is 'math:pi'; allowed is a function"),
        ("math:sine", "on_evaluation is 'math:sine', but the module math has no sine"),
    ],
)
def test_what_is_no_callback(callback: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        jml.run("ippo", "toy/counter", out=tmp_path / "run", on_evaluation=callback, **RUN)
    assert not (tmp_path / "run").exists()


def test_callbacks_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module: Any = types.ModuleType("user_callbacks")
    module.stop = lambda report: "enough" if report.update == 1 else False
    monkeypatch.setitem(sys.modules, "user_callbacks", module)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    command = (
        "train ippo --env toy/counter --hidden-sizes 4 --num-envs 4 --num-steps 4 --seeds 2 "
        f"--total-steps {updates(4)} --num-evaluations 4 --eval-episodes 4"
    ).split()
    stop = ["--on-evaluation", "user_callbacks:stop"]
    assert main([*command, "--out", str(tmp_path / "run"), *stop]) == 0
    assert "(enough)" in capsys.readouterr().out
    assert jml.load_run(tmp_path / "run").stopped == "enough"
    assert main([*command, "--out", str(tmp_path / "b"), "--on-evaluation", "user:none"]) == 2
    assert "on_evaluation is 'user:none'" in capsys.readouterr().err


def test_a_resumed_run_keeps_loggers_and_callbacks_by_name(tmp_path, monkeypatch):
    (tmp_path / "users_callbacks.py").write_text(
        "calls = []\ndef note(report):\n    calls.append(report.update)\n"
        "def fail(report):\n    assert report.update != 1, 'a fault of the user'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = "train ippo --env toy/counter --hidden-sizes 4 --seeds 1 --num-envs 4 --num-steps 4 "
    words += "--total-steps 48 --num-evaluations 3 --eval-episodes 2 --quiet --out run "
    words += "--loggers csv --on-evaluation users_callbacks:note users_callbacks:fail"
    words += " --early-stopping patience=100"
    with pytest.raises(AssertionError, match="a fault of the user"):
        main(words.split())
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    import users_callbacks

    assert users_callbacks.calls == [0, 1, 2, 3]
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 5
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_metrics_of_training_are_missing_at_the_start_alone():
    plan = jml.run("ippo", "toy/counter", config=config("ippo"), seeds=1, total_steps=16, **SIZES)
    rows = [{"update": 0, "step": 0, "seed": 0, "eval_return": 1.0}]
    report = jml.EvaluationReport(plan.plan, 0, rows, rows, np.zeros((2, 0)), None)
    assert np.isnan(report.mean("entropy")) and report.mean("eval_return") == 1.0
    later = jml.EvaluationReport(plan.plan, 1, rows, rows, np.zeros((2, 0)), None)
    for wrong, name in ((report, "entropi"), (later, "meta_gradient_norm")):
        with pytest.raises(ValueError, match=f"metric is '{name}'"):
            wrong.mean(name)
