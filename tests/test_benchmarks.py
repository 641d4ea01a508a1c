"""Every benchmark says what it does, and the smallest of each kind leaves its files."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmarl_lite as jml

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "drivers")]
compare_speed = importlib.import_module("compare_speed")
first_line = importlib.import_module("first_line")
bench_utils, serving = importlib.import_module("bench_utils"), importlib.import_module("serving")
chips, device_programs = (
    importlib.import_module("chips"),
    importlib.import_module("device_programs"),
)
SCRIPTS = (
    "speed",
    "constrained_step",
    "physics",
    "reference_runs",
    "random_policy",
    "liir_ablation",
    "pursuit",
    "compare_speed",
    "first_line",
    "sweep_time",
    "device_programs",
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
def test_sweep_time(tmp_path: Path) -> None:
    options = "--options=--num-envs 4 --num-steps 4 --hidden-sizes 4 --num-minibatches 1"
    sizes = "--env toy/relay --points 2 --seeds 1 --total-steps 32 --out"
    text = run("sweep_time", options, *sizes.split(), tmp_path)
    seconds = json.loads((tmp_path / "sweep-time-cpu.json").read_text())["seconds"]
    assert len(seconds) == 3 and min(seconds.values()) > 1 and "times the sweep" in text


def test_a_command_is_timed_to_its_first_line_of_progress(tmp_path: Path) -> None:
    """The process and its descendants are killed there, and their CPU seconds are counted."""
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    busy += "print(1, flush=True)\ntime.sleep(99)"
    script = f"""
import subprocess, sys, time
print("compiling (for robots some minutes)", flush=True)
child = subprocess.Popen([sys.executable, "-c", {busy!r}], stdout=subprocess.PIPE)
child.stdout.readline()
open("child", "w").write(str(child.pid))
print("compiling for 30 s\\ncompiled in 1.0 s\\nupdate  0/12  0 steps a seed", flush=True)
time.sleep(99)
"""
    measured = first_line.time_run([sys.executable, "-c", script], tmp_path, os.environ, 60.0)
    assert 0 < measured["start"] < measured["compiled"] <= measured["first_line"] < 50
    assert measured["start"] + 0.2 < measured["compiled"] and measured["cpu"] > 0.3
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "child").read_text()), 0)
    failing = [sys.executable, "-c", "import sys; print('compiling'); sys.exit('env is wrong')"]
    with pytest.raises(SystemExit, match="printed no progress: env is wrong"):
        first_line.time_run(failing, tmp_path, os.environ, 60.0)
    with pytest.raises(SystemExit, match="printed no progress: killed after"):
        first_line.time_run([sys.executable, "-c", script], tmp_path, os.environ, 0.01)


def test_first_lines_of_two_trees_are_compared_by_round() -> None:
    order = first_line.turns(["own", "beside"], 3)
    assert order == ["own", "beside", "beside", "own", "own", "beside"]
    seconds = {"own": (10.0, 20.0, 30.0), "beside": (20.0, 20.0, 45.0)}
    taken: dict[str, int] = {"own": 0, "beside": 0}
    measured = []
    for name in order:
        value = seconds[name][taken[name]]
        taken[name] += 1
        run = {"start": 1.0, "first_line": value, "cpu": 2 * value, "programs_cached": 7}
        measured.append({"tree": name, "cold": run, "warm": run | {"programs_cached": 0}})
    row = {"commits": {"own": "0123456789", "beside": "abcdefghij-dirty"}, "turns": measured}
    assert first_line.medians(row, "beside", "cold") == {
        "start": 1.0,
        "compiled": None,
        "first_line": 20.0,
        "cpu": 40.0,
        "programs_cached": 7,
    }
    assert first_line.ratio_text(row, "cold", "cpu") == "1.50 (1.00 to 2.00)"
    begun = row | {"turns": measured[:3]}  # the second round lacks a turn
    assert first_line.ratio_text(begun, "cold", "cpu") == "2.00 (2.00 to 2.00)"
    settings = {
        "rounds": 3,
        "total_steps": 9,
        "options": "--seeds 1",
        "environment": {"XLA_A": "b"},
    }
    data = {"settings": settings, "facts": bench_utils.facts(), "rows": {"ippo, toy/counter": row}}
    text = first_line.text(data)
    assert "--env ENV --seeds 1 --total-steps 9 --out" in text and "XLA_A=b" in text
    assert "own 0123456, beside abcdefg-dirty" in text and text.count("| ippo, toy/counter |") == 4


def test_first_lines_go_on_after_the_last_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped row goes on where its commits are unchanged; other rows stay."""
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    commits, measured = {"commit": "a" * 40}, []

    def measure(tree: Path, *_: object) -> dict[str, Any]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(tree)
        moments = {"first_line": float(len(measured)), "cpu": 1.0, "programs_cached": 1}
        return {"cold": moments, "warm": moments}

    monkeypatch.setattr(first_line, "check", lambda *_: None)
    monkeypatch.setattr(first_line, "version", lambda _: commits["commit"])
    monkeypatch.setattr(first_line, "measure", measure)
    words = ["--beside", str(BENCHMARKS.parent), "--rounds", "2", "--out", str(tmp_path)]

    def begin(*more: str) -> int:
        measured.clear()
        with pytest.raises(KeyboardInterrupt):
            first_line.main([*words, *more])
        (path,) = tmp_path.glob("first-line-*.json")
        return len(
            json.loads(path.read_text())["rows"]["mappo, " + first_line.DEFAULTS["env"]]["turns"]
        )

    assert begin() == 3
    measured.clear()
    assert first_line.main(words) == 0 and len(measured) == 1
    assert begin("--env", "toy/counter") == 4  # that of the other environment is kept
    assert begin() == 3  # a finished row is measured anew
    commits["commit"] = "b" * 40
    assert begin() == 3 and len(measured) == 3


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("--rounds 0", "'0'; allowed is a whole number, 1 or more"),
        ("--beside EMPTY", "is no checkout of this repository: it has no jaxmarl_lite/__main__.py"),
        ("--env toy/nowhere", "environment is 'toy/nowhere'; allowed"),
    ],
)
def test_no_first_line_is_timed_of_what_cannot_be(
    message: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = message.replace("EMPTY", str(tmp_path)).split()
    with pytest.raises(SystemExit) as ended:
        first_line.main([*words, "--out", str(tmp_path)])
    assert text in f"{ended.value}{capsys.readouterr().err}" and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_first_line(tmp_path: Path) -> None:
    text = run("first_line", "--quick", "--out", tmp_path)
    (path,) = tmp_path.glob("first-line-quick-*.json")
    (turn,) = json.loads(path.read_text())["rows"]["ippo, toy/counter"]["turns"]
    cold, warm = turn["cold"], turn["warm"]
    assert cold["programs_cached"] > 0 == warm["programs_cached"]  # the warm run compiled nothing
    for moments in (cold, warm):
        assert 0 < moments["start"] < moments["compiled"] < moments["first_line"]
    compiling = (moments["compiled"] - moments["start"] for moments in (cold, warm))
    assert next(compiling) > next(compiling) and cold["cpu"] > warm["cpu"] > 1
    assert "| ippo, toy/counter | own | cold |" in text


@pytest.mark.slow
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


def test_rows_that_need_a_peer_are_left_out_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [row for row, (_, peer) in compare_speed.ROWS.items() if not peer]
    assert compare_speed.options([]).rows == alone
    (tmp_path / "MACPO" / "macpo").mkdir(parents=True)
    args = compare_speed.options(["--macpo", str(tmp_path), "--torch-python", "torch"])
    assert [row for row in args.rows if row not in alone] == [
        row for row in compare_speed.ROWS if row.startswith("MACPO's step")
    ]
    own, peer = compare_speed.commands(args.rows[-1], args).values()
    assert own[-1] == "--macpo-step" and peer[0] == "torch" and "--minibatches" in peer
    with pytest.raises(SystemExit):
        compare_speed.options(["--liir", str(tmp_path)])
    assert "is no checkout of liir: it has no src/learners" in capsys.readouterr().err


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
    assert serving.kernels(text) == 5 * (2 + 1 + 1) + 1


def test_the_length_of_a_loop_is_read_where_xla_does_not_note_it() -> None:
    def inner(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.sin(x @ x), None

    def outer(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        x = jax.lax.scan(inner, x, None, length=7)[0]
        return x, jax.lax.while_loop(lambda y: y < 3, lambda y: y + x.sum(), x[0, 0])

    program = jax.jit(lambda x: jax.lax.scan(outer, x, None, length=5))
    text = program.lower(jnp.ones((4, 4))).compile().as_text()
    assert '"known_trip_count":{"n":"5"}' in text and '"known_trip_count":{"n":"7"}' in text
    without = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
    assert "trip_count" not in without
    assert serving.kernels(without) == serving.kernels(text) > 35


def test_parts_of_an_update_and_exchanges_between_devices() -> None:
    name = 'metadata={op_name="jit(update)/transpose(jvp(epochs))/add"}'
    step = 'metadata={op_name="jit(update)/rollout/environment/add"}'
    loop = 'condition=%test, body=%body, backend_config={"known_trip_count":{"n":"5"}}, '
    loop += 'metadata={op_name="jit(update)/rollout/while"}'
    text = f"""HloModule m
%body (s: f32[2]) -> f32[2] {{
  %s = f32[2]{{0}} parameter(0)
  %a = f32[2]{{0}} fusion(%s), kind=kLoop, calls=%inner, {step}
  ROOT %copy = f32[2]{{0}} copy(%a)
}}
ENTRY %main (x: f32[2]) -> f32[2] {{
  %x = f32[2]{{0}} parameter(0)
  %w = f32[2]{{0}} while(%x), {loop}
  %g = (bf16[3,4]{{1,0}}, f32[]) all-reduce-start(%w), to_apply=%sum, {name}
  %h = (bf16[3,4]{{1,0}}, f32[]) all-reduce-done(%g)
  ROOT %y = f32[2]{{0}} copy(%x)
}}
"""
    parts = serving.kernels_by_part(text)
    assert parts == {"environment": 5, "rollout": 5, "epochs": 1, "other": 1}
    assert sum(parts.values()) == serving.kernels(text)
    assert serving.collectives(text) == {"all-reduce": {"number": 1, "bytes": 2 * 12 + 4}}


def test_a_chip_that_cannot_be_compiled_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        device_programs.options(["--chips", "h1000"])
    assert "chip is 'h1000'; allowed is one of a100, h100" in capsys.readouterr().err
    versions = {"jax": "1.2", "jax-cuda12-plugin": "1.1"}
    monkeypatch.setattr(chips.metadata, "version", versions.__getitem__)
    with pytest.raises(chips.ChipError, match=r"jax-cuda12-plugin is 1.1 and jax 1.2; allowed is"):
        chips.check_plugin("h100")

    def absent(name: str) -> str:
        raise chips.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(chips.metadata, "version", absent)
    with pytest.raises(chips.ChipError, match=r"needs libtpu; --plugin-python names one that has"):
        chips.check_plugin("v5e")


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    ["macpo, toy/budget, dense", "liir, toy/budget, dense", "mappo, toy/budget, GRU"],
)
def test_programs_compile_for_a_gpu_that_is_not_there(row: str, tmp_path: Path) -> None:
    """Dense and recurrent networks, a trust region; where the plugin can be installed."""
    site, version = tmp_path / "site", chips.metadata.version("jax")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    packages = (f"{name}=={version}" for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt"))
    try:
        subprocess.run([*command, *packages], check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"the plugin cannot be installed here: {error}")
    python = tmp_path / "python"
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    options = ["--plugin-python", python, "--parts", "matrix", "--only", row, "--jobs", 2]
    out = run("device_programs", *options, "--out", tmp_path / "out")
    assert "1 of 1 compile" in out
    result = json.loads((tmp_path / "out/device-programs-matrix-h100.json").read_text())
    train = result["rows"][row]["programs"]["train_chunk"]
    parts = train["kernels_by_part"]
    assert train["kernels"] == sum(parts.values()) and parts["rollout"] > 0
    assert train["collectives"] == {} and result["rows"][row]["programs"]["init"]["kernels"]


@pytest.mark.slow
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
def test_constrained_step(tmp_path: Path) -> None:
    message = shlex.split(
        "--sections parts memory stride residuals --num-steps 8 --num-envs 8 --view 5 "
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
    # A product [n, i] [i, o] counts 2 n i o. Forwards a layer has one product, backwards two, but
    # the first one (nothing comes in that depends on the weights), and a Fisher product twice the
    # products of a backward pass.
    products = [5 * 6, 6 * 6, 6 * 2]
    unit = 2 * 8 * 8 / 1e9
    backward = unit * (2 * sum(products) - products[0])
    by_hand = {"try": unit * sum(products), "product": 2 * 2 * backward}
    traced = result["parts"]["gflop"]
    assert all(abs(traced[name] / by_hand[name] - 1) < 0.01 for name in by_hand)
    rows = result["memory"]["rows"]
    for chunks in {row["chunks"] for row in rows}:  # forty iterations take no more than five
        assert len({row["temporaries, MB"] for row in rows if row["chunks"] == chunks}) <= 1
    exact = [row for row in result["residuals"]["rows"] if row["Fisher products"] == 40]
    assert exact and all(row["residual"] < 0.05 for row in exact)
    assert all(row["share of best gain, %"] > 99 for row in exact)
    assert "Fisher products" in path.with_suffix(".md").read_text()


@pytest.mark.slow
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


def test_settings_at_which_a_seed_diverged_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    liir_ablation = importlib.import_module("liir_ablation")
    chosen = liir_ablation.options(["--trials", "8", "--group", "4", "--tuning-seeds", "2"])

    def curve(keys: Any, config: Any) -> Any:
        """The higher the learning rate the better, but beyond 2e-3 the second seed diverges."""
        lr = np.asarray(config.lr)
        result = np.repeat(lr[:, None], 3, 1)
        result[1::2][lr[1::2] > 2e-3] = np.nan
        return {"episode_return": result}

    tried = liir_ablation.tuned(
        lambda *choices: curve, jml.LIIRConfig(), "relay", "lambda = 0", chosen
    )
    rates = [config.lr for config, _ in tried]
    assert len(tried) == 8 and max(rates) > 2e-3 > min(rates)
    assert [score == -np.inf for _, score in tried] == [rate > 2e-3 for rate in rates]
    best = max(tried, key=lambda trial: trial[1])[0].lr
    assert best == max(rate for rate in rates if rate <= 2e-3)
    row = {
        "steps": [1, 2],
        "returns": [[1.0, 2.0], [None, None]],
        "best": 2.0,
        "chosen": {"lr": 1e-3},
    }
    described = dict(trials=6, tuning_seeds=2, seeds=2, num_envs=4, num_steps=4, hidden_sizes=[4])
    data = {"rows": {"relay": {"exact": row}}, "settings": described, "facts": bench_utils.facts()}
    assert "| exact (1 of 2 seeds diverged) | 2.000" in liir_ablation.text(data)


def test_seeds_are_trained_in_parts_of_one_shape() -> None:
    """One shape is one compilation; the last part is filled up, and its filling is dropped."""
    liir_ablation = importlib.import_module("liir_ablation")
    sizes = []

    def curves(keys: Any, config: Any) -> Any:
        sizes.append(len(keys))
        return {"episode_return": np.stack([np.asarray(config.lr), np.asarray(keys)], 1)}

    rates = [0.1, 0.2, 0.3, 0.4, 0.5]
    pairs = [(np.float32(i), jml.LIIRConfig(lr=rate)) for i, rate in enumerate(rates)]
    result = liir_ablation._in_parts(curves, pairs, 2)["episode_return"]
    assert sizes == [2, 2, 2]
    np.testing.assert_allclose(result, list(zip(rates, range(5), strict=True)), rtol=1e-6)


def test_a_table_leaves_out_columns_without_values() -> None:
    rows = [{"row": "a", "peer": "", "s": 0.0}, {"row": "b", "peer": None, "s": None}]
    assert bench_utils.table(rows).splitlines()[0] == "| row | s |"


def test_the_commit_is_that_of_the_checkout_itself(tmp_path: Path) -> None:
    assert bench_utils.commit(tmp_path) == "unknown"
    for command in ("init -q", "-c user.name=a -c user.email=b commit -q --allow-empty -m c"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    (tmp_path / "peer").mkdir()
    assert re.fullmatch("[0-9a-f]{40}", bench_utils.commit(tmp_path))
    assert bench_utils.commit(tmp_path / "peer") == "unknown"


def test_every_variant_searches_its_settings_with_as_many_trials() -> None:
    liir_ablation = importlib.import_module("liir_ablation")
    chosen = liir_ablation.options(["--trials", "16", "--tuning-seeds", "2"])
    for variant in set(liir_ablation.VARIANTS) - set(liir_ablation.BORROWED):
        compiled = []

        def program(epochs: int, num_minibatches: int, compiled: list[Any] = compiled) -> Any:
            compiled.append((epochs, num_minibatches))
            best = float(epochs * num_minibatches)
            return lambda keys, config: {"episode_return": np.full((len(keys), 3), best)}

        fixed = liir_ablation.VARIANTS[variant]
        plain = jml.LIIRConfig(**fixed)
        tried = liir_ablation.tuned(program, plain, "relay", variant, chosen)
        assert len(tried) == 16 and max(tried, key=lambda trial: trial[1])[1] == max(
            e * m for e, m in compiled
        )
        searched = {*liir_ablation.COMMON, *liir_ablation.CHOICES}
        if fixed.get("intrinsic_coef") != 0:
            searched |= set(liir_ablation.OWN) - set(fixed)
        for name in (*liir_ablation.COMMON, *liir_ablation.CHOICES, *liir_ablation.OWN):
            values = {getattr(config, name) for config, _ in tried}
            assert (len(values) > 1) == (name in searched), (variant, name)
        again = liir_ablation.tuned(program, plain, "relay", variant, chosen)
        assert [config for config, _ in again] == [config for config, _ in tried]


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
        assert len({trial["lr"] for trial in row["trials"]}) == len(row["trials"]) == 3
        plain = variant == "lambda = 0"
        reached = max(row["trials"], key=lambda trial: trial["score"])
        assert (
            row["chosen"] == {name: reached[name] for name in row["chosen"]}
            and (row["chosen"]["intrinsic_coef"] == 0) is plain
        )
        assert (row["diagnostics"] == {}) is plain
    assert 0.0 < rows["exact"]["diagnostics"]["intrinsic_step_share"] <= 1.0
    assert "| step share |" in path.with_suffix(".md").read_text()
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
            and len(row["return"]) == 2
            and len(row["return"][0]) == 2
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


def test_the_curves_of_stored_results_are_drawn(tmp_path: Path) -> None:
    for name in ("pursuit", "liir_ablation"):
        stored = json.loads((BENCHMARKS / "results" / f"{name.replace('_', '-')}.json").read_text())
        importlib.import_module(name).draw(stored["rows"], tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
