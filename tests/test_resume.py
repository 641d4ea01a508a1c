"""A run that was cut off goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
from pathlib import Path

import pytest
from small_runs import SIZES, Closed, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.report import checkpoint, runfolder
from jaxmarl_lite.running import loop, plan

RUN = dict(SIZES, seeds=2, config=config("ippo"))


@pytest.mark.parametrize("algorithm", jml.ALGORITHMS)
def test_two_and_two_updates_are_four(algorithm: str, tmp_path: Path) -> None:
    memory = "gru" if algorithm == "liir" else "none"  # the one with memories of every kind: they compile for long
    sizes = {"memory": "gru", "memory_size": 3} if memory == "gru" else {"memory": "none"}
    settings = config(algorithm, **sizes, normalise_view=True)
    same = dict(SIZES, seeds=2, config=settings)
    env = "toy/budget-two" if hasattr(settings, "cost_limit") else "toy/memory"
    whole = jml.run(algorithm, env, total_steps=updates(4), evaluations=4, out=tmp_path / "a", **same)
    jml.run(algorithm, env, total_steps=updates(2), evaluations=2, out=tmp_path / "b", **same)
    parts = jml.resume_run(tmp_path / "b", total_steps=updates(4), quiet=True)
    assert_same_bits(parts.states, whole.states)
    assert_same_bits(jml.load_run(tmp_path / "b").states, whole.states)
    assert rows(tmp_path / "b") == rows(tmp_path / "a")
    assert runfolder.read_config(tmp_path / "b") == runfolder.read_config(tmp_path / "a")


def start(path: Path, steps: int = updates(4)) -> None:
    jml.run("ippo", "toy/counter", total_steps=steps, evaluations=2, out=path, **RUN)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    start(tmp_path / "run", updates(2))
    before = rows(tmp_path / "run")
    with runfolder.RunFolder(tmp_path / "run").held():
        with pytest.raises(runfolder.RunFolderError, match="is being trained by another process; allowed is one at a"):
            jml.resume_run(tmp_path / "run", total_steps=updates(4), quiet=True)
        with pytest.raises(runfolder.RunFolderError, match="is being trained by another process"):
            jml.run("ippo", "toy/counter", total_steps=updates(4), evaluations=2, resume=tmp_path / "run", **RUN)
    assert rows(tmp_path / "run") == before and runfolder.read_config(tmp_path / "run")["total_steps"] == updates(2)
    assert len(jml.resume_run(tmp_path / "run", total_steps=updates(4), quiet=True).steps) == 5


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS])
def test_where_there_are_no_locks_one_trains_without(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError, match="from training") as caught:
        with runfolder.RunFolder(tmp_path).held():
            raise ValueError("from training")
    assert caught.value.__context__ is None


def test_rows_behind_the_checkpoint_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path / "whole")
    save = checkpoint.save
    with monkeypatch.context() as patch:

        def fail(folder: Path, step: int, *rest: object) -> Path:
            if step == 4:
                raise KeyboardInterrupt
            return save(folder, step, *rest)  # type: ignore[arg-type]

        patch.setattr(loop.checkpoint, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut")
    assert len(rows(tmp_path / "cut")) == 6 and checkpoint.latest(tmp_path / "cut" / "checkpoints") == 2
    jml.resume_run(tmp_path / "cut", quiet=True)
    assert_same_bits(jml.load_run(tmp_path / "cut").states, jml.load_run(tmp_path / "whole").states)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_before_the_first_checkpoint_a_run_begins_anew(tmp_path: Path) -> None:
    start(tmp_path / "whole")
    runfolder.create(tmp_path / "cut", runfolder.read_config(tmp_path / "whole"))
    (tmp_path / "cut" / "metrics.jsonl").write_text('{"update": 0, "step": 0, "seed": 0, "eval_return": 9}\n{"upd')
    jml.resume_run(tmp_path / "cut", quiet=True)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_damaged_newest_checkpoint_costs_only_its_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path / "run")
    whole = jml.load_run(tmp_path / "run")
    bits = whole.states
    newest = tmp_path / "run" / "checkpoints" / "step_000000000004" / "manifest.json"
    newest.write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        _ = jml.load_run(tmp_path / "run").states
    plan_now = plan.read(tmp_path / "run")
    assert plan_now.updates == 4
    jml.resume_run(tmp_path / "run", total_steps=updates(6))
    assert "a newer checkpoint is damaged" in capsys.readouterr().out
    jml.run("ippo", "toy/counter", total_steps=updates(6), evaluations=3, out=tmp_path / "longer", **RUN)
    assert_same_bits(jml.load_run(tmp_path / "run").states, jml.load_run(tmp_path / "longer").states)
    assert_same_bits(bits.updates + 2, jml.load_run(tmp_path / "run").states.updates)


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path)
    (tmp_path / "curve.png").unlink()
    loud = {**RUN, "quiet": False}
    result = jml.run("ippo", "toy/counter", total_steps=updates(4), evaluations=2, resume=tmp_path, **loud)
    assert "is finished" in capsys.readouterr().out
    assert result.steps.tolist() == [0, updates(2), updates(4)] and (tmp_path / "curve.png").exists()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("num_envs", {"num_envs": 8}),
        ("seeds", {"seeds": 3}),
        ("config.lr", {"config": config("ippo", lr=0.1)}),
        ("config.hidden", {"config": config("ippo", hidden=(5,))}),
        ("env", {"env": "toy/memory"}),
        ("algorithm", {"algorithm": "mappo", "config": None}),
        ("greedy", {"greedy": True}),
        ("stagger", {"stagger": True}),
    ],
)
def test_what_a_resumed_run_may_not_change(field: str, change: dict, tmp_path: Path) -> None:
    given = {name: value for name, value in RUN.items() if name != "quiet"}
    stored, _ = plan.make_plan("ippo", "toy/counter", total_steps=64, evaluations=2, **given)
    runfolder.create(tmp_path, stored.to_dict())
    arguments = {"algorithm": "ippo", "env": "toy/counter", "total_steps": 64, **RUN, **change}
    with pytest.raises(ValueError, match=rf"^{field} is "):
        jml.run(**arguments, resume=tmp_path)


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(runfolder.RunFolderError, match="no folder"):
        jml.resume_run(tmp_path / "none")
    with pytest.raises(runfolder.RunFolderError, match="holds no run"):
        jml.resume_run(tmp_path)
    with pytest.raises(ValueError, match="out is .* and resume is"):
        stored, _ = plan.make_plan("ippo", "toy/counter", total_steps=64, evaluations=2, eval_episodes=4)
        runfolder.create(tmp_path, stored.to_dict())
        jml.run("ippo", "toy/counter", out=tmp_path / "b", resume=tmp_path)


def test_an_edited_config_is_noticed(tmp_path: Path) -> None:
    """It would count the steps done so far wrongly."""
    jml.run("ippo", "toy/counter", total_steps=updates(1), evaluations=1, out=tmp_path, **RUN)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"num_steps": {SIZES["num_steps"]}', '"num_steps": 8'))
    with pytest.raises(ValueError, match="num_steps is 8, but the run in .*checkpoints has"):
        jml.resume_run(tmp_path, total_steps=updates(9), quiet=True)


def test_lost_rows_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jml.run("ippo", "toy/counter", total_steps=updates(2), evaluations=2, out=tmp_path, **RUN)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(rows[:2]))
    jml.resume_run(tmp_path, total_steps=updates(3))
    assert "has no rows of updates [1, 2]" in capsys.readouterr().out


def test_a_run_in_an_object_needs_it_again(tmp_path: Path) -> None:
    env = Closed()
    jml.run("ippo", env, total_steps=updates(1), evaluations=1, out=tmp_path, **RUN)
    with pytest.raises(ValueError, match="test/closed, as an object; give it again as env"):
        jml.resume_run(tmp_path)
    assert jml.resume_run(tmp_path, env=env, total_steps=updates(2), quiet=True).steps.tolist() == [0, 16, 32]


def test_a_prolonged_plan_keeps_the_distance_of_its_evaluations() -> None:
    sizes = dict(eval_episodes=1, num_envs=2, num_steps=5)
    short, _ = plan.make_plan("ippo", "toy/counter", total_steps=100, evaluations=5, **sizes)
    assert short.schedule == (0, 2, 4, 6, 8, 10)
    assert plan.prolonged(short, 160).schedule == (0, 2, 4, 6, 8, 10, 12, 14, 16)
    assert plan.prolonged(short, 50) == short
    assert dataclasses.replace(short, evaluations=50).schedule == tuple(range(11))
