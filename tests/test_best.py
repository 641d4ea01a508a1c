"""The best checkpoint of a run, and early stopping: by a metric, and within limits on costs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import SIZES, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment import runner
from jaxmarl_lite.experiment.ranking import Ranking, Score
from jaxmarl_lite.report import checkpoint

RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("ippo"), total_steps=updates(6), num_evaluations=6
)
NO_LIMITS = np.zeros((2, 0))


def some_rows(*returns: float) -> list[dict[str, Any]]:
    """Rows of two seeds whose mean return is that of each evaluation."""
    return [
        {"update": u, "step": u, "seed": seed, "eval_return": mean + (seed - 0.5)}
        for u, mean in enumerate(returns)
        for seed in range(2)
    ]


def with_costs(evaluations: list[tuple[float, float, float]]) -> list[dict[str, Any]]:
    """Rows of evaluations with a return and the costs of two agents."""
    return [
        row | {f"eval_cost/agent_{i}/cost_0": evaluations[row["update"]][1 + i] for i in range(2)}
        for row in some_rows(*(evaluation[0] for evaluation in evaluations))
    ]


def test_the_best_of_means_over_seeds() -> None:
    history, every = some_rows(1.0, 3.0, 2.0, 3.0, math.nan), range(5)
    assert Ranking("eval_return").best(history, NO_LIMITS, every) == 1, "of equal ones the first"
    assert Ranking("eval_return", "min").best(history, NO_LIMITS, every) == 0
    assert Ranking("eval_return").best(history, NO_LIMITS, (0, 2)) == 2
    assert Ranking("entropy").best(history, NO_LIMITS, every) is None
    assert Ranking("eval_return").best(history, NO_LIMITS, ()) is None
    one_left = [row | {"eval_return": math.nan} if row["seed"] else row for row in history]
    assert Ranking("eval_return").best(one_left, NO_LIMITS, every) == 1


def test_limits_come_before_the_metric() -> None:
    limits, ranking = np.array([[10.0], [5.0]]), Ranking("eval_return")
    history = with_costs([(9.0, 12.0, 5.0), (3.0, 10.0, 5.0), (2.0, 0.0, 0.0), (99.0, 10.0, 6.0)])
    assert ranking.best(history, limits, range(4)) == 1, "the best of those that keep both"
    assert ranking.best(history, limits, (0, 3)) == 3, "as far over the limit, in its multiples"
    near = with_costs([(9.0, 12.0, 5.0), (1.0, 11.0, 5.0)])
    assert ranking.best(near, limits, range(2)) == 1, "nearer to the limits"
    assert ranking.best(near, np.full((2, 1), np.inf), range(2)) == 0
    assert ranking.scores(near, limits) == {0: Score(pytest.approx(0.2), 9.0), 1: Score(0.1, 1.0)}


def report(history: list[dict[str, Any]], limits: np.ndarray = NO_LIMITS) -> Any:
    last = history[-1]["update"]
    recent = [row for row in history if row["update"] == last]
    plan: Any = None
    return jml.EvaluationReport(plan, last, recent, history, limits, None)


def stops_at(stopping: jml.EarlyStopping, history: list[Any], limits: np.ndarray) -> int | None:
    for update in range(history[-1]["update"] + 1):
        if stopping(report([row for row in history if row["update"] <= update], limits)):
            return update
    return None


@pytest.mark.parametrize(
    ("settings", "returns", "stop"),
    [
        ({"patience": 2}, (1, 2, 2, 2, 5), 3),
        ({"patience": 2}, (1, 2, 2, 3, 3, 4), None),
        ({"patience": 1, "min_delta": 1.0}, (1, 2.5, 3.0), 2),
        ({"patience": 2, "mode": "min"}, (3, 2, 1, 4, 5), 4),
        ({"patience": 2}, (math.nan, 1, math.nan, 0, 0), 4),
        ({"patience": 1, "metric": "entropy"}, (1, 2, 3), None),
    ],
)
def test_when_a_run_stops_early(settings: Any, returns: Any, stop: int | None) -> None:
    assert stops_at(jml.EarlyStopping(**settings), some_rows(*returns), NO_LIMITS) == stop


def test_coming_into_the_limits_is_an_improvement() -> None:
    stopping, limits = jml.EarlyStopping(patience=1), np.array([[10.0], [5.0]])
    history = with_costs([(9.0, 20.0, 5.0), (8.0, 15.0, 5.0), (7.0, 9.0, 5.0), (9.0, 11.0, 5.0)])
    assert stops_at(stopping, history, limits) == 3
    assert stops_at(stopping, history, np.full((2, 1), np.inf)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": -1}, "patience is -1; allowed is a whole number, 1 or more"),
        ({"min_delta": -0.1}, "min_delta is -0.1; allowed is a number from 0"),
        ({"mode": "up"}, "mode is 'up'; allowed is one of max, min"),
        ({"metric": 5}, "metric is 5; allowed is the name of a metric"),
    ],
)
def test_stopping_rules_that_cannot_be(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jml.EarlyStopping(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best_metric": "eval_win_rate"}, "best_metric is 'eval_win_rate'; allowed is one of"),
        ({"best_metric": "entropie"}, "best_metric is 'entropie'; .*nearest: entropy"),
        ({"best_metric": "entropy", "best_mode": "x"}, "best_mode is 'x'; allowed is one of max"),
        ({"on_evaluation": jml.EarlyStopping("rewards")}, "metric is 'rewards'; allowed is"),
        ({"best_metric": "entropy", "out": None}, "best_metric is 'entropy'; allowed is None"),
    ],
)
def test_metrics_that_a_run_does_not_have(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        jml.run("ippo", "toy/counter", **({"out": tmp_path / "run"} | RUN | settings))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has its best evaluation after update 2."""
    evaluated = runner.Runner._evaluation_row

    def with_peak(self: Any, played: Any) -> Any:
        row = evaluated(self, played)
        row["eval_return"] = row["eval_return"] + 100.0 * (self.update == 2)
        return row

    monkeypatch.setattr(runner.Runner, "_evaluation_row", with_peak)


def test_the_best_checkpoint_is_kept_and_read(
    peak: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "run"
    states: list[Any] = []

    def stop(report: jml.EvaluationReport) -> bool:
        return report.update == 4

    settings = dict(RUN, max_checkpoints=1, best_metric="eval_return", out=path)
    jml.run("ippo", "toy/counter", on_evaluation=stop, **settings)
    assert checkpoint.steps(path / "checkpoints") == [2, 4]
    states.append(jml.load_run(path, checkpoint="best").states)
    jml.resume_run(path, max_checkpoints=1, quiet=True)  # the metric is remembered
    assert checkpoint.steps(path / "checkpoints") == [2, 6]
    best, latest = jml.load_run(path, checkpoint="best"), jml.load_run(path)
    assert best.states.num_updates.tolist() == [2, 2]
    assert latest.states.num_updates.tolist() == [6, 6]
    assert_same_bits(best.states, states[0])
    assert_same_bits(jml.load_run(path, checkpoint=2).states, best.states)
    np.testing.assert_array_equal(best.returns, latest.returns)
    jml.run("ippo", "toy/counter", **dict(RUN, out=tmp_path / "undisturbed"))
    assert rows(path) == rows(tmp_path / "undisturbed")
    assert main(["evaluate", str(path), "--checkpoint", "best", "--episodes", "2"]) == 0
    assert "checkpoint of update 2" in capsys.readouterr().out
    for name in ("7", "first", "1"):
        assert main(["evaluate", str(path), "--checkpoint", name]) == 2
        assert "allowed is one of latest, best, 2, 6" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"checkpoint is 'best' \(the run has no best_metric\)"):
        jml.load_run(tmp_path / "undisturbed", checkpoint="best")


def test_early_stopping_on_the_command_line(
    peak: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    command = (
        "train ippo --env toy/counter --hidden-sizes 4 --num-envs 4 --num-steps 4 --seeds 2 "
        f"--total-steps {updates(6)} --num-evaluations 6 --eval-episodes 4 --best-metric "
        "eval_return --early-stopping"
    ).split()
    assert main([*command, "patience=2", "min_delta=50", "--out", str(tmp_path / "run")]) == 0
    assert "(eval_return has not improved in 2 evaluations)" in capsys.readouterr().out
    result = jml.load_run(tmp_path / "run", checkpoint="best")
    assert result.steps[-1] == updates(4) and result.states.num_updates.tolist() == [2, 2]
    for words, message in {
        ("patience=0",): "patience is 0; allowed is a whole number",
        ("patient=1",): "field of early_stopping is 'patient'; .*nearest: patience",
        ("eval_return",): "early_stopping has 'eval_return'; allowed is name=value",
    }.items():
        assert main([*command, *words, "--out", str(tmp_path / "b")]) == 2
        assert not (tmp_path / "b").exists()
        error = capsys.readouterr().err
        assert re.search(message, error), error
