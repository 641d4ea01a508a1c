from __future__ import annotations

import csv
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from logger_readers import events_of, tensorboard_rows

from jaxmarl_lite.report.tracking import (
    CSVLogger,
    MLflowLogger,
    RunInfo,
    TensorBoardLogger,
    WandbLogger,
    parse_loggers,
)


def some_rows(*updates: int) -> list[dict[str, Any]]:
    return [
        {"update": u, "step": 100 * u, "seed": seed, "return": u + seed / 10, "loss": math.nan}
        for u in updates
        for seed in range(2)
    ]


def info(folder: Path | None, **changes: Any) -> RunInfo:
    return RunInfo("abc", "liir", {"seeds": [0, 1], "config": {"lr": 0.5}}, folder, **changes)


def test_tensorboard_has_a_curve_per_seed(tmp_path: Path) -> None:
    logger = TensorBoardLogger()
    logger.start(info(tmp_path))
    logger.write(some_rows(1, 2))
    logger.close()
    logger.close()
    points = tensorboard_rows(tmp_path / "tensorboard")
    assert points[1, 200] == {"return": pytest.approx(2.1)} and len(points) == 4
    events = events_of(tmp_path / "tensorboard")
    texts = [
        v.tensor.string_val[0] for e in events for v in e.summary.value if v.HasField("tensor")
    ]
    assert b'"lr": 0.5' in texts[0]
    assert not any(e.HasField("session_log") for e in events)


def test_tensorboard_hides_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    logger = TensorBoardLogger()
    logger.start(info(tmp_path, resume_step=200))
    logger.close()
    events = events_of(tmp_path / "tensorboard")
    start = [e for e in events if e.HasField("session_log")]
    assert len(start) == 1 and start[0].step == 201
    assert start[0].session_log.status == start[0].session_log.START


def test_csv_grows_columns_and_begins_with_the_rows_of_the_record(tmp_path: Path) -> None:
    logger = CSVLogger()
    logger.start(info(tmp_path))
    logger.write(some_rows(0))
    more = [row | {"entropy,": 0.1} for row in some_rows(1)]
    logger.write(more)
    logger.write(some_rows(2))
    logger.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["0", "0", "100", "100", "200", "200"]
    assert [line["entropy,"] for line in lines] == ["", "", "0.1", "0.1", "", ""]
    assert {line["loss"] for line in lines} == {""} and lines[3]["return"] == "1.1"
    again = CSVLogger()
    again.start(info(tmp_path, rows=some_rows(0, 1), resume_step=100))
    again.write(some_rows(2))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [line["update"] for line in csv.DictReader(file)] == ["0", "0", "1", "1", "2", "2"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install jaxmarl-lite\[{name}\]"):
        parse_loggers([name], True)


class FakeWandb(types.ModuleType):
    """A W&B server that keeps what it receives, and resumes runs by their ids."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.history: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.finished: list[str] = []

    def init(self, **arguments: Any) -> Any:
        self.begun.append(arguments)
        name = arguments["id"]
        steps = [step for step, _ in self.history.get(name, [])]
        return types.SimpleNamespace(
            id=name,
            resumed=bool(steps),
            starting_step=max(steps, default=-1) + 1,
            log=lambda values, step: self.history.setdefault(name, []).append((step, values)),
            finish=lambda: self.finished.append(name),
        )


@pytest.mark.parametrize("folder", [True, False])
def test_wandb_continues_a_run_per_seed_without_doubled_rows(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", server)
    place = tmp_path if folder else None
    logger = WandbLogger("p")
    logger.start(info(place))
    logger.write(some_rows(0, 1))
    logger.write(some_rows(2))  # beyond the checkpoint
    logger.close()
    again = WandbLogger("p")
    again.start(info(place, rows=some_rows(0, 1), resume_step=100))
    again.write(some_rows(2))
    again.write(some_rows(3))
    assert server.finished == ["abc-seed-0", "abc-seed-1"]
    assert server.history["abc-seed-1"] == [
        (100 * u, {"update": u, "return": u + 0.1}) for u in range(4)
    ]
    assert {item["group"] for item in server.begun} == {"liir"}
    assert {item["project"] for item in server.begun} == {"p"}
    assert {item.get("dir") for item in server.begun} == {None if place is None else str(place)}


def test_rows_that_a_kill_kept_from_wandb_are_logged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", server)
    logger = WandbLogger()
    logger.start(info(tmp_path))
    logger.write(some_rows(0))
    again = WandbLogger()
    again.start(info(tmp_path, rows=some_rows(0, 1), resume_step=100))
    assert [step for step, _ in server.history["abc-seed-0"]] == [0, 100]


class Own:
    """A logger of a user."""

    def start(self, run: RunInfo) -> None:
        pass

    def write(self, rows: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Half:
    def write(self, rows: Any) -> None:
        pass


def test_loggers_are_names_objects_and_references(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("user_loggers")
    module.Own, module.own, module.Half = Own, Own(), Half
    monkeypatch.setitem(sys.modules, "user_loggers", module)
    mine = Own()
    parsed = parse_loggers(["csv", mine, "user_loggers:Own", "user_loggers:own"], True)
    assert isinstance(parsed[0], CSVLogger) and parsed[1] is mine and parsed[3] is module.own
    assert isinstance(parsed[2], Own)
    assert [type(x) for x in parse_loggers(None, True)] == [TensorBoardLogger]
    assert parse_loggers(None, False) == () == parse_loggers([], True)
    for entry, message in {
        "tensorbord": "loggers is 'tensorbord'; allowed is one of tensorboard,.*nearest: tensorb",
        "csv=x": "loggers is 'csv=x'; allowed is one of",
        "user_loggers:Half": "loggers is 'user_loggers:Half'; allowed is an object with the",
        "user_loggers:Non": "the module user_loggers has no Non",
        "wandb=a/b": "wandb is 'a/b'; allowed is a project's name",
        "wandb=lr:1": "wandb is 'lr:1'; allowed is a project's name",
        "wandb=": "wandb is ''; allowed is a project's name",
        f"wandb={'x' * 129}": "wandb is 'xxx.*; allowed is a project's name",
        "mlflow=": "mlflow is ''; allowed is a text",
        Own: "loggers is <class .*Own'>; allowed is an object",
        5: "loggers is 5; allowed is an object with the methods start",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_loggers([entry], True)
    with pytest.raises(ValueError, match=r"loggers is 'csv'; allowed is a list"):
        parse_loggers("csv", True)
    with pytest.raises(ValueError, match=r"allowed is each logger once"):
        parse_loggers(["csv", "csv"], True)


@pytest.mark.parametrize("entry", ["csv", "tensorboard", "mlflow"])
def test_some_loggers_need_a_folder(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=rf"loggers is '{entry}'; allowed is a logger that writes"):
        parse_loggers([entry], False)
    assert parse_loggers([MLflowLogger(tracking_uri="http://localhost:1")], False)
