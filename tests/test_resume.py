"""A run that was cut off goes on as if it had not been."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_runs import SIZES, Closed, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import runner
from jaxmarl_lite.report import checkpoint, run_dir

RUN = dict(SIZES, seeds=2, config=config("ippo"))


@pytest.mark.ci_cases("macpo", "liir")
@pytest.mark.parametrize("algorithm", jml.ALGORITHMS)
def test_two_and_two_updates_are_four(algorithm: str, tmp_path: Path) -> None:
    recurrent = (
        algorithm == "liir"
    )  # the one with hidden states of every kind: they compile for long
    sizes = {"recurrent": True, "rnn_hidden_size": 3} if recurrent else {"recurrent": False}
    settings = config(algorithm, **sizes, normalize_observations=True)
    same = dict(SIZES, seeds=2, config=settings)
    env = "toy/budget-two" if hasattr(settings, "cost_limit") else "toy/memory"
    uninterrupted = jml.run(
        algorithm, env, total_steps=updates(4), num_evaluations=4, out=tmp_path / "a", **same
    )
    jml.run(algorithm, env, total_steps=updates(2), num_evaluations=2, out=tmp_path / "b", **same)
    parts = jml.resume_run(tmp_path / "b", total_steps=updates(4), quiet=True)
    assert_same_bits(parts.states, uninterrupted.states)
    assert_same_bits(jml.load_run(tmp_path / "b").states, uninterrupted.states)
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    assert run_dir.read_config(tmp_path / "b") == run_dir.read_config(tmp_path / "a")


def start(path: Path, steps: int = updates(4)) -> None:
    jml.run("ippo", "toy/counter", total_steps=steps, num_evaluations=2, out=path, **RUN)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    start(tmp_path / "run", updates(2))
    previous = rows(tmp_path / "run")
    with run_dir.RunFolder(tmp_path / "run").lock_for_writing():
        with pytest.raises(
            run_dir.RunFolderError, match="is being trained by another process; allowed is one at a"
        ):
            jml.resume_run(tmp_path / "run", total_steps=updates(4), quiet=True)
        with pytest.raises(run_dir.RunFolderError, match="is being trained by another process"):
            jml.run(
                "ippo",
                "toy/counter",
                total_steps=updates(4),
                num_evaluations=2,
                resume=tmp_path / "run",
                **RUN,
            )
    assert rows(tmp_path / "run") == previous and run_dir.read_config(tmp_path / "run")[
        "total_steps"
    ] == updates(2)
    assert len(jml.resume_run(tmp_path / "run", total_steps=updates(4), quiet=True).steps) == 5


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS])
def test_where_there_are_no_locks_one_trains_without(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ValueError, match="from training") as caught,
        run_dir.RunFolder(tmp_path).lock_for_writing(),
    ):
        raise ValueError("from training")
    assert caught.value.__context__ is None


def test_rows_behind_the_checkpoint_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path / "whole")
    save = checkpoint.save
    with monkeypatch.context() as patch:

        def fail(folder: Path, step: int, *rest: object) -> Path:
            if step == 4:
                raise KeyboardInterrupt
            return save(folder, step, *rest)  # type: ignore[arg-type]

        patch.setattr(runner.checkpoint, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut")
    assert (
        len(rows(tmp_path / "cut")) == 6
        and checkpoint.latest(tmp_path / "cut" / "checkpoints") == 2
    )
    jml.resume_run(tmp_path / "cut", quiet=True)
    assert_same_bits(jml.load_run(tmp_path / "cut").states, jml.load_run(tmp_path / "whole").states)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_before_the_first_checkpoint_a_run_begins_anew(tmp_path: Path) -> None:
    start(tmp_path / "whole")
    run_dir.create(tmp_path / "cut", run_dir.read_config(tmp_path / "whole"))
    (tmp_path / "cut" / "metrics.jsonl").write_text(
        '{"update": 0, "step": 0, "seed": 0, "eval_return": 9}\n{"upd'
    )
    jml.resume_run(tmp_path / "cut", quiet=True)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_damaged_newest_checkpoint_costs_only_its_updates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "run")
    uninterrupted = jml.load_run(tmp_path / "run")
    bits = uninterrupted.states
    newest = tmp_path / "run" / "checkpoints" / "step_000000000004" / "manifest.json"
    newest.write_text("{")
    with pytest.warns(
        run_dir.RunFolderWarning, match="manifest.json cannot be read.*of update 2 is read instead"
    ):
        previous = jml.load_run(tmp_path / "run")
        assert (
            previous.states.num_updates.tolist() == [2, 2]
            and previous.steps.tolist() == uninterrupted.steps.tolist()
        )
        assert previous.policy(0) is not None
    plan_now = experiment_config.read(tmp_path / "run")
    assert plan_now.num_updates == 4
    jml.resume_run(tmp_path / "run", total_steps=updates(6))
    assert "a newer checkpoint is damaged" in capsys.readouterr().out
    jml.run(
        "ippo",
        "toy/counter",
        total_steps=updates(6),
        num_evaluations=3,
        out=tmp_path / "longer",
        **RUN,
    )
    assert_same_bits(
        jml.load_run(tmp_path / "run").states, jml.load_run(tmp_path / "longer").states
    )
    assert_same_bits(bits.num_updates + 2, jml.load_run(tmp_path / "run").states.num_updates)


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path)
    (tmp_path / "curve.png").unlink()
    loud = {**RUN, "quiet": False}
    result = jml.run(
        "ippo", "toy/counter", total_steps=updates(4), num_evaluations=2, resume=tmp_path, **loud
    )
    assert "is finished" in capsys.readouterr().out
    assert (
        result.steps.tolist() == [0, updates(2), updates(4)] and (tmp_path / "curve.png").exists()
    )


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("num_envs", {"num_envs": 8}),
        ("seeds", {"seeds": 3}),
        ("config.lr", {"config": config("ippo", lr=0.1)}),
        ("config.hidden_sizes", {"config": config("ippo", hidden_sizes=(5,))}),
        ("env", {"env": "toy/memory"}),
        ("algorithm", {"algorithm": "mappo", "config": None}),
        ("greedy", {"greedy": True}),
        ("stagger_episodes", {"stagger_episodes": True}),
    ],
)
def test_what_a_resumed_run_may_not_change(field: str, change: dict, tmp_path: Path) -> None:
    options = {name: value for name, value in RUN.items() if name != "quiet"}
    stored, _ = experiment_config.make_run_config(
        "ippo", "toy/counter", total_steps=64, num_evaluations=2, **options
    )
    run_dir.create(tmp_path, stored.to_dict())
    arguments = {"algorithm": "ippo", "env": "toy/counter", "total_steps": 64, **RUN, **change}
    with pytest.raises(ValueError, match=rf"^{field} is "):
        jml.run(**arguments, resume=tmp_path)


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(run_dir.RunFolderError, match="no folder"):
        jml.resume_run(tmp_path / "none")
    with pytest.raises(run_dir.RunFolderError, match="holds no run"):
        jml.resume_run(tmp_path)
    with pytest.raises(ValueError, match="out is .* and resume is"):
        stored, _ = experiment_config.make_run_config(
            "ippo", "toy/counter", total_steps=64, num_evaluations=2, eval_episodes=4
        )
        run_dir.create(tmp_path, stored.to_dict())
        jml.run("ippo", "toy/counter", out=tmp_path / "b", resume=tmp_path)


def test_an_edited_config_is_noticed(tmp_path: Path) -> None:
    """It would count the steps done so far wrongly."""
    jml.run("ippo", "toy/counter", total_steps=updates(1), num_evaluations=1, out=tmp_path, **RUN)
    path = tmp_path / "config.json"
    path.write_text(
        path.read_text().replace(f'"num_steps": {SIZES["num_steps"]}', '"num_steps": 8')
    )
    with pytest.raises(ValueError, match="num_steps is 8, but the run in .*checkpoints has"):
        jml.resume_run(tmp_path, total_steps=updates(9), quiet=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    jml.run("ippo", "toy/counter", total_steps=updates(4), num_evaluations=4, out=path, **RUN)
    return path


@pytest.fixture(scope="module")
def half(uninterrupted: Path) -> Path:
    """The run as a kill after update 2 leaves it: a checkpoint of update 1 as well, and rows behind
    the last one."""
    path = uninterrupted.parent / "half"
    save = checkpoint.save

    def cut(folder: Path, step: int, *rest: Any) -> Path:
        if step == 3:
            raise KeyboardInterrupt
        return save(folder, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.checkpoint, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            jml.run(
                "ippo", "toy/counter", total_steps=updates(4), num_evaluations=4, out=path, **RUN
            )
    assert checkpoint.steps(path / "checkpoints") == [1, 2] and len(rows(path)) == 8
    return path


def lines(path: Path) -> list[str]:
    return (path / "metrics.jsonl").read_text().splitlines(keepends=True)


HARMS: dict[str, Callable[[list[str]], list[str]]] = {
    "emptied": lambda x: [],
    "cut": lambda x: x[:3],
    "cut in a row": lambda x: [*x[:3], x[3][:40]],
    "the last line break gone": lambda x: [*x[:5], x[5][:-1]],
    "a digit changed": lambda x: [
        x[0],
        x[1].replace('"eval_return": 0.', '"eval_return": 1.'),
        *x[2:],
    ],
    "a bit flipped": lambda x: [x[0], x[1].replace("eval_return", "eval_sevurn"), *x[2:]],
    "twice": lambda x: x * 2,
    "shuffled": lambda x: x[::-1],
    "a row gone": lambda x: [*x[:2], *x[3:]],
    "of other seeds": lambda x: [line.replace('"seed": ', '"seed": 5') for line in x],
    "of other steps": lambda x: [line.replace('"step": ', '"step": 1') for line in x],
    "rubbish before": lambda x: ["rubbish\n", *x],
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_rows_are_restored_from_their_copy(
    harm: str, uninterrupted: Path, half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    (run / "metrics.jsonl").write_text("".join(HARMS[harm](lines(run))))
    if harm == "twice":  # which leaves the rows up to the checkpoint as they were
        jml.resume_run(run, quiet=True)
    else:
        with pytest.warns(
            run_dir.RunFolderWarning, match="has changed since the checkpoint of .* 2; its copy is"
        ):
            assert len(jml.load_run(run).steps) == 4
        with pytest.warns(
            run_dir.RunFolderWarning, match=r"had changed and was restored from its copy \(6 rows\)"
        ):
            jml.resume_run(run, quiet=True)
    assert rows(run) == rows(uninterrupted)
    assert_same_bits(jml.load_run(run).states, jml.load_run(uninterrupted).states)


@pytest.mark.parametrize(
    "tail",
    [
        '{"update": 1e400, "step": 0, "seed": 0}',
        '{"update": 3, "step": 48, "seed": 7, "eval_return": 1.0, "is_finite": 1.0}',
        '{"update": 3, "step": 47, "seed": 0, "eval_return": 1.0, "is_finite": 1.0}',
        '{"update": 2, "step": 32, "seed": 0, "eval_return": 1.0, "is_finite": 1.0}',
        '{"update": 10000000000000000000000000, "step": 0, "seed": 0, "eval_return": 1.0, '
        '"is_finite": 1.0}',
        '{"update": 3, "step": 48, "seed": 0, "eval_return": 1.0, "is_finite": 1.0, '
        '"x/agent_1000000000": 1.0}',
        '{"update": 3, "step": 48, "seed": 0, "eval_return": 1.0, "is_finite": 1.0, "a/b": 1.0}',
        '{"update": 3, "step": 48, "seed": 0, "eval_return": 1.0, "is_finite": 1.0, '
        '"\\u001b[31mred": 1.0}',
        '{"update": 3, "step": 48, "seed": 0, "eval_return": [1.0], "is_finite": 1.0}',
        '{"update": 3, "step": 48, "seed": 0}',
        "[" * 100_000,
    ],
)
def test_rows_that_no_run_wrote_are_named_and_a_resumed_run_drops_them(
    tail: str, uninterrupted: Path, half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    (run / "metrics.jsonl").write_text("".join(lines(run)[:6]) + tail + "\n")
    with pytest.raises(run_dir.RunFolderError, match="metrics.jsonl.*--resume") as caught:
        jml.load_run(run)
    assert str(caught.value).isprintable()
    jml.resume_run(run, quiet=True)
    assert rows(run) == rows(uninterrupted)


def test_where_the_copy_is_damaged_too_what_can_be_read_is_kept_and_the_rest_said(
    half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    subset = lines(run)
    (run / "metrics.jsonl").write_text("".join([subset[0], "rubbish\n", *subset[3:]]))
    (run / "checkpoints" / "metrics.jsonl").write_text(subset[2])
    with pytest.warns(
        run_dir.RunFolderWarning, match="and its copy, .*: 5 of 6 rows could be read and are kept"
    ):
        assert jml.resume_run(run, quiet=True).steps.tolist() == [0, 16, 32, 48, 64]
    again = jml.load_run(run)  # and from here on the rows are what the checkpoints remember
    assert np.isnan(again.returns).sum() == 1


def test_a_damaged_copy_is_made_anew(uninterrupted: Path, half: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    (run / "checkpoints" / "metrics.jsonl").unlink()
    jml.resume_run(run, quiet=True)
    assert rows(run) == rows(uninterrupted)
    assert (run / "checkpoints" / "metrics.jsonl").read_bytes() == (
        run / "metrics.jsonl"
    ).read_bytes()


def test_a_finished_run_gets_its_rows_back(uninterrupted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (run / "metrics.jsonl").unlink()
    with pytest.warns(run_dir.RunFolderWarning, match=r"restored from its copy \(10 rows\)"):
        assert len(jml.resume_run(run, quiet=True).steps) == 5
    assert (run / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


def test_rows_without_a_checkpoint_are_kept_when_training_begins_anew(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.warns(
        run_dir.RunFolderWarning, match="has no checkpoint: .* kept in metrics.old.jsonl"
    ):
        jml.resume_run(run, quiet=True)
    assert rows(run) == rows(uninterrupted)
    assert (run / "metrics.old.jsonl").read_bytes() == (
        uninterrupted / "metrics.jsonl"
    ).read_bytes()


def test_a_prolonged_run_does_not_say_that_rows_are_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its evaluations are at other updates than those of a run that was as long from the
    beginning."""
    loud = {**RUN, "quiet": False}
    jml.run("ippo", "toy/counter", total_steps=updates(5), num_evaluations=2, out=tmp_path, **loud)
    jml.resume_run(tmp_path, total_steps=updates(8))
    assert "rows" not in capsys.readouterr().out and len(rows(tmp_path)) == 2 * 4


def test_an_older_checkpoint_under_the_newest_name_is_passed_over(
    uninterrupted: Path, half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    older, newer = (run / "checkpoints" / f"step_{step:012d}" for step in (1, 2))
    shutil.rmtree(newer)
    shutil.copytree(older, newer)
    jml.resume_run(run, quiet=True)
    assert rows(run) == rows(uninterrupted)
    assert_same_bits(jml.load_run(run).states, jml.load_run(uninterrupted).states)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "metrics.jsonl",
        "random_policy.json",
        "versions.json",
        "spec.json",
        "checkpoints",
    ],
)
def test_odd_things_in_a_run_are_named_by_whatever_reads_it(
    name: str, half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    if name == "checkpoints":
        shutil.move(run / name, tmp_path / "elsewhere")
        (run / name).symlink_to(tmp_path / "elsewhere")
    else:
        (run / name).unlink()
        os.mkfifo(run / name) if name == "metrics.jsonl" else (run / name).mkdir()
    for read in (jml.load_run, jml.resume_run, run_dir.load):
        with pytest.raises(run_dir.RunFolderError, match=f"{run / name} is .*move it"):
            read(run)


@pytest.mark.parametrize("name", ["curve.png", "marl_eval.json", ".lock", "tensorboard"])
def test_odd_things_where_a_run_writes_are_named_before_it_does(
    name: str, half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    if name == "tensorboard":
        shutil.rmtree(run / name)
        (run / name).symlink_to(tmp_path)
    else:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
    previous = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(run_dir.RunFolderError, match=f"{run / name} is .*move it"):
        jml.resume_run(run, quiet=True)
    assert (run / "metrics.jsonl").read_bytes() == previous
    jml.load_run(run)


def test_what_a_run_can_do_without_is_made_anew(
    uninterrupted: Path, half: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    (run / "random_policy.json").write_text('{"eval_return": [1.0, "x"]}')
    (run / "versions.json").write_text("{")
    with pytest.warns(run_dir.RunFolderWarning, match="versions.json is damaged"):
        jml.resume_run(run, quiet=True)
    assert (run / "random_policy.json").read_bytes() == (
        uninterrupted / "random_policy.json"
    ).read_bytes()
    assert run_dir.load(run).versions["python"] == run_dir.load(uninterrupted).versions["python"]


def test_a_checkpoint_of_another_run_is_not_loaded(uninterrupted: Path, tmp_path: Path) -> None:
    other = {**RUN, "seeds": (5, 7)}
    jml.run(
        "ippo",
        "toy/counter",
        total_steps=updates(4),
        num_evaluations=4,
        out=tmp_path / "other",
        **other,
    )
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", run / "checkpoints")
    shutil.copy(run / "metrics.jsonl", run / "checkpoints" / "metrics.jsonl")
    for read in (jml.load_run, jml.resume_run):
        with (
            pytest.warns() if read is jml.load_run else contextlib.nullcontext(),
            pytest.raises(ValueError, match=r"seeds is \(0, 1\), but the run in .* has \(5, 7\)"),
        ):
            read(run)


@pytest.mark.parametrize("shard_over", ["seeds", "envs"])
def test_a_run_of_more_devices_than_there_are_is_loaded_on_one(
    shard_over: str, uninterrupted: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    content = run_dir.read_config(run) | {
        "devices": 2 * jax.device_count(),
        "shard_over": shard_over,
    }
    (run / "config.json").write_text(json.dumps(content))
    result = jml.load_run(run)
    assert_same_bits(result.states, jml.load_run(uninterrupted).states)
    assert result.policy(1) is not None and result.episode(1).length > 0


def test_other_versions_are_said_and_both_are_kept(half: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    path = run / "versions.json"
    content = json.loads(path.read_text())
    content["packages"]["jax"], content["python"], content["device_kind"] = "0.1", "2.7.1", "abacus"
    path.write_text(json.dumps(content))
    with pytest.warns(
        run_dir.RunFolderWarning, match=r"jax 0\.1 -> .*python 2\.7\.1 -> .*device_kind abacus -> "
    ):
        jml.resume_run(run, quiet=True)
    current = json.loads(path.read_text())
    assert (
        current["earlier"] == [{**content, "until_update": 2}]
        and current["packages"]["jax"] != "0.1"
    )
    jml.resume_run(run, total_steps=updates(5), quiet=True)
    assert json.loads(path.read_text()) == current


@pytest.mark.parametrize("harm", ["moved", "deleted"])
def test_a_folder_that_goes_away_ends_the_run(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, evaluate = tmp_path / "run", runner.Runner._evaluate

    def disturbed(self: runner.Runner) -> None:
        if self.update == 2:
            shutil.move(path, tmp_path / "moved") if harm == "moved" else shutil.rmtree(path)
        evaluate(self)

    monkeypatch.setattr(runner.Runner, "_evaluate", disturbed)
    with pytest.raises(
        run_dir.RunFolderError, match=f"{path} was moved or deleted while the run trained in it"
    ):
        jml.run("ippo", "toy/counter", total_steps=updates(4), num_evaluations=4, out=path, **RUN)
    assert not path.exists()
    if harm == "moved":
        monkeypatch.undo()
        assert len(jml.resume_run(tmp_path / "moved", quiet=True).steps) == 5


def test_a_config_that_is_deleted_while_a_run_trains_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, evaluate = tmp_path / "run", runner.Runner._evaluate

    def disturbed(self: runner.Runner) -> None:
        if self.update == 2:
            (path / "config.json").unlink()
        evaluate(self)

    monkeypatch.setattr(runner.Runner, "_evaluate", disturbed)
    jml.run("ippo", "toy/counter", total_steps=updates(4), num_evaluations=4, out=path, **RUN)
    assert len(jml.resume_run(path, quiet=True).steps) == 5


@pytest.mark.parametrize(
    "field, value", [("num_evaluations", 5), ("eval_episodes", 7), ("seeds", 9)]
)
def test_what_a_resumed_run_is_given_is_obeyed_or_refused(
    uninterrupted: Path, tmp_path: Path, field: str, value: int
) -> None:
    path = shutil.copytree(uninterrupted, tmp_path / "run")
    same = {
        name: x
        for name, x in RUN.items()
        if name not in ("num_evaluations", "eval_episodes", "seeds")
    }
    with pytest.raises(
        ValueError,
        match=f"{field} is .*, but the run in .* has .*; allowed on resuming is the same",
    ):
        jml.run("ippo", "toy/counter", resume=path, **(same | {field: value}))
    jml.run("ippo", "toy/counter", resume=path, **same)


def test_rows_that_are_deleted_while_a_run_trains_come_back(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, evaluate = tmp_path / "run", runner.Runner._evaluate

    def disturbed(self: runner.Runner) -> None:
        if self.update == 2:
            (path / "metrics.jsonl").unlink()
        if self.update == 3:
            shutil.rmtree(path / "checkpoints")
        evaluate(self)

    monkeypatch.setattr(runner.Runner, "_evaluate", disturbed)
    jml.run("ippo", "toy/counter", total_steps=updates(4), num_evaluations=4, out=path, **RUN)
    assert rows(path) == rows(uninterrupted) and len(jml.load_run(path).steps) == 5


def test_a_start_that_is_refused_leaves_the_other_run_alone(tmp_path: Path) -> None:
    """Both may have looked before either wrote: the folder is locked first."""
    path = tmp_path / "run"
    path.mkdir()
    with run_dir.RunFolder(path).lock_for_writing():
        with pytest.raises(run_dir.RunFolderError, match="is being trained by another process"):
            start(path)
        assert [item.name for item in path.iterdir()] == [".lock"]


def test_a_run_in_an_object_needs_it_again(tmp_path: Path) -> None:
    env = Closed()
    jml.run("ippo", env, total_steps=updates(1), num_evaluations=1, out=tmp_path, **RUN)
    with pytest.raises(ValueError, match="test/closed, as an object; give it again as env"):
        jml.resume_run(tmp_path)
    assert jml.resume_run(tmp_path, env=env, total_steps=updates(2), quiet=True).steps.tolist() == [
        0,
        16,
        32,
    ]


def test_a_prolonged_plan_keeps_the_distance_of_its_evaluations() -> None:
    sizes = dict(eval_episodes=1, num_envs=2, num_steps=5)
    short, _ = experiment_config.make_run_config(
        "ippo", "toy/counter", total_steps=100, num_evaluations=5, **sizes
    )
    assert short.evaluation_updates == (0, 2, 4, 6, 8, 10)
    assert experiment_config.extend(short, 160).evaluation_updates == (
        0,
        2,
        4,
        6,
        8,
        10,
        12,
        14,
        16,
    )
    assert experiment_config.extend(short, 100) == short
    with pytest.raises(ValueError, match="total_steps is 50; allowed is 100, as planned, or more"):
        experiment_config.extend(short, 50)
    assert dataclasses.replace(short, num_evaluations=50).evaluation_updates == tuple(range(11))


def test_a_run_can_be_prolonged_to_the_number_of_steps_that_is_the_default(tmp_path, monkeypatch):
    jml.run(
        "ippo",
        "toy/counter",
        total_steps=updates(1),
        num_evaluations=1,
        out=tmp_path / "run",
        **RUN,
    )
    monkeypatch.setattr(sys.modules["jaxmarl_lite.experiment.api"], "_train", lambda plan, *_: plan)
    longer = jml.run(
        "ippo",
        "toy/counter",
        resume=tmp_path / "run",
        total_steps=1_000_000,
        num_evaluations=1,
        **RUN,
    )
    assert longer.total_steps == 1_000_000
