"""Runs side by side: variants of algorithms trained alike, and runs that exist already."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.cli import main as cli_main
from jaxmarl_lite.experiment import compare as comparing
from jaxmarl_lite.experiment import comparison
from jaxmarl_lite.experiment.result import Timings
from jaxmarl_lite.report import run_dir

SIZES: dict[str, Any] = dict(
    seeds=2, num_envs=4, num_steps=4, num_evaluations=2, eval_episodes=4, quiet=True
)
SMALL = "small=ippo:hidden_sizes=(4,)"
OPTIONS = shlex.split(
    "--seeds 2 --num-envs 4 --num-steps 4 --num-evaluations 2 --eval-episodes 4 --total-steps 32"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("liir", ("liir", "liir", False, {})),
        ("lam0=liir:intrinsic_coef=0", ("lam0", "liir", False, {"intrinsic_coef": 0})),
        ("a.b=central-v.reference", ("a.b", "central-v", True, {})),
        ("users:make", ("make", "users:make", False, {})),
        ("x=a.users:My.make:lr=1", ("x", "a.users:My.make", False, {"lr": 1})),
        (
            "x=ippo:networks=users:nets,lr=1",
            ("x", "ippo", False, {"networks": "users:nets", "lr": 1}),
        ),
        (
            "x=liir:meta_gradient=exact,hidden_sizes=(8, 8),intrinsic_coef=1e-3",
            (
                "x",
                "liir",
                False,
                {"meta_gradient": "exact", "hidden_sizes": (8, 8), "intrinsic_coef": 1e-3},
            ),
        ),
    ],
)
def test_variants_of_algorithms(text: str, expected: tuple) -> None:
    assert tuple(comparing.parse_variant(text)) == expected


def test_words_for_yes_and_no_are_flags() -> None:
    variant = comparing.parse_variant("x=iac:normalize_advantages=false,parameter_sharing=True")
    assert variant.fields == {"normalize_advantages": False, "parameter_sharing": True}


@pytest.mark.parametrize(
    "text", ["liir:intrinsic_coef=0", "liir.reference", "a=b=c", "", "x=liir:", "..=iac"]
)
def test_variants_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is ALGORITHM or LABEL=ALGORITHM"):
        comparing.parse_variant(text)


def test_a_reference_variant_has_the_reference_settings() -> None:
    config = comparing.parse_variant("a=liir.reference:meta_gradient=exact").config
    assert config == jml.LIIRConfig.reference(meta_gradient="exact")


def test_beating_is_of_the_right_one() -> None:
    sure = comparison.improvement_interval([3.0, 4.0], [1.0, 2.0])
    assert sure[:3] == (1.0, 1.0, 1.0)
    even = comparison.improvement_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert even.estimate == 0.5 and even.low < 0.3 and even.high > 0.7
    lost = [float("nan")] * 3
    with_lost = comparison.improvement_interval([*lost, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, *lost])
    assert with_lost[:4] == even[:4] and with_lost.seeds == 12
    assert np.isnan(comparison.improvement_interval(lost, [1.0])[:3]).all()


def test_runs_of_one_call_and_of_later_calls(tmp_path: Path) -> None:
    """A second call trains nothing again, adds a variant, and extends all of them."""
    first = jml.compare([SMALL], "toy/counter", out=tmp_path, total_steps=32, **SIZES)
    (row,) = first.rows()
    assert row["steps"] == [0, 16, 32] and np.shape(row["returns"]) == (2, 3)
    assert row["final_return"]["estimate"] == np.mean(np.asarray(row["returns"])[:, -1])
    folder = tmp_path / "toy-counter" / "small"
    trained = (folder / "metrics.jsonl").read_bytes()
    second = jml.compare(
        ["wide=ippo:hidden_sizes=(8,)"], "toy/counter", out=tmp_path, total_steps=32, **SIZES
    )
    assert list(second.results["toy/counter"]) == ["wide", "small"] and second.against == "wide"
    assert (folder / "metrics.jsonl").read_bytes() == trained
    assert second.rows()[1]["returns"] == row["returns"]
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert [r["label"] for r in stored["rows"]] == ["wide", "small"] and not stored["failed"]
    assert 0 <= stored["rows"][1]["against_final"]["estimate"] <= 1
    text = (tmp_path / "comparison.md").read_text()
    assert "hidden_sizes (8,)" in text and "| toy/counter" in text
    for name in ("comparison-toy-counter.png", "comparison-improvement.png"):
        assert name in text and (tmp_path / name).stat().st_size > 1000
    labels = [SMALL, "wide=ippo:hidden_sizes=(8,)"]
    longer = jml.compare(labels, "toy/counter", out=tmp_path, total_steps=48, **SIZES)
    assert [row["steps"] for row in longer.rows()] == [[0, 16, 32, 48]] * 2
    assert np.asarray(longer.rows()[0]["returns"])[:, :3].tolist() == row["returns"]
    assert "final return" in longer.summary()
    # an algorithm has one color in the curves and in the figure of improvement
    results = dict(zip(("mappo", "liir"), longer.results["toy/counter"].values(), strict=True))
    named = dataclasses.replace(longer, results={"toy/counter": results}, against="mappo")
    curves = {line.get_label(): line.get_color() for line in named.plot().axes[0].lines}
    (axes,) = named.plot_improvement().axes
    assert axes.lines[0].get_color() == axes.lines[1].get_color() == curves["liir"]
    # a comparison of one run has no figure of improvement, not even that of the one before
    jml.compare_runs([folder]).save(tmp_path / "comparison")
    assert not (tmp_path / "comparison-improvement.png").exists()


def test_an_environment_object_and_costs(tmp_path: Path) -> None:
    env = jml.make("toy/budget")
    variants = ["happo=happo:hidden_sizes=(4,)", "macpo=macpo:hidden_sizes=(4,),cost_limit=2"]
    result = jml.compare(variants, env, out=tmp_path, total_steps=32, **SIZES)
    (name,) = result.results
    rows = result.rows()
    assert [cost["limit"] for cost in rows[1]["costs"]] == [2.0] * env.spec.num_agents
    mean = result.results[name]["happo"].final_costs()
    assert [cost["mean"]["estimate"] for cost in rows[0]["costs"]] == mean.estimate[:, 0].tolist()
    assert "upper end within" in (tmp_path / "comparison.md").read_text()
    with pytest.raises(ValueError, match="workers is 1 with .* as an object"):
        jml.compare(variants, env, out=tmp_path, total_steps=32, workers=1, **SIZES)


def test_settings_that_cannot_be_compared(tmp_path: Path) -> None:
    plan = dict(seeds=2, total_steps=128, eval_episodes=4, num_evaluations=2)
    settings = dict(plan, num_envs=4, num_steps=4)
    variant = comparing.parse_variant("a=ippo:lr_anneal_steps=128")
    stored = comparing._make_plan(variant, "toy/counter", settings)
    folder = tmp_path / "toy-counter" / "a"
    comparing._create(run_dir.RunFolder(folder), stored)

    def check(text: str, **changes: Any) -> None:
        new = comparing.parse_variant(text)
        plans = {new.label: comparing._make_plan(new, "toy/counter", settings | changes)}
        comparing._check_folder(tmp_path, "toy/counter", plans, changes.get("greedy"))

    check("mappo")
    check("a=ippo:lr_anneal_steps=128", total_steps=256)
    for text, changes, message in (
        ("mappo", {"total_steps": 256}, "holds a run with total_steps 128, not 256; .*another out"),
        ("mappo", {"greedy": True}, "holds a run with greedy False, not True"),
        ("a=ippo:lr_anneal_steps=256", {}, "a: config.lr_anneal_steps is 256.*128.*another out"),
        ("a=ippo:lr_anneal_steps=128", {"seeds": 3}, r"a: seeds is \(0, 1, 2\), but the run in"),
        (
            "a=ippo:lr_anneal_steps=128",
            {"total_steps": 64},
            "a: total_steps is 64, but the run in .* has 128; allowed is as many",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check(text, **changes)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("x=iac:qq=1 --env toy/payoff", "x: field of config is 'qq'; allowed is"),
        ("liir:intrinsic_coef=0 --env toy/payoff", "variant is 'liir:intrinsic_coef=0'; allowed"),
        ("y=mappo.reference --env toy/payoff", "y: algorithm is 'mappo.reference'; allowed is"),
        ("mappo ippo", "mappo names an algorithm, but --env is missing; allowed"),
        ("x=mappo:lr=0.1", "x=mappo:lr=0.1 names an algorithm, but --env is missing"),
        ("nowhere --seeds 2", "--seeds is given, but without --env nothing is trained"),
        ("iac --env toy/payoff coma", "iac: environment is 'coma'; allowed"),
        ("coma --env toy/reach", "coma: algorithm 'coma' compares every action"),
        ("iac --env toy/payoff --total-steps 0", "iac: total_steps is 0; allowed is"),
        ("iac --env toy/payoff --against mappo", "against is 'mappo'; allowed is one of iac"),
        ("iac iac --env toy/payoff", "variants have the labels ['iac', 'iac']; allowed"),
        ("", "no run is given"),
        ("nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    message: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_main.main(["compare", *message.split(), "--out", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_existing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"hidden_sizes": (4,)}
    for name, env in (("a", "toy/counter"), ("b", "toy/counter"), ("other/a", "toy/payoff")):
        jml.run("ippo", env, config=config, total_steps=16, out=name, **SIZES)
    assert cli_main.main(["compare", "a", "new=b", "other/a", "--against", "new"]) == 0
    printed = capsys.readouterr().out
    assert "P(new better)" in printed and "comparison.json" in printed
    rows = json.loads(Path("comparison.json").read_text())["rows"]
    assert [(row["env"], row["label"]) for row in rows] == [
        ("toy/counter", "a"),
        ("toy/counter", "new"),
        ("toy/payoff", "a"),
    ]
    assert [("against_final" in row) for row in rows] == [True, False, False]
    assert rows[0]["against_final"]["estimate"] == 0.5  # the same seeds with the same settings
    with pytest.raises(ValueError, match="two runs in toy/counter have the label 'a'"):
        jml.compare_runs(["a", "a=b"])


def test_win_rates_are_pooled_and_returns_are_not() -> None:
    def results(low: float, won: bool) -> dict[str, Any]:
        return {label: _result(low + x, won) for label, x in (("liir", 0.2), ("lam0", 0.1))}

    both = comparison.Comparison({"a": results(0.1, True), "b": results(0.5, True)}, "liir")
    pooled = {row["label"]: row for row in both.rows() if row["env"] == comparison.POOLED}
    assert set(pooled) == {"liir", "lam0"}
    assert abs(pooled["lam0"]["final_win_rate"]["estimate"] - 0.4) < 1e-9
    assert pooled["lam0"]["against_final"]["low"] == 1.0
    assert "all" in both.summary()
    one = comparison.Comparison({"a": results(0.1, True), "b": results(0.5, False)}, "liir")
    assert {row["env"] for row in one.rows()} == {"a", "b"}


def _result(end: float, won: bool) -> Any:
    """A result with curves that rise to ``end``."""
    curves = np.array([[0.0, end]] * 2)
    interval = jml.report.statistics.bootstrap_interval(curves[:, -1])
    return types.SimpleNamespace(
        algorithm="liir",
        seeds=(0, 1),
        spec=types.SimpleNamespace(max_return=None),
        steps=np.array([0, 1]),
        returns=curves,
        win_rates=curves if won else None,
        costs=None,
        random_returns=None,
        timings=Timings(),
        diverged=(),
        plan=types.SimpleNamespace(to_dict=lambda: {}, env_args={}, eval_episodes=4, greedy=False),
        final_return=lambda: interval,
        final_win_rate=lambda: interval,
    )


def test_a_stopped_comparison_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen] = []
    start = comparing._start

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        comparing, "_start", lambda *inputs: begun.append(start(*inputs)) or begun[-1]
    )
    monkeypatch.setattr(comparing, "time", types.SimpleNamespace(sleep=interrupted))
    message = ["compare", "ippo", "--env", "toy/counter", "--out", str(tmp_path), "--workers", "1"]
    assert cli_main.main([*message, *OPTIONS]) == 130
    assert [process.wait(60) != 0 for process in begun] == [True]


@pytest.mark.slow
def test_processes_train_what_this_process_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fails is named, and the others are compared."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    broken = tmp_path / "processes" / "toy-payoff" / "broken"
    broken.mkdir(parents=True)
    (broken / "checkpoints").write_text("no folder")
    message = ["compare", SMALL, "broken=iac", "--env", "toy/payoff", *OPTIONS]
    assert cli_main.main([*message, "--out", str(tmp_path / "processes")]) == 2
    assert "broken on toy/payoff failed" in capsys.readouterr().err
    here = jml.compare([SMALL], "toy/payoff", out=tmp_path / "here", total_steps=32, **SIZES)
    (there,) = json.loads((tmp_path / "processes" / "comparison.json").read_text())["rows"]
    assert there["returns"] == here.rows()[0]["returns"]


USERS = """
import flax.linen as nn
from jaxmarl_lite import Networks

class Torso(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(self.width)(x))

networks = Networks(actor=Torso(), critic=Torso())
"""


def test_networks_and_arguments_of_the_environment(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "users_nets.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    variants = [SMALL, "mine=ippo:networks=users_nets:networks"]
    arguments = ["compare", *variants, "--env", "toy/memory", "--env-args", "delay=2", *OPTIONS]
    assert cli_main.main([*arguments, "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
    plans = {
        label: json.loads((tmp_path / f"out/toy-memory/{label}/config.json").read_text())
        for label in ("small", "mine")
    }
    assert plans["mine"]["networks"] == "users_nets:networks" and plans["small"]["networks"] is None
    assert plans["mine"]["env_args"] == plans["small"]["env_args"] == {"delay": 2}
    # the same as an object, in this process
    import users_nets

    settings = SIZES | {"total_steps": 32, "env_args": {"delay": 2}}
    again = jml.compare(
        [SMALL], "toy/memory", out=tmp_path / "two", networks=users_nets.networks, **settings
    )
    again = jml.compare(
        [SMALL], "toy/memory", out=tmp_path / "two", networks=users_nets.networks, **settings
    )
    first = jml.load_run(tmp_path / "out/toy-memory/mine")
    assert again.results["toy/memory"]["small"].returns.shape == first.returns.shape
    with pytest.raises(ValueError, match="workers is 2; allowed is None with networks as an objec"):
        jml.compare(
            [SMALL], "toy/memory", out=tmp_path, networks=users_nets.networks, workers=2, **settings
        )
    with pytest.raises(ValueError, match="env_args {'delay': 2}, not {'delay': 3}"):
        jml.compare(
            ["iac"], "toy/memory", out=tmp_path / "out", **(settings | {"env_args": {"delay": 3}})
        )
