import dataclasses
import json
import math

import numpy as np
import pytest

from jaxmarl_lite.report import run_dir
from jaxmarl_lite.report.loggers import JsonlLogger
from jaxmarl_lite.report.run_dir import RunFolderError


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    limit: float = math.inf
    sizes: tuple[int, ...] = (64, 64)
    name: str | None = None


def test_a_run_goes_in_and_comes_out(tmp_path):
    folder = run_dir.create(tmp_path / "a" / "run", Config())
    logger = JsonlLogger(folder.metrics)
    for update in (1, 2, 3):
        for seed in (4, 2):
            logger.write(update, 10 * update, seed, {"return": update + seed, "is_finite": 1.0})
        logger.write(update, 10 * update, 2, {"eval_return": float(update)})
    logger.close()
    run = run_dir.load(folder.path)
    assert run.config == {"lr": 0.1, "limit": math.inf, "sizes": [64, 64], "name": None}
    assert run.names() == ["return", "is_finite", "eval_return"]
    result = run.series("return")
    assert (
        result.seeds == (2, 4)
        and result.updates.tolist() == [1, 2, 3]
        and result.steps.tolist() == [10, 20, 30]
    )
    assert np.array_equal(result.values, [[3, 4, 5], [5, 6, 7]])
    assert run.series("eval_return").values.shape == (1, 3)
    assert run_dir.read_config(folder.path) == run.config
    with pytest.raises(KeyError, match="'retrun'.*'is_finite', 'return'"):
        run.series("retrun")


def test_missing_entries_are_nan_and_later_rows_count():
    rows = [
        {"update": 1, "step": 5, "seed": 0, "x": 1.0},
        {"update": 2, "step": 10, "seed": 1, "x": 2.0},
        {"update": 1, "step": 5, "seed": 0, "x": 7.0},
    ]
    assert np.array_equal(
        run_dir.series(rows, "x").values, [[7, np.nan], [np.nan, 2]], equal_nan=True
    )


def test_versions_say_what_ran(tmp_path):
    folder = run_dir.create(tmp_path / "run", {})
    result = json.loads(folder.versions.read_text())
    assert {"jax", "flax", "optax", "numpy", "jaxmarl-lite"} <= set(result["packages"])
    assert (
        result["device_count"] >= 1 and result["device_kind"] and result["python"].startswith("3.")
    )


@pytest.mark.parametrize("existing", ["config.json", "metrics.jsonl", "checkpoints"])
def test_an_existing_run_is_never_overwritten(tmp_path, existing):
    folder = run_dir.create(tmp_path / "run", {"seed": 1})
    previous = folder.config.read_bytes()
    if existing != "config.json":
        folder.config.unlink()
        (folder.path / existing).mkdir() if existing == "checkpoints" else (
            folder.path / existing
        ).write_text("")
    with pytest.raises(
        RunFolderError, match=f"{folder.path} already holds a run.*--resume {folder.path}.*--out"
    ):
        run_dir.create(tmp_path / "run", {"seed": 2})
    assert existing != "config.json" or folder.config.read_bytes() == previous


def test_a_folder_with_other_things_may_hold_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run_dir.create(tmp_path, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="nowhere is no folder"):
        run_dir.load(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=f"{tmp_path} holds no run"):
        run_dir.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file"):
        run_dir.create(tmp_path / "file", {})


@pytest.mark.parametrize("content", ['{"lr": 0.', "[1, 2]", ""])
def test_a_damaged_config_is_named(tmp_path, content):
    folder = run_dir.create(tmp_path / "run", {})
    folder.config.write_text(content)
    with pytest.raises(RunFolderError, match="config.json is damaged"):
        run_dir.load(folder.path)


def test_damaged_metrics_are_named(tmp_path):
    folder = run_dir.create(tmp_path / "run", {})
    folder.metrics.write_text("rubbish\n")
    with pytest.raises(RunFolderError, match="metrics.jsonl, line 1"):
        run_dir.load(folder.path)


def test_a_config_that_is_no_json_is_refused_before_the_folder_is_taken(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be kept as JSON"):
        run_dir.create(tmp_path / "run", {"f": print})
    assert not run_dir.RunFolder(tmp_path / "run").exists()
