"""Runs as data frames: the numbers of the metrics file, under its names."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from constrained_envs import Limited
from tiny_runs import Closed, config

import jaxmarl_lite as jml
from jaxmarl_lite.report import loggers, run_dir

SIZES: dict[str, Any] = dict(
    num_envs=4, num_steps=4, eval_episodes=4, total_steps=32, num_evaluations=2, quiet=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms in environments that no id leads to, one with costs; and a file."""
    folder = tmp_path_factory.mktemp("runs")
    for lr in (1e-3, 1e-2):
        run_config = config("ippo", lr=lr)
        jml.run("ippo", Closed(), config=run_config, seeds=(3, 1), out=folder / f"{lr}", **SIZES)
    env = Limited(((1.0, 2.5), 30.0))
    jml.run("mappo", env, config=config("mappo"), seeds=1, out=folder / "mappo", **SIZES)
    (folder / "notes.txt").write_text("a file is no run")
    return folder


def test_a_result_has_the_numbers_of_its_metrics_file(folder: Path) -> None:
    result = jml.load_run(folder / "mappo", env=Limited(((1.0, 2.5), 30.0)))
    frame = result.to_dataframe()
    rows = loggers.read_rows(folder / "mappo" / "metrics.jsonl")
    assert list(frame.columns[:5]) == ["algorithm", "env", "seed", "update", "step"]
    assert set(frame.columns[2:]) == {name for row in rows for name in row}
    assert "eval_cost/agent_1/cost_0" in frame and len(frame) == len(rows) == 3
    for name in frame.columns[2:]:
        expected = [row.get(name, np.nan) for row in rows]
        np.testing.assert_array_equal(frame[name].astype(float), expected, name)
    assert set(frame["algorithm"]) == {"mappo"} and set(frame["env"]) == {result.plan.env}
    assert result.costs is not None
    np.testing.assert_array_equal(frame["eval_cost/agent_1/cost_0"], result.costs[0, :, 1, 0])


def test_a_seed_that_was_not_evaluated_has_no_row(folder: Path, tmp_path: Path) -> None:
    result = jml.load_run(folder / "0.001", env=Closed())
    result.metrics.update({name: np.array(x) for name, x in result.metrics.items()})
    for values in result.metrics.values():
        values[1, -1] = np.nan
    frame = result.to_dataframe()
    assert frame.groupby("seed")["update"].max().to_dict() == {3: 2, 1: 1}


def test_runs_come_with_their_settings(folder: Path) -> None:
    frame = jml.load_runs(f"{folder}/*")
    assert len(frame) == 2 * 2 * 3 + 3  # runs x seeds x evaluations
    assert frame.groupby("run")["config.lr"].first().to_dict()[str(folder / "0.01")] == 1e-2
    assert list(frame.columns[:6]) == ["run", "algorithm", "env", "seed", "update", "step"]
    names = [name for name in frame.columns if name.startswith(("config.", "num_", "env_args"))]
    assert list(frame.columns[-len(names) :]) != [] and "config.cost_limit" not in frame
    first_setting = list(frame.columns).index(names[0])
    metrics = set(frame.columns[6:first_setting])
    assert {"eval_return", "eval_cost/agent_0/cost_0"} <= metrics  # of the last run alone
    assert not any(name.startswith("config.") for name in metrics)
    ippo, mappo = frame[frame["algorithm"] == "ippo"], frame[frame["algorithm"] == "mappo"]
    assert set(ippo["config.hidden_sizes"]) == {(4,)}  # a tuple, which can be grouped by
    assert ippo["eval_cost/agent_0/cost_0"].isna().all()
    assert not mappo["eval_cost/agent_0/cost_0"].isna().all()
    assert list(dict.fromkeys(ippo["seed"])) == [3, 1]  # in the order of the run
    differing = frame.loc[:, frame.nunique(dropna=False) > 1]
    assert "config.lr" in differing and "num_envs" not in differing


def test_paths_may_be_named_one_by_one_and_twice(folder: Path) -> None:
    one = jml.load_runs(folder / "0.001")
    two = jml.load_runs([folder / "0.001", str(folder / "mappo"), f"{folder}/0.00*"])
    assert set(two["run"]) == {str(folder / "0.001"), str(folder / "mappo")}
    columns = one.dropna(axis=1).columns
    pandas.testing.assert_frame_equal(
        one[columns], two[two["algorithm"] == "ippo"][columns], check_dtype=False
    )


def test_what_is_no_run_is_refused_and_left_out_of_patterns(folder: Path, tmp_path: Path) -> None:
    for paths, message in (
        (folder, f"holds no run: it has no config.json; the runs in it are {folder / '*'}"),
        ([folder / "0.01", folder / "none"], "none is no folder"),
        (f"{folder}/z*", "allowed are folders of runs, or a pattern that matches some"),
        ([], "no run is in an empty list"),
    ):
        with pytest.raises(run_dir.RunFolderError, match=re.escape(message)):
            jml.load_runs(paths)
    with pytest.raises(ValueError, match=re.escape("paths is 3; allowed is a pattern")):
        jml.load_runs(3)  # type: ignore[arg-type]
    for name in ("sound", "damaged", "empty"):
        (tmp_path / name).mkdir()
    for source in (folder / "0.01").iterdir():
        if source.is_file():
            (tmp_path / "sound" / source.name).write_bytes(source.read_bytes())
    stored = json.loads((folder / "0.01" / "config.json").read_text())
    (tmp_path / "damaged" / "config.json").write_text(json.dumps(stored | {"num_envs": 0}))
    with pytest.warns(run_dir.RunFolderWarning, match="damaged.*num_envs is 0.*empty holds no run"):
        frame = jml.load_runs(f"{tmp_path}/*")
    assert set(frame["run"]) == {str(tmp_path / "sound")}
    with pytest.raises(ValueError, match="num_envs is 0"):
        jml.load_runs(tmp_path / "damaged")


def test_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=re.escape("pip install jaxmarl-lite[dataframe]")):
        jml.load_runs(folder / "0.01")
