"""What a run needs is told before it trains, and a run that does not fit is refused."""

import dataclasses

import jax
import pytest
import tiny_runs

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment import compilation, config, estimate, memory

SIZES = dict(num_envs=64, num_steps=8, seeds=2, total_steps=2048, eval_episodes=4)
SMALL = {"hidden_sizes": (4,)}


def test_an_estimate_trains_nothing_and_the_run_that_follows_compiles_nothing(tmp_path):
    compilation._compile.cache_clear()
    needed = jml.estimate("ippo", "toy/memory", config=SMALL, **SIZES)
    result = jml.run("ippo", "toy/memory", config=SMALL, quiet=True, **SIZES)
    assert compilation._compile.cache_info().misses == 1
    assert needed.plan == result.plan and needed.fits
    states = jax.tree.leaves(result.states)
    assert needed.checkpoint_bytes == sum(x.size * x.dtype.itemsize for x in states)
    # the formula of docs/accelerators.md: T x B x the bytes of one step
    assert needed.rollout_bytes / 512 == pytest.approx(
        jml.estimate("ippo", "toy/memory", config=SMALL, **(SIZES | {"num_envs": 8})).rollout_bytes
        / 64,
        rel=0.05,
    )
    assert needed.programs["train_chunk"].temporaries >= needed.rollout_bytes
    # the states and the rollout are on the device at one time
    assert needed.peak_bytes >= needed.checkpoint_bytes + needed.rollout_bytes
    assert "64 environments" in needed.summary() and "<table>" in needed._repr_html_()


def test_the_states_stay_while_episodes_are_played():
    train, init = memory.ProgramMemory(100, 5, 50, 1), memory.ProgramMemory(0, 100, 10, 1)
    quick = memory.ProgramMemory(20, 3, 8, 1)
    programs = {"train_chunk": train, "evaluate": quick, "init": init}
    assert memory.peak(programs) == 155 + 3
    assert memory.peak(programs | {"evaluate": quick._replace(temporaries=80)}) == 183 + 3


def test_a_dry_run_of_the_command_line_writes_nothing(tmp_path, capsys):
    arguments = "train ippo --env toy/memory --hidden-sizes 4 --num-envs 4 --num-steps 8 --dry-run"
    assert main([*arguments.split(), "--out", str(tmp_path / "run"), "--total-steps", "320"]) == 0
    text = capsys.readouterr().out
    assert "nothing was trained" in text and "10 of 32 environment steps" in text
    assert not (tmp_path / "run").exists()
    assert main([*arguments.split(), "--resume", str(tmp_path)]) == 2
    assert main(["sweep", *arguments.split()[1:], "--grid", "lr=1e-3", "--out", str(tmp_path)]) == 2
    assert "--dry-run is given to a sweep" in capsys.readouterr().err
    with pytest.raises(ValueError, match="argument is 'out'; allowed is one of"):
        jml.estimate("ippo", "toy/memory", out=tmp_path)


@pytest.mark.slow
def test_a_run_that_does_not_fit_names_the_number_that_does(monkeypatch, tmp_path):
    def needed(num_envs):
        plan, env = config.make_run_config(
            "ippo", "toy/memory", config=SMALL, **(SIZES | {"num_envs": num_envs})
        )
        return estimate.of_plan(plan, env).peak_bytes

    limit = (needed(32) + needed(40)) // 2
    monkeypatch.setattr(memory, "device_bytes", lambda device=None: limit)
    message = r"num_envs is 64, with which the run needs .* has .*; allowed is about (\d+) at most"
    with pytest.raises(jml.DeviceMemoryError, match=message) as raised:
        jml.run("ippo", "toy/memory", config=SMALL, quiet=True, out=tmp_path / "run", **SIZES)
    largest = int(str(raised.value).split("about ")[1].split()[0])
    multiple = jml.IPPOConfig().num_minibatches
    assert largest % multiple == 0
    assert needed(largest) <= 1.03 * limit and needed(largest + 8) >= 0.97 * limit
    # the folder takes the run that the message proposes
    fitting = SIZES | {"num_envs": 16, "out": tmp_path / "run"}
    assert jml.run("ippo", "toy/memory", config=SMALL, quiet=True, **fitting).seeds == (0, 1)


@pytest.mark.parametrize("program", ["evaluate", "train_chunk"])
def test_memory_that_runs_out_while_a_run_begins(monkeypatch, tmp_path, program):
    """What lies on the device beside the run is not known before; the error is as clear."""
    compile_run, folder = compilation.compile_run, tmp_path / "run"

    def used_up(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    def with_the_rest_used(plan, env):
        compiled, seconds = compile_run(plan, env)
        return dataclasses.replace(compiled, **{program: used_up}), seconds

    monkeypatch.setattr(memory, "check", lambda *args: None)
    monkeypatch.setattr(compilation, "compile_run", with_the_rest_used)
    with pytest.raises(jml.DeviceMemoryError, match=r"no memory left .*9 bytes.*; allowed are few"):
        jml.run("ippo", "toy/memory", config=SMALL, quiet=True, out=folder, **SIZES)
    monkeypatch.undo()
    if program == "train_chunk":  # the untrained policies are saved by then: it can go on elsewhere
        assert jml.resume_run(folder, quiet=True).seeds == (0, 1)
    else:
        fitting = SIZES | {"num_envs": 16, "out": folder}
        assert jml.run("ippo", "toy/memory", config=SMALL, quiet=True, **fitting).seeds == (0, 1)


@pytest.mark.slow
def test_a_sweep_that_does_not_fit_is_divided(monkeypatch, capsys):
    trained = []

    def too_small_for_two(plan, env, compiled):
        trained.append(len(plan.lanes or plan.seeds))
        if trained[-1] > 1:
            raise jml.DeviceMemoryError("num_envs is 4")

    monkeypatch.setattr(memory, "check", too_small_for_two)
    sizes = dict(tiny_runs.SIZES, config=SMALL, seeds=1, total_steps=32, num_evaluations=1)
    swept = jml.sweep("ippo", "toy/counter", grid={"lr": [1e-3, 1e-2]}, **sizes)
    assert trained == [2, 1, 1] and len(swept.ranking()) == 2


@pytest.mark.slow
def test_a_variant_that_does_not_fit_leaves_the_others_in_a_comparison(monkeypatch, tmp_path):
    def too_small_for_iac(plan, env, compiled):
        if plan.algorithm == "iac":
            raise jml.DeviceMemoryError("num_envs is 4")

    monkeypatch.setattr(memory, "check", too_small_for_iac)
    sizes = dict(tiny_runs.SIZES, seeds=1, total_steps=32, num_evaluations=1)
    compared = jml.compare(["iac", "ippo"], "toy/counter", out=tmp_path, **sizes)
    assert list(compared.results["toy/counter"]) == ["ippo"]
    assert compared.failed == {"toy/counter": {"iac": "num_envs is 4"}}
