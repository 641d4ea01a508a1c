"""Reference results: a run is stored as one small file, and read, tabled and drawn again."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.cli import main as cli
from jaxmarl_lite.experiment import comparison, config, reference_results

REFERENCE_RUNS = Path(__file__).parent.parent / "benchmarks" / "reference_runs.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one environment, in folders of their own."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seeds in (("stored", (3, 8)), ("mine", (1,))):
        jml.run(
            "ippo", "toy/budget", config={"hidden_sizes": (4,)}, seeds=seeds, total_steps=64,
            num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
            out=folder / name,
        )  # fmt: skip
    return folder


@pytest.fixture
def data(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of reference results that holds the run ``stored``, and what papers publish."""
    monkeypatch.setattr(reference_results, "DATA", tmp_path)
    reference_results.record(runs / "stored", "small", "a command", tmp_path)
    value = {"env": "toy/budget", "algorithm": "ippo", "final_return": 2.5, "cost": 1}
    other = {"env": "toy/budget", "algorithm": "qmix", "final_return": 7.5}
    paper = {"paper": "A paper", "source": "its figure 1", "steps": 99, "values": [value, other]}
    (tmp_path / "published.json").write_text(json.dumps([paper]))
    return tmp_path


def test_a_stored_run_has_all_its_curves_and_says_what_was_run(runs: Path, data: Path) -> None:
    whole = jml.load_runs(runs / "stored")
    frame = jml.reference_results("toy/budget")
    names = [name for name in whole.columns if name != "run"]
    assert set(names) < set(frame.columns) and len(frame) == 6
    for name in names:
        if whole[name].dtype == float:
            np.testing.assert_allclose(frame[name], whole[name], rtol=6e-5)
        else:
            assert frame[name].tolist() == whole[name].tolist()
    assert set(frame["label"]) == {"small"} and set(frame["command"]) == {"a command"}
    versions = json.loads((runs / "stored" / "versions.json").read_text())
    assert set(frame["version.jax"]) == {versions["packages"]["jax"]}
    assert set(frame["device"]) == {versions["device_kind"]}
    assert len(jml.reference_results()) == 6


def test_the_same_run_gives_the_same_bytes(runs: Path, data: Path) -> None:
    first = (data / "toy-budget" / "small.jsonl.gz").read_bytes()
    assert reference_results.record(runs / "stored", "small", "a command").read_bytes() == first


def test_an_environment_without_results_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match=r"env is 'toy/reach'; allowed is one of toy/budget"):
        jml.reference_results("toy/reach")


def test_a_run_that_is_not_finished_is_not_stored(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stop = lambda report: "enough"  # noqa: E731
    jml.run(
        "ippo", "toy/budget", config={"hidden_sizes": (4,)}, seeds=1, total_steps=64, num_envs=4,
        num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True, out=folder, on_evaluation=stop,
    )  # fmt: skip
    with pytest.raises(ValueError, match="of 64 steps"):
        reference_results.record(folder, "small", "a command", tmp_path)
    assert not list(tmp_path.rglob("*.gz"))


def test_compare_sets_reference_results_and_published_values_beside_a_run(
    runs: Path, data: Path
) -> None:
    compared = jml.compare_runs([runs / "mine"], reference=True)
    assert list(compared.results["toy/budget"]) == ["mine", "reference small"]
    stored = compared.results["toy/budget"]["reference small"]
    np.testing.assert_allclose(stored.returns, jml.load_run(runs / "stored").returns, rtol=6e-5)
    assert compared.against == "mine" and "A paper" in compared.summary()
    # the value of an algorithm that none of the runs has is left out
    assert [value.algorithm for value in compared.published["toy/budget"]] == ["ippo"]
    lines = compared.panels("toy/budget")[0].hlines
    assert [line.value for line in lines if line.label == "ippo, A paper"] == [2.5]
    with pytest.raises(ValueError, match="has the label 'reference small'"):
        jml.compare_runs([f"reference small={runs / 'mine'}"], reference=True)
    with pytest.raises(ValueError, match=r"reference is 'yes'; allowed is"):
        jml.compare_runs([runs / "mine"], reference="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has curves alone; allowed is a run of yours: a command"):
        stored.policy()


def test_the_command_draws_a_run_beside_the_reference(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["compare", str(runs / "mine"), "--reference", "--out", str(out)]) == 0
    assert "reference small" in capsys.readouterr().out
    assert (out / "comparison-toy-budget.png").stat().st_size > 10_000
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["mine", "reference small"]


def test_reference_results_stand_beside_runs_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = [
        "compare",
        "ippo",
        "--env",
        "toy/budget",
        "--reference",
        "--out",
        str(tmp_path / "x"),
    ]
    assert cli.main(message) != 0
    said = capsys.readouterr().err
    assert "--reference is given with --env; allowed is without it" in said
    assert not (tmp_path / "x").exists()


def test_reference_is_refused_where_nothing_is_stored(
    runs: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "published.json").write_text("[]")
    (data / "toy-budget").rename(data / "elsewhere")
    header, rows = gzip.decompress((data / "elsewhere" / "small.jsonl.gz").read_bytes()).split(
        b"\n", 1
    )
    changed = header.replace(b"toy/budget", b"toy/reach") + b"\n" + rows
    (data / "elsewhere" / "small.jsonl.gz").write_bytes(gzip.compress(changed))
    with pytest.raises(ValueError, match=r"nothing is stored for toy/budget; allowed .* toy/reach"):
        jml.compare_runs([runs / "mine"], reference=True)


def test_every_stored_run_can_be_read_with_its_settings_and_drawn(tmp_path: Path) -> None:
    """The settings of the package's own results are those of the configs as they are now."""
    assert reference_results.environments()
    for run in reference_results.load():
        plan = config.from_dict(run.config, run.label)
        assert plan.env == run.env and len(plan.seeds) >= 5
        assert run.command.startswith("jaxmarl-lite compare") and run.env in run.command
        assert run.versions["packages"]["jax"] and run.versions["device_kind"]
        last = [row for row in run.rows if row["step"] == max(r["step"] for r in run.rows)]
        assert sorted(row["seed"] for row in last) == sorted(plan.seeds)
        assert all(np.isfinite(row["eval_return"]) for row in last)
    env = "toy/budget"
    drawn = comparison.Comparison({env: reference_results.results(env, jml.make(env))}, "macpo")
    drawn.plot(env, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_the_groups_are_commands_that_the_command_line_takes() -> None:
    sys.path.append(str(REFERENCE_RUNS.parent))
    script = importlib.import_module("reference_runs")
    for group in script.GROUPS.values():
        message = shlex.split(script.command(group, group.variants))
        assert message[:2] == ["jaxmarl-lite", "compare"] and message[2] in group.variants
        for variant in group.variants:
            parsed = importlib.import_module("jaxmarl_lite.experiment.compare").parse_variant(
                variant
            )
            assert re.fullmatch(r"[\w.-]+", parsed.label)


def test_the_script_trains_a_group_and_stores_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.append(str(REFERENCE_RUNS.parent))
    script = importlib.import_module("reference_runs")
    small = "hidden_sizes=(4,),num_minibatches=1"
    group = script.Group("toy/budget", (f"a=ippo:{small}", f"b=mappo:{small}"), 4096, 4, seeds=2)
    monkeypatch.setattr(script, "GROUPS", {"tiny": group})
    message = ["tiny", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "stored")]
    assert script.main([*message, "--labels", "a", "--workers", "1"]) == 0
    files = sorted(path.name for path in (tmp_path / "stored").rglob("*.gz"))
    assert files == ["a.jsonl.gz"]
    header = json.loads(
        gzip.decompress((tmp_path / "stored" / "toy-budget" / files[0]).read_bytes()).split(b"\n")[
            0
        ]
    )
    assert header["command"] == script.command(group, group.variants[:1])
