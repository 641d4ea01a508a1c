"""A run that starts from the weights of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_runs import SIZES, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.report import checkpoint, run_dir

SETTINGS = config("ippo", normalize_observations=True, hidden_sizes=(4,))
RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=SETTINGS, total_steps=updates(2), num_evaluations=2
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source")
    jml.run("ippo", "toy/counter", out=path, **RUN)
    return path


def initial_states(path: Path, **settings: Any) -> Any:
    """States of a run after its evaluation at the start."""
    jml.run("ippo", "toy/counter", out=path, on_evaluation=lambda report: True, **(RUN | settings))
    return jml.load_run(path).states


def test_weights_and_normalizers_are_taken_and_nothing_else(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = jml.load_run(source).states
    fresh = initial_states(tmp_path / "fresh", seeds=3)
    started = initial_states(tmp_path / "a", seeds=3, init_from=source, quiet=False)
    in_turn = jax.tree.map(lambda x: x[np.array([0, 1, 0])], trained)
    for name in ("actor_params", "critic_params", "obs_normalizer"):
        ours, theirs = (getattr(x.learner_state, name) for x in (started, in_turn))
        assert_same_bits(ours, theirs)
    for name in ("actor_opt_state", "critic_opt_state", "env_steps"):
        ours, theirs = (getattr(x.learner_state, name) for x in (started, fresh))
        assert_same_bits(ours, theirs)
    assert_same_bits(started.rollout_state, fresh.rollout_state)
    assert_same_bits(started.key, fresh.key)
    assert started.num_updates.tolist() == [0, 0, 0]
    said = capsys.readouterr().out
    assert f"starting from {source}, update 2: actor_params (" in said
    assert "seeds: 0 from 0, 1 from 1, 2 from 0;" in said and "not taken" not in said
    assert run_dir.read_config(tmp_path / "a")["init_from"] == str(source)


def test_a_resumed_run_does_not_start_again(source: Path, tmp_path: Path) -> None:
    jml.run("ippo", "toy/counter", out=tmp_path / "whole", init_from=source, **RUN)
    initial_states(tmp_path / "cut", init_from=str(source))
    result = jml.resume_run(tmp_path / "cut", quiet=True)
    assert_same_bits(result.states, jml.load_run(tmp_path / "whole").states)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    first = jml.load_run(source).returns[:, -1]
    assert result.returns.shape == (2, 3) and first.shape == (2,)
    source.rename(elsewhere := source.with_name("elsewhere"))  # the folder holds the run alone
    try:
        assert len(jml.resume_run(tmp_path / "cut", total_steps=updates(3), quiet=True).steps) == 4
    finally:
        elsewhere.rename(source)


def test_what_does_not_fit_is_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second layer: the first and the last ones fit."""
    wider = {"config": config("ippo", normalize_observations=True, hidden_sizes=(4, 4))}
    fresh = initial_states(tmp_path / "fresh", **wider)
    started = initial_states(tmp_path / "a", init_from=source, quiet=False, **wider)
    said = capsys.readouterr().out
    assert "not taken: actor_params" in said and "obs_normalizer (" in said
    taken = [
        np.array_equal(x, y)
        for x, y in zip(
            *(jax.tree.leaves(s.learner_state.actor_params) for s in (started, fresh)), strict=True
        )
    ]
    assert not all(taken) and any(taken)


@pytest.mark.parametrize(
    ("init_from", "message"),
    [
        ("nowhere", "init_from is '.*nowhere'; allowed is the folder of a run.*is no folder"),
        ("empty", "init_from is '.*empty'; allowed is the folder of a run.*holds no run"),
        (5, "init_from is 5; allowed is the path"),
    ],
)
def test_folders_without_weights(init_from: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = tmp_path / init_from if isinstance(init_from, str) else init_from
    with pytest.raises(ValueError, match=message):
        jml.run("ippo", "toy/counter", out=tmp_path / "run", init_from=path, **RUN)
    assert not (tmp_path / "run").exists()


def test_nothing_that_fits_is_an_error_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    command = "train ippo --env toy/counter --hidden-sizes 5 --num-envs 4 --num-steps 4 --seeds 1"
    arguments = [*command.split(), "--total-steps", "1000", "--init-from", str(source)]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert "allowed is a run whose networks have weights of the same" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert checkpoint.latest(source / "checkpoints") == 2
