"""Every benchmark says what it does, and the smallest of each kind leaves its files."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.report import run_dir

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))
reproduce_liir, variants = (
    importlib.import_module("reproduce_liir"),
    importlib.import_module("variants"),
)
compare_speed, hlo = importlib.import_module("compare_speed"), importlib.import_module("hlo")
command_line = importlib.import_module("command_line")
learning, bench_utils = importlib.import_module("learning"), importlib.import_module("bench_utils")
SCRIPTS = (
    "speed",
    "compare_liir_update",
    "constrained_step",
    "learning",
    "physics",
    "reproduce_macpo",
    "reproduce_liir",
    "liir_ablation",
    "pursuit",
    "devices",
    "kills",
    "compare_speed",
)


def run(script: str, *message: object) -> str:
    """A script's output; it must succeed."""
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, message)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.guard
@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    assert "usage:" in run(script, "--help")
    assert f"{script}.py" in (BENCHMARKS / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.guard
def test_speed(tmp_path: Path) -> None:
    message = shlex.split(
        "--cases ippo:none:toy/counter --num-envs 4 --num-steps 4 --repeats 2 --hidden-sizes 4"
    )
    run("speed", *message, "--out", tmp_path)
    (path,) = tmp_path.glob("speed-*.json")
    result = json.loads(path.read_text())
    row = result["rows"]["ippo:none:toy/counter"]
    assert (
        not result["failed"]
        and row["steps_per_second"] > 0
        and row["environment_steps_per_second"] > 0
    )
    assert abs(row["share_rollout"] + row["share_learning"] + row["share_host"] - 1) < 1e-6
    # the products of 4 epochs of 16 steps of 2 agents, forwards and twice backwards, are a lower
    # bound
    assert row["learning_gflop"] * 1e9 > 4 * 16 * 2 * 2 * 4 * 3
    assert "ippo" in path.with_suffix(".md").read_text()


def test_sections_that_need_a_peer_are_left_out_without_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    constrained_step = importlib.import_module("constrained_step")
    assert set(constrained_step.options([]).sections) == set(constrained_step.SECTIONS) - {"peers"}
    with pytest.raises(SystemExit):
        constrained_step.options(["--sections", "peers"])
    assert "peers needs --macpo" in capsys.readouterr().err


def test_kernels_multiply_loops_and_take_the_longest_branch() -> None:
    text = """HloModule m
%long (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %a = f32[2]{0} fusion(%p), kind=kLoop, calls=%inner
  ROOT %b = f32[2]{0} custom-call(%a), custom_call_target="x"
}
%short (q: f32[2]) -> f32[2] {
  ROOT %q = f32[2]{0} parameter(0)
}
%body (s: (s32[], f32[2])) -> (s32[], f32[2]) {
  %s = (s32[], f32[2]{0}) parameter(0)
  %g = f32[2]{0} get-tuple-element(%s), index=1
  %c = f32[2]{0} conditional(%i, %g, %g), branch_computations={%short, %long}
  %n = s32[] fusion(%i), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[2]{0}) tuple(%n, %c)
}
%test (s: (s32[], f32[2])) -> pred[] {
  ROOT %lt = pred[] compare(%x, %y), direction=LT
}
ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %w = (s32[]) while(%x), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %copy = f32[2]{0} copy(%x)
}
"""
    assert hlo.kernels(text) == 5 * (2 + 1 + 1) + 1


@pytest.mark.slow
@pytest.mark.guard
def test_compare_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row without a peer; a program that cannot be built is named; rows of an earlier call
    stay."""
    tiny = "--num-envs 4 --num-steps 4 --hidden-sizes 4 --env toy/counter"
    rows = {
        "good": (f"--algorithm ippo --shared-torso {tiny}", ""),
        "bad": (f"--algorithm nobody {tiny}", ""),
    }
    monkeypatch.setattr(compare_speed, "ROWS", rows)
    message = [
        *shlex.split("--rounds 1 --updates 2"),
        "--out",
        str(tmp_path),
        "--logs",
        str(tmp_path / "logs"),
    ]
    assert compare_speed.main([*message, "--rows", "good"]) == 0
    assert compare_speed.main([*message, "--rows", "bad"]) == 1
    (path,) = tmp_path.glob("compare-speed-*.json")
    result = json.loads(path.read_text())
    assert result["failed"] == [["bad", "own"]] and list(result["rows"]) == ["good"]
    facts = result["rows"]["good"]["facts"]["own"]
    assert facts["kernels"] > 4 * 4 and facts["env_steps_per_update"] == 16
    assert result["rows"]["good"]["seconds"]["own"][0] > 0
    assert "nobody" in (tmp_path / "logs" / "01-own.txt").read_text()


@pytest.mark.slow
@pytest.mark.guard
def test_learning_goes_on_where_it_was(tmp_path: Path) -> None:
    message = shlex.split(
        "--env toy/counter --algorithms ippo --total-steps 128 --num-evaluations 2"
    )
    message += [
        *shlex.split("--eval-episodes 4 --num-envs 8 --num-steps 8"),
        "--runs",
        tmp_path / "runs",
        "--out",
        tmp_path,
    ]
    run("learning", *message)
    first = json.loads((tmp_path / "learning-toy-counter.json").read_text())
    assert (tmp_path / "learning-toy-counter.png").stat().st_size > 1000
    assert len(first["rows"]["ippo"]["final_of_each_seed"]) == 3 and first["rows"]["ippo"][
        "steps"
    ] == [0, 64, 128]
    run("learning", *message)  # finished: nothing is trained again
    again = json.loads((tmp_path / "learning-toy-counter.json").read_text())
    assert again["rows"] == first["rows"]
    assert "| ippo |" in (tmp_path / "learning-toy-counter.md").read_text()


def test_stopped_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how to go on, and no worker is left behind."""
    begun: list[subprocess.Popen] = []
    start = learning._start

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        learning, "_start", lambda *inputs: begun.append(start(*inputs)) or begun[-1]
    )
    monkeypatch.setattr(learning, "time", types.SimpleNamespace(sleep=interrupted))
    message = [
        "--env",
        "toy/counter",
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path),
        "--workers",
        "1",
    ]
    with pytest.raises(SystemExit, match="the same command goes on"):
        command_line.to_the_end(lambda: learning.main(message))
    assert [process.wait(60) != 0 for process in begun] == [True]


@pytest.mark.slow
@pytest.mark.guard
def test_constrained_step(tmp_path: Path) -> None:
    message = shlex.split(
        "--sections parts memory residuals --num-steps 8 --num-envs 8 --view 5 "
        "--actions 2 --hidden-sizes 6 6"
    )
    run(
        "constrained_step",
        *message,
        *["--repeats", "1", "--updates", "4", "--envs", "toy/counter"],
        "--out",
        tmp_path,
    )
    (path,) = tmp_path.glob("constrained-step-*.json")
    result = json.loads(path.read_text())["sections"]
    traced, by_hand = result["parts"]["gflop"], result["parts"]["gflop_by_hand"]
    assert all(abs(traced[name] / by_hand[name] - 1) < 0.01 for name in ("try", "product"))
    for full in (True, False):  # forty iterations take no more memory than five
        assert len({row["bytes"] for row in result["memory"]["rows"] if row["whole"] is full}) == 1
    exact = [
        row
        for row in result["residuals"]["rows"]
        if row["method"] == "plain" and row["products"] == 40
    ]
    assert exact and all(row["residual"] < 0.05 and row["gain"] > 0.99 for row in exact)
    assert "Fisher products" in path.with_suffix(".md").read_text()


@pytest.mark.slow
@pytest.mark.guard
def test_physics(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    message = [
        *shlex.split("--robots swimmer --states 3 --num-envs 2 --steps 2 --repeats 1"),
        "--out",
        tmp_path,
    ]
    run("physics", *message)
    (path,) = tmp_path.glob("physics-*.json")
    result = json.loads(path.read_text())
    largest = {
        section: result[section]["swimmer"]["qpos_state_largest"]
        for section in ("accuracy", "settings")
    }
    assert largest["accuracy"] < 1e-3 < largest["settings"]
    assert abs(result["accuracy"]["swimmer"]["return_mean_difference_%"]) < 1
    assert result["speed"]["swimmer"]["steps_per_s_2"] > 0
    assert "swimmer" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("liir", ("liir", "liir", False, {})),
        ("lam0=liir:intrinsic_coef=0", ("lam0", "liir", False, {"intrinsic_coef": 0})),
        ("a.b=central-v.reference", ("a.b", "central-v", True, {})),
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
def test_variants_of_algorithms(word: str, expected: tuple) -> None:
    assert tuple(variants.parse(word)) == expected


def test_words_for_yes_and_no_are_flags() -> None:
    assert variants.parse("x=iac:normalize_advantages=false,parameter_sharing=True").fields == {
        "normalize_advantages": False,
        "parameter_sharing": True,
    }


@pytest.mark.parametrize(
    "word", ["liir:intrinsic_coef=0", "liir.reference", "a=b=c", "", "x=liir:", "..=iac"]
)
def test_variants_that_cannot_be(word: str) -> None:
    with pytest.raises(ValueError, match="allowed is ALGORITHM or LABEL=ALGORITHM"):
        variants.parse(word)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("mappo", "mappo=mappo:lr_anneal_steps=9"),
        ("lam0=liir:intrinsic_coef=0", "lam0=liir:intrinsic_coef=0,lr_anneal_steps=9"),
        ("a=liir.reference", "a=liir.reference:lr_anneal_steps=9"),
        ("a=liir:lr_anneal_steps=0", "a=liir:lr_anneal_steps=0"),
    ],
)
def test_all_anneal_to_the_end(word: str, expected: str) -> None:
    assert reproduce_liir.annealed(word, 9) == expected


def test_beating_is_of_the_right_one() -> None:
    sure = reproduce_liir.beats([3.0, 4.0], [1.0, 2.0])
    assert sure == {"iqm": 1.0, "low": 1.0, "high": 1.0}
    even = reproduce_liir.beats([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert even["iqm"] == 0.5 and even["low"] < 0.3 and even["high"] > 0.7
    lost = [float("nan")] * 3
    assert reproduce_liir.beats([*lost, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, *lost]) == even
    assert set(map(str, reproduce_liir.beats(lost, [1.0]).values())) == {"nan"}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("--algorithms x=iac:qq=1", "x: config has the unknown field 'qq'; allowed are"),
        (
            "--algorithms liir:intrinsic_coef=0",
            "algorithm is 'liir:intrinsic_coef=0'; allowed is ALGORITHM or LABEL=",
        ),
        ("--algorithms y=mappo.reference", "algorithm is 'mappo.reference'; allowed is"),
        ("--algorithms iac --envs toy/reach coma", "iac: Unknown environment 'coma'"),
        ("--algorithms coma --envs toy/reach", "coma: algorithm 'coma' compares every action"),
        ("--algorithms iac --steps 0", "'0'; allowed is a whole number, 1 or more"),
        ("--algorithms iac --against mappo", "--against is 'mappo'; allowed is one of iac"),
        ("--maps --envs", "--maps names none"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    message: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if "--envs" in message else ["--envs", "toy/payoff"]
    with pytest.raises(SystemExit):
        reproduce_liir.main(
            [*where, *message.split(), "--runs", str(tmp_path), "--out", str(tmp_path)]
        )
    assert text in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_results_of_other_sizes_are_not_replaced(tmp_path: Path) -> None:
    plan = {"total_steps": 128, "eval_episodes": 32, "greedy": False, "seeds": [0, 1]}
    (tmp_path / "learning-toy-counter.json").write_text(
        json.dumps({"rows": {"ippo": {"plan": plan}}})
    )
    message = [
        "--env",
        "toy/counter",
        "--out",
        str(tmp_path),
        *shlex.split("--seeds 2 --eval-episodes 32"),
    ]

    def check(*more: str) -> None:
        learning.check(learning.options([*message, *more]))

    check("--algorithms", "mappo", "--total-steps", "128")
    check("--algorithms", "ippo", "--total-steps", "256")
    for more in (
        ("mappo", "--total-steps", "256"),
        ("ippo", "--total-steps", "64"),
        ("ippo", "--seeds", "3"),
    ):
        total = [] if "--total-steps" in more else ["--total-steps", "128"]
        with pytest.raises(
            ValueError, match="holds results of ippo with total_steps 128.*or another --out"
        ):
            check("--algorithms", *more, *total)


def test_settings_at_which_a_seed_diverged_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    liir_ablation = importlib.import_module("liir_ablation")
    chosen = liir_ablation.options(["--trials", "6", "--tuning-seeds", "2"])
    rates = []

    def curve(keys: Any, config: Any) -> Any:
        """The higher the learning rate the better, but at the highest of a round the second seed
        diverges."""
        lr = np.asarray(config.lr)
        rates.append(sorted(set(lr.tolist())))
        result = np.repeat(lr[:, None], 3, 1)
        result[np.flatnonzero(lr == lr.max())[-1]] = np.nan
        return result

    monkeypatch.setattr(liir_ablation, "CHOICES", {"num_epochs": (4,), "num_minibatches": (2,)})
    tried = liir_ablation.tuned(
        lambda *choices: curve, jml.LIIRConfig(), "relay", "lambda = 0", chosen
    )
    assert [len(item) for item in rates] == [3, 3] and [score for _, score in tried].count(
        -np.inf
    ) == 2
    assert max(tried, key=lambda trial: trial[1])[0].lr == pytest.approx(
        max(item[-2] for item in rates), rel=1e-6
    )
    row = {
        "steps": [1, 2],
        "returns": [[1.0, 2.0], [None, None]],
        "best": 2.0,
        "chosen": {"lr": 1e-3},
    }
    described = dict(trials=6, tuning_seeds=2, seeds=2, num_envs=4, num_steps=4, hidden_sizes=[4])
    data = {"rows": {"relay": {"exact": row}}, "settings": described, "facts": bench_utils.facts()}
    assert "| exact (1 of 2 seeds diverged) | 2.000" in liir_ablation.text(data)


def test_every_variant_searches_epochs_and_minibatches() -> None:
    liir_ablation = importlib.import_module("liir_ablation")
    chosen = liir_ablation.options(["--trials", "16", "--tuning-seeds", "2"])
    drawn: dict[str, list[Any]] = {}
    for variant in set(liir_ablation.VARIANTS) - set(liir_ablation.BORROWED):
        compiled = []

        def program(epochs: int, num_minibatches: int, compiled: list[Any] = compiled) -> Any:
            compiled.append((epochs, num_minibatches))
            return lambda keys, config: np.full((len(keys), 3), float(epochs * num_minibatches))

        tried = liir_ablation.tuned(program, jml.LIIRConfig(), "relay", variant, chosen)
        assert len(tried) == 16 and max(tried, key=lambda trial: trial[1])[1] == max(
            e * m for e, m in compiled
        )
        assert (
            len({config.num_epochs for config, _ in tried})
            > 1
            < len({config.num_minibatches for config, _ in tried})
        )
        drawn[variant] = sorted(
            (config.lr, config.num_epochs, config.num_minibatches) for config, _ in tried[:8]
        )
        assert liir_ablation.settings_of(tried[0][0])["num_epochs"] == tried[0][0].num_epochs
    assert all(first == drawn["exact"] for first in drawn.values())


def test_runs_that_cannot_be_resumed_are_reported_at_once(tmp_path: Path) -> None:
    message = ["--env", "toy/counter", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    begun = learning.options(
        [*message, "--algorithms", "a=ippo:lr_anneal_steps=128", "--total-steps", "128"]
    )
    plan = variants.check(
        begun.variants["a"],
        begun.env,
        seeds=3,
        total_steps=128,
        num_evaluations=20,
        eval_episodes=128,
    )
    run_dir.create(learning.folder(begun, "a"), plan.to_dict())
    learning.check(begun)
    for word, steps, described in (
        (
            "a=ippo:lr_anneal_steps=256",
            "256",
            "a: config.lr_anneal_steps is 256.*has 128.*or another --runs",
        ),
        (
            "a=ippo:lr_anneal_steps=128",
            "64",
            "a: total_steps is 64, but the run in .* has 128; allowed is as many",
        ),
    ):
        with pytest.raises(ValueError, match=described):
            learning.check(
                learning.options([*message, "--algorithms", word, "--total-steps", steps])
            )


def test_an_old_result_is_not_reported_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"total_steps": 128, "eval_episodes": 4, "greedy": True, "seeds": [0, 1]}
    (tmp_path / "learning-toy-payoff.json").write_text(
        json.dumps({"rows": {"iac": {"plan": plan}}})
    )
    monkeypatch.setattr(reproduce_liir.learning, "main", lambda message: 1)
    message = shlex.split(
        "--envs toy/payoff --algorithms iac --steps 128 --seeds 2 --eval-episodes 4"
    )
    assert reproduce_liir.main([*message, "--runs", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert not list(tmp_path.glob("reproduce-liir*"))


def test_what_is_there_already_may_be_compared_with(tmp_path: Path) -> None:
    plan = {"total_steps": 128, "eval_episodes": 4, "greedy": True, "seeds": [0, 1]}
    (tmp_path / "learning-toy-payoff.json").write_text(
        json.dumps({"rows": {"liir": {"plan": plan}}})
    )
    message = shlex.split(
        "--envs toy/payoff --algorithms iac --steps 128 --seeds 2 --eval-episodes 4 --out"
    )
    assert reproduce_liir.options([*message, str(tmp_path)]).against == "liir"
    assert reproduce_liir.options([*message, str(tmp_path / "other")]).against == "iac"


def test_win_rates_are_pooled_and_returns_are_not() -> None:
    def data(low: float, won: bool) -> dict:
        curves = {
            name: [[0.0, low + x], [0.0, low + x]] for name, x in (("liir", 0.2), ("lam0", 0.1))
        }
        return {
            "rows": {
                name: {"steps": [0, 1], "returns": curve, "win_rates": curve if won else None}
                for name, curve in curves.items()
            }
        }

    rows = reproduce_liir.summary({"a": data(0.1, True), "b": data(0.5, True)}, "liir")
    pooled = {row["algorithm"]: row for row in rows if row["env"] == "all"}
    assert set(pooled) == {"liir", "lam0"} and abs(pooled["lam0"]["end"]["iqm"] - 0.4) < 1e-9
    assert pooled["lam0"]["beaten, end"] == {"iqm": 1.0, "low": 1.0, "high": 1.0}
    rows = reproduce_liir.summary({"a": data(0.1, True), "b": data(0.5, False)}, "liir")
    assert {row["env"] for row in rows} == {"a", "b"}


@pytest.mark.slow
def test_reproduce_liir(tmp_path: Path) -> None:
    message = shlex.split("--envs toy/pursuit toy/counter --algorithms liir lam0 mappo --steps 128")
    message += shlex.split(
        "--seeds 2 --num-evaluations 2 --eval-episodes 4 --num-envs 4 --num-steps 16"
    )
    run("reproduce_liir", *message, "--runs", tmp_path / "runs", "--out", tmp_path)
    rows = json.loads((tmp_path / "reproduce-liir.json").read_text())["rows"]
    assert [(row["env"], row["algorithm"]) for row in rows] == [
        (env, name) for env in ("toy/pursuit", "toy/counter") for name in ("liir", "lam0", "mappo")
    ]
    assert "beaten, end" not in rows[0] and 0 <= rows[1]["beaten, end"]["iqm"] <= 1
    built = json.loads((tmp_path / "learning-toy-pursuit.json").read_text())["rows"]
    assert (
        built["lam0"]["plan"]["config"]["intrinsic_coef"] == 0
        and built["liir"]["plan"]["config"]["intrinsic_coef"] != 0
    )
    assert built["liir"]["plan"]["greedy"]
    assert (tmp_path / "reproduce-liir.png").stat().st_size > 1000
    assert "lam0=liir:intrinsic_coef=0" in (tmp_path / "reproduce-liir.md").read_text()


@pytest.mark.slow
def test_liir_ablation(tmp_path: Path) -> None:
    message = [
        "--tasks",
        "climbing",
        "--variants",
        "exact without",
        "exact",
        "lambda = 0",
        "--trials",
        3,
    ]
    message += shlex.split(
        "--tuning-seeds 2 --seeds 3 --steps 64 --num-envs 4 --num-steps 4 --hidden-sizes 4"
    )
    message += ["--points", 2, "--out", tmp_path]
    run("liir_ablation", *message)
    path = tmp_path / "liir-ablation.json"
    rows = json.loads(path.read_text())["rows"]["climbing"]
    same, without = rows["exact"]["chosen"], rows.pop("exact without")
    assert without["chosen"] == same | {"intrinsic_coef": 0.0} and not without["trials"]
    for variant, row in rows.items():
        assert row["steps"] == [32, 64] and [len(curve) for curve in row["returns"]] == [2, 2, 2]
        *first, last = row["trials"]
        assert (
            len(first) == 2
            and first[0]["lr"] != first[1]["lr"]
            and first[0]["intrinsic_coef"] == first[1]["intrinsic_coef"]
        )
        best = max(first, key=lambda trial: trial["score"])
        plain = variant == "lambda = 0"
        assert [last[name] == best[name] for name in ("lr", "entropy_coef", "intrinsic_coef")] == [
            not plain,
            not plain,
            plain,
        ]
        reached = max(row["trials"], key=lambda trial: trial["score"])
        assert (
            row["chosen"] == {name: reached[name] for name in row["chosen"]}
            and (row["chosen"]["intrinsic_coef"] == 0) is plain
        )
    learned, plain = ([trial["lr"] for trial in row["trials"][:2]] for row in rows.values())
    assert learned == plain
    previous = path.stat().st_mtime_ns
    assert "after" not in run("liir_ablation", *message)  # nothing is trained again
    assert path.stat().st_mtime_ns == previous
    assert path.with_suffix(".png").stat().st_size > 1000
    with pytest.raises(AssertionError, match="holds results with seeds 3, not 4"):
        run("liir_ablation", *message, "--seeds", 4)
    with pytest.raises(
        AssertionError, match="--variants has 'exact without'; allowed with 'exact', whose settings"
    ):
        run("liir_ablation", *message, "--out", tmp_path / "other", "--variants", "exact without")
    assert path.stat().st_mtime_ns == previous


@pytest.mark.slow
def test_pursuit(tmp_path: Path) -> None:
    message = shlex.split(
        "--steps 1024 --seeds 2 --checks 2 --variants exact none --num-envs 4 "
        "--num-steps 16 --hidden-sizes 4"
    )
    run("pursuit", *message, "--out", tmp_path)
    rows = json.loads((tmp_path / "pursuit.json").read_text())["rows"]
    assert set(rows) == {"exact", "none"}
    for row in rows.values():
        assert (
            row["steps"] == [0, 512, 1024]
            and len(row["episode_return"]) == 2
            and len(row["episode_return"][0]) == 2
        )
        gaps = [
            [a - b for a, b in zip(*pair, strict=True)]
            for pair in zip(row["toward"], row["away"], strict=True)
        ]
        assert len(gaps) == 2 and all(len(gap) == 3 for gap in gaps)
    assert rows["none"]["toward"][0][0] == rows["exact"]["toward"][0][0]  # one beginning
    assert (
        rows["none"]["toward"][0][1]
        == rows["none"]["toward"][0][0]
        != rows["exact"]["toward"][0][1]
    )
    assert (tmp_path / "pursuit.png").stat().st_size > 1000 and "| exact |" in (
        tmp_path / "pursuit.md"
    ).read_text()


@pytest.mark.slow
def test_reproduce_macpo(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    message = shlex.split(
        "--tasks halfcheetah-2x3 --algorithms happo --steps 32 --seeds 2 --num-evaluations 1"
    )
    message += [
        *shlex.split("--eval-episodes 1 --num-envs 4 --num-steps 8"),
        "--runs",
        tmp_path / "runs",
        "--out",
        tmp_path,
    ]
    run("reproduce_macpo", *message)
    ((task, name, paper_return, paper_cost, *_, limit, within, steps, seeds),) = json.loads(
        (tmp_path / "reproduce-macpo.json").read_text()
    )["rows"]
    assert (task, name, paper_return, paper_cost) == ("halfcheetah-2x3", "happo", 3700, 555)
    assert (limit, within, steps, seeds) == (5.0, "no", 32, 2)
    assert (tmp_path / "reproduce-macpo.png").stat().st_size > 1000


def test_the_curves_of_stored_results_are_drawn(tmp_path: Path) -> None:
    stored = {
        name: json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
        for name in (
            "pursuit",
            "liir-ablation",
            "learning-safe-mujoco-halfcheetah-2x3",
            "learning-smax-3m",
        )
    }
    importlib.import_module("pursuit").draw(stored["pursuit"]["rows"], tmp_path / "pursuit.png")
    importlib.import_module("liir_ablation").draw(
        stored["liir-ablation"]["rows"], tmp_path / "where.png"
    )
    robots = {"halfcheetah": stored["learning-safe-mujoco-halfcheetah-2x3"]}
    importlib.import_module("reproduce_macpo").draw(robots, tmp_path / "macpo.png")
    reproduce_liir.draw({"smax/3m": stored["learning-smax-3m"]}, [], "liir", tmp_path / "liir.png")
    assert (
        all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())
        and len(list(tmp_path.iterdir())) == 4
    )
