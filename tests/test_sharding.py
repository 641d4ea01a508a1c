"""One device, several, and several processes: the same numbers, and little said between them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from jax.sharding import AxisType
from toy_envs import algorithm, get_env

import jaxmarl_lite as jml
from jaxmarl_lite import sharding
from jaxmarl_lite.experiment import compilation
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.report import checkpoint, run_dir
from jaxmarl_lite.train import make_train

SEEDS, ENVS = 3, 4
COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
DEVICES = {"one": 1, "eight": 8, "two": 4}
"""Setup -> host devices of each process; ``two`` has two processes."""
LIMITS = {"float32": 1e-5, "float64": 1e-9, "continued": 1e-9, "handed_back": 1e-9}
"""Run -> largest difference from that of one device, relative to the largest number of each array:
one update in float32, several in float64, the first half by one device and the second by several,
and the reverse."""


def line(devices: int = 1) -> Any:
    """A mesh, of one device too."""
    return jax.make_mesh(
        (devices,), (sharding.AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def abstract(name: str, **settings: Any) -> Any:
    """States of several seeds, as shapes."""
    env = get_env("toy/memory")
    init, _ = make_train(algorithm(name, env, **settings), env, ENVS, 2)
    return jax.eval_shape(
        lambda seeds: jax.vmap(lambda seed: init(jax.random.key(seed)))(seeds), jnp.arange(SEEDS)
    )


@pytest.mark.parametrize("name", ["liir", "mappo", "ippo"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_arrays_of_an_env_are_split_and_all_others_replicated(name: str, recurrent: bool) -> None:
    states = abstract(name, recurrent=recurrent, normalize_observations=True)
    places = sharding.state_shardings(states, line(), "envs")
    split, full = jax.P(None, sharding.AXIS), jax.P()
    specs = lambda tree: [at.spec for at in jax.tree.leaves(tree)]  # noqa: E731
    assert set(specs(places.rollout_state._replace(unreported=()))) == {split}
    assert set(specs(places.rollout_state.unreported)) == {full}  # sums over all worlds
    of_critics = "critic_hidden_states" if name == "liir" else "critic_hidden_state"
    assert set(specs(getattr(places.learner_state, of_critics))) == (
        {split} if recurrent else set()
    )
    others = places.learner_state._replace(**{of_critics: ()})
    assert set(specs([others, places.key, places.num_updates])) == {full}
    of_envs = [
        states.rollout_state._replace(unreported=()),
        getattr(states.learner_state, of_critics),
    ]
    assert all(leaf.shape[:2] == (SEEDS, ENVS) for leaf in jax.tree.leaves(of_envs))


def test_over_seeds_everything_is_split_by_seeds() -> None:
    states = abstract("liir", recurrent=True)
    places = sharding.state_shardings(states, line(), "seeds")
    assert all(at.spec == jax.P(sharding.AXIS) for at in jax.tree.leaves(places))
    assert all(leaf.shape[0] == SEEDS for leaf in jax.tree.leaves(states))


def test_spread_keeps_the_numbers() -> None:
    def double(x: Any) -> Any:
        return 2 * x

    assert sharding.map_over_seeds(double, None, "seeds") is double
    assert sharding.map_over_seeds(double, line(), "envs") is double
    np.testing.assert_array_equal(
        sharding.map_over_seeds(double, line(), "seeds")(jnp.arange(4)), 2 * np.arange(4)
    )


def test_one_device_needs_no_mesh() -> None:
    assert sharding.make_mesh() is None and sharding.make_mesh(1, "seeds") is None
    sharding.check_layout(None, "envs", 3, 5, 2)
    assert sharding.is_primary()
    np.testing.assert_array_equal(sharding.fetch({"x": jnp.arange(3)})["x"], np.arange(3))


@pytest.mark.parametrize(
    ("devices", "shard_over", "said"),
    [
        (0, "envs", "devices is 0; allowed is a whole number from 1 to"),
        (10**6, "envs", "devices is 1000000; allowed is a whole number from 1 to"),
        (True, "envs", "devices is True; allowed"),
        (1, "agents", "shard_over is 'agents'; allowed is one of envs, seeds"),
    ],
)
def test_what_cannot_be_laid_out(devices: Any, shard_over: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sharding.make_mesh(devices, shard_over)


def test_sizes_that_do_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    class Eight:
        size = 8

    sharding.check_layout(Eight(), "envs", 3, 32, 2)  # type: ignore[arg-type]
    sharding.check_layout(Eight(), "seeds", 16, 5)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="num_envs is 24 on 8 devices with 2 minibatches; .* multiple of 16"
    ):
        sharding.check_layout(Eight(), "envs", 3, 24, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seeds is 12 on 8 devices; .* multiple of 8"):
        sharding.check_layout(Eight(), "seeds", 12, 32)  # type: ignore[arg-type]


def test_the_reading_of_exchanges() -> None:
    program = """
  %a.1 = (f32[3,2]{1,0}, /*index=5*/f32[]) all-reduce(%x, %y), metadata={op_name="here/sum" id=1}
  ROOT %b = f32[16,4]{1,0} all-gather-start(%all-reduce.1), dimensions={0}
  %b.2 = f32[16,4]{1,0} all-gather(%z), dimensions={0}
  %c = f32[5]{0} fusion(%all-gather.3), kind=kLoop
"""
    result = [(e["kind"], e["numbers"], e["times"], e["from"]) for e in exchanges(program)]
    assert result == [("all-gather", 64, 2, ""), ("all-reduce", 7, 1, "here/sum")]


def exchanges(program: str) -> list[dict[str, Any]]:
    """The collective operations in a compiled program's text: kind, size, occurrences."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for match in re.finditer(
        rf"^ *(?:ROOT )?\S+ = (.*?) ({COLLECTIVES})(?:-start)?\(.*$", program, re.MULTILINE
    ):
        arrays = re.findall(r"[a-z]+\d*\[[\d,]*\]", match.group(1))
        source = re.search(r'op_name="([^"]*)"', match.group(0))
        entry = {
            "kind": match.group(2),
            "numbers": sum(_volume(array) for array in arrays),
            "times": 0,
            "from": source.group(1) if source else "",
        }
        entries.setdefault((match.group(2), str(arrays)), entry)["times"] += 1
    return sorted(entries.values(), key=lambda entry: -entry["numbers"])


def _volume(array: str) -> int:
    """Numbers in ``f32[4,2]``."""
    return math.prod(int(size) for size in re.findall(r"\d+", array[array.index("[") :]))


def difference(one: Any, other: Any) -> dict[str, Any]:
    """The worst relative error of two states' floats, its array, and unequal arrays."""
    worst, where, unequal = 0.0, "", []
    leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other)]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        name = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape, name
        if not np.issubdtype(a.dtype, np.floating):
            unequal += [] if np.array_equal(a, b) else [name]
        elif a.size:
            scale = max(np.abs(a).max(), np.finfo(a.dtype).tiny)
            error = float(np.abs(a - b).max() / scale)
            worst, where = (error, name) if error > worst else (worst, where)
    return {"error": worst, "where": where, "unequal": unequal}


def _lies(x: Any, at: Any) -> bool:
    """Whether an array is where it should be."""
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return x.sharding.is_equivalent_to(at, x.ndim)


def eight(name: str, shard_over: Any) -> dict[str, Any]:
    """Runs where there are eight devices: train on one and on all, in both precisions."""
    jax.config.update("jax_disable_most_optimizations", True)
    result: dict[str, Any] = {}
    for precision, updates in (("float32", 1), ("float64", 20)):
        with jax.enable_x64(precision == "float64"):
            env = get_env("toy/memory")
            function = algorithm(
                name,
                env,
                recurrent=True,
                hidden_sizes=(4,),
                rnn_hidden_size=4,
                normalize_observations=True,
            )
            init, train = make_train(function, env, 16, 3)
            seeds = jnp.arange(8, dtype=jnp.uint32)
            begin = jax.jit(jax.vmap(lambda seed: init(jax.random.key(seed))))  # noqa: B023
            go = lambda states: jax.lax.map(lambda one: train(one, updates)[0], states)  # noqa: B023, E731
            one = jax.jit(go)(begin(seeds))
            mesh = sharding.make_mesh(8, shard_over)
            assert mesh is not None
            places = sharding.state_shardings(jax.eval_shape(begin, seeds), mesh, shard_over)
            laid = jax.jit(begin, out_shardings=places)(seeds)
            spread = sharding.map_over_seeds(go, mesh, shard_over)
            program = jax.jit(
                spread, in_shardings=(places,), out_shardings=places, donate_argnums=0
            )
            compiled = program.lower(laid).compile()
            other = compiled(laid)
            current, expected = jax.tree_util.tree_leaves_with_path(other), jax.tree.leaves(places)
            updated = [
                path for (path, x), at in zip(current, expected, strict=True) if not _lies(x, at)
            ]
            result[precision] = difference(one, other) | {
                "moved": list(map(jax.tree_util.keystr, updated))
            }
            result["exchanges"] = exchanges(compiled.as_text())
    return result


@pytest.mark.ci_cases("ippo*")
@pytest.mark.parametrize(("name", "shard_over"), [("ippo", "envs"), ("mappo", "seeds")])
def test_eight_devices_compute_what_one_does(name: str, shard_over: str) -> None:
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, __file__, name, shard_over]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["float32"]["error"] <= 1e-5 and result["float64"]["error"] <= 1e-9, result
    assert not any(
        result[name]["unequal"] or result[name]["moved"] for name in ("float32", "float64")
    ), result
    if shard_over == "seeds":
        assert result["exchanges"] == []
    else:  # gradients and moments are summed; nothing as large as a batch travels
        assert {entry["kind"] for entry in result["exchanges"]} == {"all-reduce"}, result[
            "exchanges"
        ]


def compiled_over_seeds(name: str) -> list[dict[str, Any]]:
    """The exchanges of the training program of `run`, a seed on each of eight devices."""
    plan, env = experiment_config.make_run_config(
        name,
        "toy/budget",
        config=tiny_runs.config(name),
        num_envs=4,
        num_steps=2,
        seeds=8,
        devices=8,
        shard_over="seeds",
    )
    return exchanges(compilation.compile_run(plan, env)[0].train_chunk.as_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["macpo", "liir"])
def test_seeds_on_devices_of_their_own_exchange_nothing(name: str) -> None:
    """MACPO's loops end by conditions, and the sums of the metrics are read by the host."""
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, __file__, "--exchanges", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def arguments(case: str) -> dict[str, Any]:
    """The arguments of `run` that all setups share, of ALGORITHM:{none,gru}:{envs,seeds}."""
    algorithm, cell, shard_over = case.split(":")
    config = {"hidden_sizes": [4], "normalize_observations": True}
    config |= {"recurrent": True, "rnn_hidden_size": 4} if cell == "gru" else {}
    sizes = dict(seeds=8 if shard_over == "seeds" else 1, num_envs=16, num_steps=3)
    shared = dict(algorithm=algorithm, env="toy/memory", config=config, shard_over=shard_over)
    return shared | sizes | dict(eval_episodes=8)


def jobs(setup: str, case: str, folder: Path, updates: int = 4) -> list[dict[str, Any]]:
    """The runs of a setup; eight and two also continue the run of one device."""
    common = arguments(case)
    batch = common["num_envs"] * common["num_steps"]
    result = []
    for name, number, evaluations in (("float32", 1, 1), ("float64", updates, 2)):
        sizes = dict(total_steps=number * batch, num_evaluations=evaluations)
        out = f"{folder / setup / name}"
        result.append(common | sizes | {"x64": name == "float64", "out": out})
    if setup != "one":
        result[-1]["exchanges"] = f"{folder / setup / 'exchanges.json'}"
        result.append(continuing(case, folder / "one", folder / setup / "continued"))
    return result


def continuing(case: str, began: Path, out: Path) -> dict[str, Any]:
    """A job that resumes from the middle of another's run, in a copy of its folder."""
    shard_over = arguments(case)["shard_over"]
    return {
        "x64": True,
        "copy": f"{began / 'float64'}",
        "resume": f"{out}",
        "shard_over": shard_over,
    }


def launch(setup: str, jobs: list[dict[str, Any]]) -> None:
    """Makes the runs of ``jobs`` in one process, or in two that join on loopback."""
    for job in (job for job in jobs if "copy" in job):
        shutil.copytree(job["copy"], job["resume"])
        # without the last checkpoint the second half is computed again
        shutil.rmtree(max((Path(job["resume"]) / "checkpoints").glob("step_*")))
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]
    order = {"jobs": jobs, "count": 2 if setup == "two" else 1, "port": port}
    flags = f" --xla_force_host_platform_device_count={DEVICES[setup]}"
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--jobs", json.dumps(order | {"rank": rank})],
            env=environment,
        )
        for rank in range(order["count"])
    ]
    try:
        assert not any([process.wait(550) for process in running]), setup
    finally:
        for process in running:
            process.kill()


def work(order: dict[str, Any]) -> None:
    """Makes the runs of a process."""
    if order["count"] > 1:
        jax.distributed.initialize(f"localhost:{order['port']}", order["count"], order["rank"])
    for job in order["jobs"]:
        devices, listed = jax.device_count(), job.pop("exchanges", None)
        with jax.enable_x64(job.pop("x64")):
            if "resume" in job:
                layout = dict(devices=devices, shard_over=job["shard_over"])
                jml.resume_run(job["resume"], quiet=True, **layout)
                continue
            job["config"]["hidden_sizes"] = tuple(job["config"]["hidden_sizes"])
            job["config"] = tiny_runs.config(job["algorithm"], **job["config"])
            result = jml.run(**job, devices=devices, quiet=True)
            if listed and sharding.is_primary():
                compiled, _ = compilation.compile_run(result.plan, result.env)
                Path(listed).write_text(json.dumps(exchanges(compiled.train_chunk.as_text())))


def saved(path: Path) -> Any:
    """The last state of a run, all of it on this process's device."""
    stored = dataclasses.replace(experiment_config.read(path), devices=None)
    template = compilation.abstract_states(stored, experiment_config.env_of_run(stored, path, None))
    return checkpoint.restore(run_dir.find(path).checkpoints, template).state


@pytest.mark.ci_cases("ippo:gru:envs-two")
@pytest.mark.parametrize("setup", ["eight", "two"])
@pytest.mark.parametrize(
    "case",
    ["ippo:gru:envs", "liir:gru:envs", "liir:none:seeds", "mappo:none:envs", "ippo:gru:seeds"],
)
def test_runs_and_checkpoints_of_several_devices(case: str, setup: str, tmp_path: Path) -> None:
    launch("one", jobs("one", case, tmp_path))
    launch(setup, jobs(setup, case, tmp_path))
    launch("one", [continuing(case, tmp_path / setup, tmp_path / setup / "handed_back")])
    for name, limit in LIMITS.items():
        with jax.enable_x64(name != "float32"):
            one = saved(tmp_path / "one" / ("float32" if name == "float32" else "float64"))
            error = difference(one, saved(tmp_path / setup / name))
        assert error["error"] <= limit and not error["unequal"], (name, error)
    listed = json.loads((tmp_path / setup / "exchanges.json").read_text())
    kinds = {entry["kind"] for entry in listed}
    assert kinds == (set() if case.endswith("seeds") else {"all-reduce"})


if __name__ == "__main__":
    if sys.argv[1] == "--jobs":
        work(json.loads(sys.argv[2]))
    elif sys.argv[1] == "--exchanges":
        print(json.dumps(compiled_over_seeds(sys.argv[2])))
    else:
        print(json.dumps(eight(*sys.argv[1:3])))
