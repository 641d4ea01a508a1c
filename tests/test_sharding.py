"""One device, several, and several processes: the same numbers, and little said between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from toy_envs import algorithm, get_env

from jaxmarl_lite import sharding
from jaxmarl_lite.train import make_train

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SEEDS, ENVS = 3, 4


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
    sys.path.insert(0, str(BENCHMARKS))
    import devices

    program = """
  %a.1 = (f32[3,2]{1,0}, /*index=5*/f32[]) all-reduce(%x, %y), metadata={op_name="here/sum" id=1}
  ROOT %b = f32[16,4]{1,0} all-gather-start(%all-reduce.1), dimensions={0}
  %b.2 = f32[16,4]{1,0} all-gather(%z), dimensions={0}
  %c = f32[5]{0} fusion(%all-gather.3), kind=kLoop
"""
    result = [(e["kind"], e["numbers"], e["times"], e["from"]) for e in devices.exchanges(program)]
    assert result == [("all-gather", 64, 2, ""), ("all-reduce", 7, 1, "here/sum")]


def _lies(x: Any, at: Any) -> bool:
    """Whether an array is where it should be."""
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return x.sharding.is_equivalent_to(at, x.ndim)


def eight(name: str, shard_over: Any) -> dict[str, Any]:
    """Runs where there are eight devices: train on one and on all, in both precisions."""
    sys.path.insert(0, str(BENCHMARKS))
    import devices

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
            result[precision] = devices.difference(one, other) | {
                "moved": list(map(jax.tree_util.keystr, updated))
            }
            result["exchanges"] = devices.exchanges(compiled.as_text())
    return result


@pytest.mark.parametrize(("name", "shard_over"), [("ippo", "envs"), ("mappo", "seeds")])
def test_eight_devices_compute_what_one_does(name: str, shard_over: str) -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
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


@pytest.mark.slow
@pytest.mark.guard
@pytest.mark.parametrize("setup", ["eight", "two"])
def test_runs_and_checkpoints_of_several_devices(setup: str, tmp_path: Path) -> None:
    message = (
        "--cases ippo:gru:envs --env toy/memory --updates 4 --num-steps 3 --hidden-sizes 4 "
        "--fast-compile --seeds 1"
    )
    command = [sys.executable, str(BENCHMARKS / "devices.py"), *message.split(), "--setups", setup]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (row,) = json.loads((tmp_path / "devices.json").read_text())["rows"]
    assert row["agrees"] and {entry["kind"] for entry in row["exchanges"]} == {"all-reduce"}
    assert "8 devices" in (tmp_path / "devices.md").read_text() or setup == "two"


if __name__ == "__main__":
    print(json.dumps(eight(*sys.argv[1:3])))
