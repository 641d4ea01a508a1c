"""The command line: what users type, and one line for what cannot be."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from constrained_envs import Limited, env_by_id
from tiny_runs import assert_same_bits, rows

import jaxmarl_lite as jml
from jaxmarl_lite import exported_policy
from jaxmarl_lite.cli import inspect
from jaxmarl_lite.cli import train as cli_train
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.envs import _import, registry
from jaxmarl_lite.report import plotting, run_dir

LENIENT_RANKS = True  # Jumanji's
SIZES = shlex.split(
    "--num-envs 4 --num-steps 4 --eval-episodes 4 --num-evaluations 2 --total-steps 64 --seeds 2"
)
SIZES += ["--hidden-sizes", "4"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands in this process set variables for JAX; they shall not outlive the test."""
    for name in ("DIR", "MIN_ENTRY_SIZE_BYTES", "MIN_COMPILE_TIME_SECS"):
        prefix = "JAX_COMPILATION_CACHE_" if name == "DIR" else "JAX_PERSISTENT_CACHE_"
        monkeypatch.setenv(prefix + name, str(tmp_path / "cache") if name == "DIR" else "0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "counter"
    assert (
        main(
            [
                *shlex.split("train liir --env toy/counter"),
                *SIZES,
                *shlex.split("--lr 1e-3 --intrinsic-coef 0.1"),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


def test_options_reach_the_run(trained: Path) -> None:
    config = run_dir.read_config(trained)
    assert (
        config["config"]["lr"],
        config["config"]["intrinsic_coef"],
        config["config"]["hidden_sizes"],
    ) == (1e-3, 0.1, [4])
    assert (config["seeds"], config["total_steps"], config["num_envs"]) == ([0, 1], 64, 4)


@pytest.mark.filterwarnings("always::jaxmarl_lite.report.run_dir.RunFolderWarning")
def test_what_is_damaged_is_said_in_one_printable_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    metrics, manifest = (
        run / "metrics.jsonl",
        run / "checkpoints" / "step_000000000004" / "manifest.json",
    )
    full = metrics.read_text()
    metrics.write_text(full.replace("eval_return", "eval\\u001b[31m"))
    manifest.write_text("{")
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == 2 and all(line.startswith("jaxmarl-lite: ") for line in said)
    assert (
        "its copy is read instead" in said[0]
        and "the checkpoint of update 2 is read instead" in said[1]
    )
    metrics.write_text(
        full + full.splitlines()[-1].replace('"is_finite"', '"\\u001b[31mred/[/red]"') + "\n"
    )
    for command in ("evaluate", "plot", "render"):
        assert main([command, str(run)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].isprintable() and "line 7 is no metrics row" in said[0]
    metrics.write_text(full * 2)
    assert main(["plot", str(run)]) == 2
    assert "line 7 is no row of this run: there is another one" in capsys.readouterr().err


def test_a_config_repeats_its_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["train", "--config", str(trained / "config.json"), "--out", str(tmp_path / "again")])
        == 0
    )
    said = capsys.readouterr().out
    assert "update 4/4" in said and "IQM" in said and "\x1b" not in said
    assert rows(tmp_path / "again") == rows(trained)
    assert run_dir.read_config(tmp_path / "again") == run_dir.read_config(trained)
    assert (
        main(
            [
                "train",
                "liir",
                "--config",
                str(trained),
                *shlex.split("--lr 0.5 --seeds 7 5 --quiet"),
            ]
        )
        == 0
    )
    assert not capsys.readouterr().out


def test_export_writes_the_policy_in_three_formats(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, program = tmp_path / "policy.safetensors", tmp_path / "policy.zip"
    assert main(["export", str(trained), str(weights), "--seed", "1", "--greedy"]) == 0
    assert f"{weights} (greedy actions, " in capsys.readouterr().out
    loaded, expected = jml.load_policy(weights), jml.load_run(trained).policy(1, greedy=True)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    assert loaded.greedy and loaded.config == expected.config and loaded.config.lr == 1e-3
    assert main(["export", str(trained), str(program), "--batch-size", "3"]) == 0
    assert not exported_policy.read_manifest(program)["greedy"]
    capsys.readouterr()
    for arguments, message in (
        ([str(tmp_path / "policy.npz")], "allowed is a file, NAME.safetensors or NAME.zip or NAM"),
        ([str(program), "--greedy", "--sampled"], "allowed is one of them"),
        ([str(tmp_path / "policy.onnx")], "greedy is False; allowed for ONNX"),
        ([str(weights), "--batch-size", "2"], "a file of weights fits any"),
        ([str(weights), "--seed", "4"], "seed is 4; allowed is one of 0, 1"),
    ):
        assert main(["export", str(trained), *arguments]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and message in said[0], said


def test_resume_prolongs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = ["train", "--config", str(trained), "--out"]
    assert main([*begin, str(tmp_path / "a")]) == 0
    assert main(["train", "--resume", str(tmp_path / "a")]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "a"), "--total-steps", "128"]) == 0
    assert (
        main([*begin, str(tmp_path / "b"), "--total-steps", "128", "--num-evaluations", "4"]) == 0
    )
    assert_same_bits(jml.load_run(tmp_path / "a").states, jml.load_run(tmp_path / "b").states)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--episodes", "8", "--greedy"]) == 0
    said = capsys.readouterr().out
    assert "seed 1" in said and "IQM" in said and "greedy" in said


def test_what_diverged_is_not_played(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a discrete world weights that are not finite would act all the same, and get a return."""
    path = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(run_dir, "_newest_mark", lambda folder: None)  # rows are put in by hand
    retained = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in retained:
        row |= {"eval_return": None, "is_finite": 0} if row["seed"] == 0 and row["update"] else {}
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in retained))
    assert main(["evaluate", str(path), "--episodes", "8"]) == 0
    said = capsys.readouterr().out
    assert (
        re.search(r"seed 0 +left out\s", said)
        and re.search(r"seed 1 +\d", said)
        and "1 of 2 seeds" in said
    )
    result = jml.load_run(path)
    assert result.diverged == (0,)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in retained[:-1]))
    assert jml.load_run(path).diverged == (0,)  # a row that is missing tells nothing
    bias = result.learner(1).actor_params["head"]["bias"]
    np.testing.assert_array_equal(result.policy().params["actor_params/head/bias"], bias)
    for ask in (result.policy, result.episode):
        with pytest.raises(
            ValueError, match=re.escape("seed is 0 (it diverged); allowed is one of 1")
        ):
            ask(seed=0)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run in an environment with limits: agent 1 pays 3 of 'a', over its limit, and 30 of 'b';
    agent 0 nothing."""
    out = tmp_path_factory.mktemp("limited") / "run"
    sizes: dict[str, Any] = dict(
        num_envs=4, num_steps=4, eval_episodes=4, total_steps=64, num_evaluations=2, quiet=True
    )
    with env_by_id("test/tally", Limited(((math.inf, 2.5), 30.0))) as env:
        jml.run("ippo", env, config=jml.IPPOConfig(hidden_sizes=(4,)), seeds=2, out=out, **sizes)
        yield out


def test_evaluate_shows_costs(limited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(limited), "--episodes", "8"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # Wilson's interval of none, and of all, of 2 x 8 episodes
    assert [
        "a,",
        "agent",
        "1",
        "2.5",
        "3.00",
        "[3.00,",
        "3.00]",
        "0.000",
        "[0.000,",
        "0.194]",
    ] in lines
    assert [
        "b,",
        "agent",
        "1",
        "30",
        "30.00",
        "[30.00,",
        "30.00]",
        "1.000",
        "[0.806,",
        "1.000]",
    ] in lines
    assert [
        "seed",
        "1",
        "3.00",
        "(agent",
        "1),",
        "0.000",
        "30.00",
        "(agent",
        "1),",
        "1.000",
    ] in lines


def test_a_limit_goes_over_its_like_in_a_config(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    begin = ["train", "macpo", "--env", "toy/budget-two", *SIZES, "--cost-limit"]
    names = jml.make("toy/budget-two").spec.cost_names
    assert main([*begin, f"{names[0]}=7,8", f"{names[1]}=9", "--out", str(first)]) == 0
    again = ["train", "--config", str(first), "--cost-limit"]
    assert main([*again, f"{names[1]}=5", "--out", str(second)]) == 0
    assert main([*again, "6", "--out", str(third)]) == 0
    retained, all_alike = (
        run_dir.read_config(run)["config"]["cost_limit"] for run in (second, third)
    )
    assert retained == {names[0]: [7, 8], names[1]: 5} and all_alike == {names[0]: 6, names[1]: 6}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            ["energy=3", "energy=4"],
            "is 'energy=3 energy=4'; allowed is each cost once: NAME=LIMIT",
        ),
        (["3", "4"], "is '3 4'; allowed is each cost once: NAME=LIMIT"),
        (["energy=3", "4"], "is 'energy=3 4'; allowed is each cost once: NAME=LIMIT"),
        (["energy=few"], "is 'energy=few'; allowed is NAME=LIMIT, NAME=LIMIT,LIMIT... or one"),
        (["energy=-3"], "--cost-limit of 'energy' is -3.0; allowed is a number from 0 up"),
        (["work=3"], "cost in MACPOConfig.cost_limit is 'work'; allowed is one of energy"),
    ],
)
def test_limits_that_cannot_be(
    inputs: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["train", "macpo", "--env", "toy/budget", *SIZES, "--cost-limit", *inputs])
    except SystemExit as left:  # said by the parser of the command line, in its frame
        code = left.code
    assert code == 2 and said in " ".join(capsys.readouterr().err.split())


def test_plot_draws_limits(limited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    save = plotting.save
    monkeypatch.setattr(
        plotting, "save", lambda figure, path: (drawn.append(figure), save(figure, path))[1]
    )
    assert (
        main(["plot", str(limited), "--metric", "eval_cost"]) == 0
        and (limited / "eval_cost.png").exists()
    )
    both = [
        "plot",
        str(limited),
        str(limited.parent / "run" / ".." / "run"),
        "--metric",
        "episode_cost",
    ]
    assert main([*both, "--out", str(tmp_path / "both.png")]) == 0
    for figure in drawn:
        levels = [
            [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
            for axes in figure.axes
        ]
        assert levels == [[2.5], [30]]
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["cost: a", "cost: b"]
    assert (
        main(
            [
                "plot",
                str(limited),
                "--metric",
                "num_violations",
                "--out",
                str(tmp_path / "counts.png"),
            ]
        )
        == 0
    )
    assert len(drawn) == 3 and (tmp_path / "counts.png").exists()


def test_list_shows_costs_and_limits(limited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "test/tally", "toy/counter"]) == 0
    said = capsys.readouterr().out
    assert "a none, 2.5; b 30" in said and re.search(r"test/tally .* 2 +a", said)
    assert main(["list", "toy/relay"]) == 0
    assert re.search(r"keywords of toy/relay .*: .*steps", capsys.readouterr().out)
    for wrong, near in (("lirr", "liir"), ("overcooked", "overcooked/")):
        assert main(["list", wrong]) == 2
        said = capsys.readouterr().err
        assert f"algorithm or environment is '{wrong}'; allowed: what" in said
        assert re.search(f"nearest: .*{near}", said)


def test_plot(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(trained)]) == 0 and (trained / "eval_return.png").exists()
    out = tmp_path / "both.png"
    assert (
        main(
            [
                "plot",
                str(trained),
                str(trained),
                "--metric",
                "intrinsic_reward_mean",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert out.exists()
    capsys.readouterr()
    assert main(["plot", str(trained), "--metric", "retrun"]) == 2
    assert "metric is 'retrun'" in capsys.readouterr().err


def test_render(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(trained)]) == 0  # no film of it, but LIIR's rewards
    said = capsys.readouterr().out
    assert (
        "episode.rewards.png" in said
        and ".gif" not in said
        and (trained / "episode.rewards.png").exists()
    )
    plain = tmp_path / "plain"
    assert (
        main(["train", "ippo", "--env", "toy/counter", *SIZES, "--quiet", "--out", str(plain)]) == 0
    )
    assert main(["render", str(plain)]) == 2
    assert "toy/counter cannot be drawn" in capsys.readouterr().err
    result = jml.load_run(trained)
    drawn: list[int] = []

    class Drawn:
        spec, reset, step = (
            result.env.spec,
            staticmethod(result.env.reset),
            staticmethod(result.env.step),
        )

        def animate(self, states: list, path: Path) -> Path:
            drawn.extend(int(state.time) for state in states)
            return path

    from jaxmarl_lite.cli import inspect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "load_run", lambda path, checkpoint: jml.load_run(path, Drawn()))
        assert (
            main(["render", str(trained), "--seed", "1", "--out", str(tmp_path / "film.gif")]) == 0
        )
    assert drawn == list(range(len(drawn))) and 3 < len(drawn) <= 7
    assert "film.gif" in capsys.readouterr().out and (tmp_path / "film.rewards.png").exists()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert (
        all(name in said for name in jml.ALGORITHMS)
        and "toy/counter" in said
        and "jumanji/lbf" in said
    )
    assert main(["list", "toy/reach", "liir"]) == 0
    said = capsys.readouterr().out
    assert "continuous" in said and "meta_gradient" in said


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("trian liir", "command is 'trian'; allowed is one of train, .*; nearest: train"),
        ("train lir --env toy/counter", "algorithm is 'lir'.*nearest: liir"),
        ("train --env toy/counter", "algorithm is missing before --env"),
        ("train liir --env toy/conter", "toy/counter"),
        ("train liir --env jumanji/lbf-2s-8x8-2p-2f-cop", "lbf-2s-8x8-2p-2f-coop"),
        (
            "train liir --env toy/counter --lr 100",
            "LIIRConfig.lr is 100.0; allowed is a number from 0 to 10",
        ),
        ("train liir --env toy/counter --num-envs 3", "num_envs is 3 and num_minibatches is 2"),
        ("train liir --env toy/counter --env-args gaol=3", "gaol.*goal"),
        (
            "train liir --env toy/counter --env-args goal",
            "env_args has 'goal'; allowed is name=value",
        ),
        (
            "train macpo --env safe-mujoco/ant-2x4 --env-args standardize=falsch",
            "standardize of .* is 'falsch'",
        ),
        ("train liir --env toy/counter --seeds 1 1", "seeds is .*different"),
        ("train liir --config nowhere.json", "nowhere.json"),
        ("train mappo --config RUN", "algorithm is 'mappo', but the config given is of 'liir'"),
        ("train --resume nowhere", "nowhere is no folder"),
        ("train --resume RUN --config RUN", "--config and --resume are both given"),
        ("train --resume RUN --num-envs 8", "num_envs is 8, but the run in .* has 4"),
        (
            "train liir --env toy/counter --out RUN",
            "already holds a run; continue it with --resume",
        ),
        ("train liir --env toy/counter --num-processes 2", "no effect without --distributed"),
        (
            "train liir --env toy/counter --env-args goal=x",
            "goal is 'x'; allowed is a whole number, 1 or more",
        ),
        (
            "train ippo --env toy/counter --shared-torso --critic-lr 1e-3",
            "critic_lr is 0.001, which has no effect",
        ),
        ("evaluate nowhere", "nowhere is no folder"),
        (
            "evaluate RUN --episode-seed 99999999999999999999",
            "episode_seed is 99999999999999999999; allowed is a whole number from",
        ),
        ("render RUN --seed 5", "seed is 5; allowed is one of"),
        ("list toy/conter", "toy/counter"),
    ],
)
def test_bad_input_is_one_line(
    message: str, text: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(message.replace("RUN", str(trained)).split()) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("jaxmarl-lite: ") and not said.out
    assert re.search(text, said.err), said.err


def test_words_for_true_and_false_are_no_text() -> None:
    result = [
        cli_train.keyword(word)
        for word in ("a=false", "a=True", "a=TRUE", "a=0", "a=falsely", "a='true'")
    ]
    assert result == [("a", x) for x in (False, True, True, 0, "falsely", "true")]


def test_sizes_are_listed_without_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [("toy/counter", ""), ("mujoco/hopper-3x1", "")]
    monkeypatch.setattr(inspect.envs, "list_environments", lambda: listed)
    monkeypatch.setattr(_import, "is_installed", lambda name: name != "mujoco.mjx")
    registry._make_cached.cache_clear()
    assert main(["list", "--sizes"]) == 0
    said = capsys.readouterr().out
    assert "toy/counter" in said and "install 'jaxmarl-lite[mujoco]'" in said.replace("\n", "")
    assert main(["list", "mujoco/hopper-3x1"]) != 0
    registry._make_cached.cache_clear()


def test_damaged_files_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "config.json"
    bad.write_text("{")
    assert (
        main(["train", "liir", "--config", str(bad)]) == 2
        and "config.json is damaged" in capsys.readouterr().err
    )
    config = run_dir.read_config(trained)
    bad.write_text(json.dumps(config | {"config": config["config"] | {"lr": "fast"}}))
    assert main(["train", "--config", str(bad)]) == 2
    assert "LIIRConfig.lr is 'fast'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxmarl_lite.cli import inspect

    monkeypatch.setattr(inspect.envs, "list_environments", lambda: jax.numpy.zeros(3).reshape(2))
    with pytest.raises((TypeError, ValueError)):
        main(["list"])


def test_help_is_quick_and_whole() -> None:
    def ask(*message: str) -> str:
        return subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "jaxmarl_lite", *message],
            capture_output=True,
            text=True,
            check=True,
        ).stderr

    assert " jax\n" not in ask("--help")


def test_every_setting_has_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "liir", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert left.value.code == 0 and "the weight of the intrinsic reward in the proxy reward" in said
    for option in (
        "--intrinsic-coef",
        "--meta-gradient",
        "--hidden-sizes",
        "--parameter-sharing",
        "--out",
        "--env-args",
        "--resume",
    ):
        assert option in said
