"""Runs of single seeds, as jobs of an array leave them, are one run of several seeds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import SIZES, assert_same_bits, config, updates

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment.joining import common_name, join_runs
from jaxmarl_lite.report import run_dir

RUN: dict[str, Any] = dict(SIZES, config=config("ippo"), total_steps=updates(2), num_evaluations=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the seeds 3 and 7, and one of both."""
    path = tmp_path_factory.mktemp("runs")
    for seed in (3, 7):
        jml.run("ippo", "toy/counter", seed=seed, out=path / f"ippo_seed_{seed}", **RUN)
    jml.run("ippo", "toy/counter", seeds=(3, 7), seeds_in_parallel=1, out=path / "both", **RUN)
    return path


def test_one_seed_is_that_seed(folder: Path) -> None:
    assert jml.load_run(folder / "ippo_seed_7").seeds == (7,)
    for seeds in (1, (7,)):
        with pytest.raises(ValueError, match=r"seed is 7 and seeds is .*; allowed is one of them"):
            jml.run("ippo", "toy/counter", seed=7, seeds=seeds, **RUN)
    for seed in (-1, True, "7", 2**32):
        with pytest.raises(ValueError, match=r"seed is .*; allowed is a whole number"):
            jml.run("ippo", "toy/counter", seed=seed, **RUN)  # type: ignore[arg-type]


def test_joined_runs_are_the_run_of_both_seeds(folder: Path) -> None:
    singles = [folder / "ippo_seed_3", folder / "ippo_seed_7"]
    (joined,) = join_runs(singles)
    both = jml.load_run(folder / "both")
    assert joined.plan.seeds == (3, 7) and joined.paths == tuple(singles)
    keys = [(row["update"], row["seed"]) for row in joined.run.rows]
    assert keys == [(row["update"], row["seed"]) for row in run_dir.load(folder / "both").rows]
    comparison = jml.compare_runs(singles)
    (result,) = comparison.results["toy/counter"].values()
    assert list(comparison.results["toy/counter"]) == ["ippo"] and result.seeds == (3, 7)
    each = [jml.load_run(path) for path in singles]
    for i, single in enumerate(each):
        np.testing.assert_array_equal(result.returns[i], single.returns[0])
        assert_same_bits(result.learner((3, 7)[i]), single.learner((3, 7)[i]))
    # programs of one and of two seeds round differently
    np.testing.assert_allclose(result.random_returns, both.random_returns)  # type: ignore[arg-type]
    assert result.metrics.keys() == both.metrics.keys()
    assert comparison.rows()[0]["seeds"] == 2 and "2 seeds" in repr(result)
    assert result.policy(seed=7) is not None


def test_labels_keep_runs_apart(folder: Path) -> None:
    runs = [f"a={folder / 'ippo_seed_3'}", f"b={folder / 'ippo_seed_7'}"]
    assert list(jml.compare_runs(runs).results["toy/counter"]) == ["a", "b"]
    same = [run.replace("b=", "a=") for run in runs]
    assert jml.compare_runs(same).results["toy/counter"]["a"].seeds == (3, 7)
    twice = [f"old={folder / 'both'}", f"new={folder / 'both'}"]
    assert list(jml.compare_runs(twice).results["toy/counter"]) == ["old", "new"]


def test_plots_of_joined_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    drawn: list[Any] = []
    from jaxmarl_lite.report import plotting

    draw = plotting.draw_panels
    monkeypatch.setattr(
        plotting, "draw_panels", lambda panels, **k: (drawn.extend(panels), draw(panels, **k))
    )
    out = ["--out", str(folder / "plot.png")]
    singles = [str(folder / "ippo_seed_3"), str(folder / "ippo_seed_7")]
    assert main(["plot", *singles, *out]) == 0
    (curve,) = drawn[0].curves.values()
    assert np.shape(curve[1]) == (2, 3)
    assert main(["plot", *singles, str(folder / "both"), *out]) == 2
    assert "seed is 3 in" in capsys.readouterr().err


def test_evaluations_at_other_steps_cannot_be_joined(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "ippo_seed_7", tmp_path / "cut")
    jml.run(
        "ippo",
        "toy/counter",
        seed=9,
        on_evaluation=lambda r: r.update == 1,
        out=tmp_path / "short",
        **RUN,
    )
    with pytest.raises(
        ValueError, match=r"short has evaluations at 2 steps up to 16, but .*resume"
    ):
        join_runs([tmp_path / "cut", tmp_path / "short"])


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (("a/x", "b/x"), "x"),
        (("r/s10", "r/s11"), "r"),
        (("r/mappo-lr3-s0", "r/mappo-lr3-s1"), "mappo-lr3"),
        (("r/seed=0", "r/seed=1"), "r"),
        (("r/a", "q/b"), "a"),
    ],
)
def test_names_of_joined_runs(names: Any, common: str) -> None:
    assert common_name([Path(name) for name in names]) == common


@pytest.mark.slow
def test_objects_that_no_text_tells_apart_are_not_joined(tmp_path: Path) -> None:
    optax = pytest.importorskip("optax")
    paths = []
    for seed, rate in ((3, 1e-3), (7, 1e-1)):
        paths.append(tmp_path / f"seed-{seed}")
        own = {"hidden_sizes": (4,), "optimizer": optax.adam(rate)}
        jml.run("ippo", "toy/counter", seed=seed, out=paths[-1], **(RUN | {"config": own}))
    with pytest.warns(run_dir.RunFolderWarning, match="seeds .3,. and .7,. are not joined"):
        assert [x.plan.seeds for x in join_runs(paths)] == [(3,), (7,)]
