"""Loggers of whole runs: each reader reads back every row, also after an interruption."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from logger_readers import tensorboard_rows, wandb_rows
from tiny_runs import SIZES, config, updates

import jaxmarl_lite as jml
from jaxmarl_lite.report import loggers, run_dir
from jaxmarl_lite.report.tracking import RunInfo

RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("macpo"), total_steps=updates(3), num_evaluations=3
)

Rows = dict[tuple[int, int], dict[str, float]]


def finite(row: loggers.Row) -> dict[str, float]:
    return {k: v for k, v in row.items() if k not in loggers.INDEX and math.isfinite(v)}


def record_of(path: Path) -> Rows:
    """Seed and step -> finite metrics, as metrics.jsonl has them."""
    return {(row["seed"], row["step"]): finite(row) for row in run_dir.load(path).rows}


def csv_rows(path: Path) -> Rows:
    with (path / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    result = {
        (int(line["seed"]), int(line["step"])): {
            k: float(v) for k, v in line.items() if v and k not in loggers.INDEX
        }
        for line in lines
    }
    assert len(result) == len(lines)
    return result


def offline_rows(path: Path) -> Rows:
    """Rows of W&B's offline runs, of all sessions."""
    files = sorted((path / "wandb").glob("offline-run-*/*.wandb"))
    result: Rows = {}
    for file in files:
        for row in wandb_rows(file):
            key = int(file.stem.rpartition("-")[2]), row["_step"]
            assert key not in result, "logged twice"
            result[key] = {k: v for k, v in row.items() if k[0] != "_" and k != "update"}
    return result


def mlflow_rows(uri: str) -> Rows:
    from mlflow.tracking import MlflowClient

    client, result = MlflowClient(tracking_uri=uri), {}
    experiment = client.get_experiment_by_name("safe")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        assert run.data.params["config.hidden_sizes"] == "[4]" and run.info.status == "FINISHED"
        for name in run.data.metrics:
            for entry in client.get_metric_history(run.info.run_id, name):
                row = result.setdefault((int(run.data.tags["seed"]), entry.step), {})
                assert name not in row, "logged twice"
                row[name] = entry.value
    return {key: {k: v for k, v in row.items() if k != "update"} for key, row in result.items()}


class Cut:
    """A logger of the user that ends the process's run like a kill, before the checkpoint."""

    name = "cut"

    def __init__(self, update: int | None = None):
        self.update, self.rows, self.runs = update, [], []  # type: ignore[var-annotated]

    def start(self, run: RunInfo) -> None:
        self.runs.append(run)

    def write(self, rows: Sequence[loggers.Row]) -> None:
        self.rows += rows
        if rows[0]["update"] == self.update:
            raise KeyboardInterrupt

    def close(self) -> None:
        pass


def test_every_reader_reads_every_row_of_a_macpo_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    path, uri = tmp_path / "run", (tmp_path / "mlruns").as_uri()

    def all_loggers(*more: Any) -> list[Any]:
        return ["csv", "tensorboard", "wandb=p", jml.MLflowLogger("safe", uri), *more]

    cut = Cut(2)
    with pytest.raises(KeyboardInterrupt):
        jml.run("macpo", "toy/budget-two", out=path, loggers=all_loggers(cut), **RUN)
    assert len(offline_rows(path)) == 6, "logged beyond the checkpoint of update 1"
    again = Cut()
    jml.resume_run(path, loggers=all_loggers(again), quiet=True)
    expected = record_of(path)
    assert len(expected) == 8 and "eval_cost/agent_0/cost_0" in expected[0, updates(3)]
    timings = {"elapsed_seconds", "steps_per_second"}

    def without_timings(actual: Rows) -> Rows:
        return {
            key: {k: v for k, v in row.items() if k not in timings} for key, row in actual.items()
        }

    assert csv_rows(path) == expected
    # the rows of update 2 were logged by the first session, whose timings differ
    assert without_timings(offline_rows(path)) == without_timings(expected)
    assert without_timings(mlflow_rows(uri)) == without_timings(expected)
    shown = without_timings(tensorboard_shown(path / "tensorboard"))
    assert shown.keys() == expected.keys()
    for key, row in without_timings(expected).items():
        assert shown[key] == pytest.approx(row, rel=1e-6)
    assert cut.runs[0].id == again.runs[0].id and len(again.runs[0].rows) == 4
    assert [(row["update"], row["seed"]) for row in again.rows] == [(2, 0), (2, 1), (3, 0), (3, 1)]


def tensorboard_shown(folder: Path) -> Rows:
    """What TensorBoard shows of two sessions: of the first, the steps before the second."""
    first, second = sorted(folder.iterdir())
    both = []
    for i, file in enumerate((first, second)):
        (single := folder.parent / f"events_{i}").mkdir()
        (single / "events").write_bytes(file.read_bytes())
        both.append(tensorboard_rows(single))
    begun = min(step for _, step in both[1])
    return {key: row for key, row in both[0].items() if key[1] < begun} | both[1]


IPPO: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("ippo"), total_steps=updates(3), num_evaluations=3
)


class Failing(Cut):
    name = "mine"

    def write(self, rows: Sequence[loggers.Row]) -> None:
        if rows[0]["update"] == 1:
            raise RuntimeError("out of\nink")
        super().write(rows)


@pytest.mark.parametrize("as_errors", [False, True])
def test_a_logger_that_fails_is_named_once(
    as_errors: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, other = Failing(), Cut()
    settings = dict(IPPO, quiet=False, loggers=[failing, other, "csv"], out=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error" if as_errors else "always")
        jml.run("ippo", "toy/counter", **settings)
    message = "mine failed, and the run goes on without it: RuntimeError: out of ink"
    said = [str(x.message) for x in caught if x.category is run_dir.RunFolderWarning]
    assert said == ([] if as_errors else [message])
    assert capsys.readouterr().out.count(message) == as_errors
    assert len(failing.rows) == 2 and len(other.rows) == 8 == len(csv_rows(tmp_path))


def test_a_logger_that_cannot_start_is_left_out(tmp_path: Path) -> None:
    class Unreachable(Cut):
        def start(self, run: RunInfo) -> None:
            raise ConnectionError("no network")

    logger = Unreachable()
    with pytest.warns(run_dir.RunFolderWarning, match="cut failed.*no network"):
        jml.run("ippo", "toy/counter", loggers=[logger], **IPPO)
    assert not logger.rows
