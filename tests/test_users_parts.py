"""Algorithms, networks and environments of a user, as objects and as ``module:name``."""

import dataclasses
import json
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import ppo, registry
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment import compilation

SIZES = dict(tiny_runs.SIZES, seeds=1, total_steps=tiny_runs.updates(2), num_evaluations=1)
MODULE = """
import flax.linen as nn
import jaxmarl_lite as jml

class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(4)(x))

@jml.config_record
class MineConfig(jml.MAPPOConfig):
    hidden_sizes: tuple[int, ...] = (4,)
    bonus: float = jml.bounded(0.5, 0, 1)

def make_mine(spec, config: MineConfig, networks=None):
    return jml.make_algorithm("mappo", spec, config, networks)._replace(name="mine")

pair = (MineConfig, make_mine)
networks = jml.Networks(actor=Encoder())

def networks_of(spec):
    return jml.Networks(actor=Encoder(), critic=Encoder() if spec.num_agents > 1 else None)

def make_env(scale=1.0):
    return jml.make("toy/counter")

def no_annotation(spec, config):
    return None

def no_algorithm(spec, config: MineConfig):
    return None

five = 5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The user's module in the working directory; its name."""
    name = f"mine_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(4)(x))


@jml.config_record
class SmallConfig(jml.MAPPOConfig):
    hidden_sizes: tuple[int, ...] = (4,)


def make_small(name, spec, config, networks):
    return ppo.make_ppo(name, spec, config, networks)


def test_a_pair_an_algorithm_and_a_name_train_to_the_same_numbers(tmp_path):
    config = jml.MAPPOConfig(hidden_sizes=(4,))
    named = jml.run("mappo", "toy/counter", config=config, **SIZES)
    spec = jml.make("toy/counter").spec
    ready = jml.make_algorithm("mappo", spec, config)
    by_object = jml.run(ready, "toy/counter", **SIZES)
    by_pair = jml.run((SmallConfig, make_small), "toy/counter", out=tmp_path / "pair", **SIZES)
    assert by_object.algorithm == "<mappo>" and by_pair.algorithm == "<make_small>"
    for result in (by_object, by_pair):
        for metric in ("value_loss", "eval_return"):
            np.testing.assert_array_equal(result.metrics[metric], named.metrics[metric])


def test_a_run_of_an_object_needs_it_again(tmp_path):
    path, pair = tmp_path / "pair", (SmallConfig, make_small)
    networks = jml.Networks(actor=Encoder())
    result = jml.run(pair, "toy/counter", networks=networks, out=path, **SIZES)
    stored = json.loads((path / "config.json").read_text())
    assert stored["algorithm"] == "<make_small>" and stored["networks"].startswith("<Networks(")
    for load in (jml.load_run, jml.resume_run):
        with pytest.raises(ValueError, match=r"given its algorithm, <make_small>, as an object"):
            load(path)
        with pytest.raises(ValueError, match=r"networks.*<Networks.*again as networks=\.\.\."):
            load(path, algorithm=pair).policy()
        with pytest.raises(ValueError, match=r"networks is .*allowed is <Networks"):
            load(path, algorithm=pair, networks=jml.Networks(critic=Encoder()))
        with pytest.raises(ValueError, match="algorithm is .*allowed is <make_small>"):
            load(path, algorithm=(SmallConfig, ppo.make_ppo), networks=networks)
    loaded = jml.load_run(path, algorithm=pair, networks=networks)
    assert loaded.plan == result.plan
    saved = loaded.policy().save(tmp_path / "policy.safetensors")
    with pytest.raises(ValueError, match="networks is None; allowed is load_policy"):
        jml.load_policy(saved, algorithm=pair)
    with pytest.raises(ValueError, match="algorithm is None; allowed is load_policy"):
        jml.load_policy(saved, networks=networks)
    policy = jml.load_policy(saved, networks=networks, algorithm=pair)
    first = result.env.reset(jax.random.key(0))[1].obs
    np.testing.assert_array_equal(policy(first), loaded.policy()(first))
    longer = jml.resume_run(
        path, algorithm=pair, networks=networks, total_steps=tiny_runs.updates(4), quiet=True
    )
    np.testing.assert_array_equal(longer.returns[:, :2], result.returns)
    # what needs no algorithm works without it
    assert main(["plot", str(path)]) == 0


def test_a_users_parts_by_name_are_stored_and_loaded(module, tmp_path, capsys):
    words = f"--algorithm {module}:make_mine --env {module}:make_env --env-args scale=2 "
    words += f"--networks {module}:networks --bonus 0.25 --num-envs 4 --num-steps 4 --seeds 1 "
    words += "--total-steps 32 --num-evaluations 1 --eval-episodes 2 --out run --quiet"
    assert main(["train", *words.split()]) == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["algorithm"] == f"{module}:make_mine"
    assert stored["env"] == f"{module}:make_env" and stored["env_args"] == {"scale": 2}
    assert stored["networks"] == f"{module}:networks" and stored["config"]["bonus"] == 0.25
    assert main(["train", "--resume", "run", "--total-steps", "64", "--quiet"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    assert main(["plot", "run"]) == 0
    assert main(["list", f"{module}:make_mine", f"{module}:make_env"]) == 0
    out = capsys.readouterr().out
    assert "bonus" in out and "scale" in out
    result = jml.load_run("run")
    assert set(result.learner(0).actor_params) == {"torso", "head"}
    policy = jml.load_policy(result.policy().save("policy.safetensors"))
    first = result.env.reset(jax.random.key(0))[1].obs
    np.testing.assert_array_equal(policy(first), result.policy()(first))
    with pytest.raises(ValueError, match="algorithm is 'mappo', but"):
        jml.run("mappo", "toy/counter", resume="run")


def test_the_same_networks_compile_once():
    compilation._compile.cache_clear()
    for width in (4, 4):
        jml.run(
            "ippo",
            "toy/counter",
            config={"hidden_sizes": (4,)},
            networks=jml.Networks(actor=nn.Dense(width)),
            **SIZES,
        )
    assert compilation._compile.cache_info().misses == 1


def test_an_entry_point_is_found(module, monkeypatch):
    def entry_points(group, name=None):
        kind = {"jaxmarl_lite.algorithms": "pair", "jaxmarl_lite.envs": "make_env"}[group]
        entries = [_EntryPoint(f"installed-{kind}", f"{module}:{kind}")]
        return [entry for entry in entries if name in (None, entry.name)]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert "installed-pair" in registry.names()
    assert registry.config_of("installed-pair").__name__ == "MineConfig"
    assert jml.make("installed-make_env").spec == jml.make("toy/counter").spec
    assert "installed-make_env" in dict(jml.list_environments())


@dataclasses.dataclass(frozen=True)
class _EntryPoint:
    name: str
    value: str


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--algorithm nowhere:make --env toy/counter", "module nowhere cannot be imported"),
        ("--algorithm MODULE:make_mone --env toy/counter", "has no make_mone.*make_mine"),
        ("--algorithm MODULE:five --env toy/counter", "is 5; allowed is a .Config, make. pair"),
        ("--algorithm MODULE:no_annotation --env toy/counter", "whose parameter config says no"),
        ("--algorithm MODULE:no_algorithm --env toy/counter", "make returned None; allowed is"),
        ("mappo --env MODULE:five", "int has no `spec`"),
        ("mappo --env MODULE:make_env --env-args size=3", "unexpected keyword argument 'size'"),
        ("mappo --env toy/counter --networks MODULE:five", "networks is 5; allowed is a"),
        ("mappo --env toy/counter --networks five", "networks is 'five'; allowed is module:name"),
    ],
)
def test_wrong_names_have_one_clear_error(module, capsys, arguments, message):
    assert main(["train", *arguments.replace("MODULE", module).split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_wrong_objects_have_one_clear_error():
    ready = jml.make_algorithm("mappo", jml.make("toy/counter").spec)
    with pytest.raises(ValueError, match="for which mappo was made"):
        jml.run(ready, "toy/climbing", **SIZES)
    with pytest.raises(ValueError, match="config is .*allowed is None: the algorithm was passed"):
        jml.run(ready, "toy/counter", config={"lr": 1e-3}, **SIZES)
    with pytest.raises(ValueError, match="is a tuple of 1; allowed is .Config, make."):
        jml.run((make_small,), "toy/counter", **SIZES)
    with pytest.raises(ValueError, match="config_record"):
        jml.run((dict, make_small), "toy/counter", **SIZES)
    with pytest.raises(ValueError, match="make has the parameters spec, whatever; allowed are"):
        jml.run((SmallConfig, lambda spec, whatever: None), "toy/counter", **SIZES)
    with pytest.raises(ValueError, match="networks is given, but the algorithm <small> makes"):
        jml.run(
            (SmallConfig, _without_networks),
            "toy/counter",
            networks=jml.Networks(actor=Encoder()),
            **SIZES,
        )
    with pytest.raises(ValueError, match="name is 'mappo'; allowed is a name that no algorithm"):
        jml.register_algorithm("mappo", SmallConfig, make_small)
    with pytest.raises(ValueError, match="name is 'a/b'; allowed is a word without"):
        jml.register_algorithm("a/b", SmallConfig, make_small)


def _without_networks(spec, config):
    return None


_without_networks.__qualname__ = "small"


class Attention(nn.Module):
    """Self-attention over pieces of the observation, as in docs/extending.md."""

    @nn.compact
    def __call__(self, x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 8)])
        tokens = nn.relu(nn.Dense(32)(x.reshape(*x.shape[:-1], -1, 8)))
        tokens += self.param("place", nn.initializers.normal(0.1), tokens.shape[-2:])
        tokens += nn.MultiHeadDotProductAttention(num_heads=2)(tokens)
        return tokens.mean(-2)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["jumanji/lbf-2s-8x8-2p-2f-coop", "smax/3m"])
@pytest.mark.parametrize("algorithm", ["liir", "macpo", "qmix", "coma"])
def test_a_users_encoder_trains_on_real_environments_with_one_compilation(algorithm, env):
    compilation._compile.cache_clear()
    roles = ("actor",) if algorithm == "qmix" else ("actor", "critic")
    networks = jml.Networks(**dict.fromkeys(roles, Attention()))
    small = {"sequence_length": 8, "buffer_size": 512, "batch_size": 64}
    with jax.numpy_rank_promotion("allow"):
        if algorithm == "macpo":  # neither environment has costs of its own
            idle = jml.Cost("idle", "steps of action 0", lambda state, a, after: a == 0, 5.0)
            env = jml.with_costs(jml.make(env), [idle])
        result = jml.run(
            algorithm,
            env,
            networks=networks,
            config=small if algorithm == "qmix" else None,
            seeds=1,
            total_steps=3072,
            num_envs=16,
            num_steps=32,
            num_evaluations=2,
            eval_episodes=4,
            quiet=True,
        )
    assert compilation._compile.cache_info().misses == 1
    assert np.isfinite(result.returns).all() and not result.diverged
    params = jax.tree_util.tree_leaves_with_path(result.states.learner_state)
    assert any("MultiHeadDotProductAttention" in jax.tree_util.keystr(path) for path, _ in params)


def test_a_class_whose_spec_is_an_attribute_is_made(module, tmp_path):
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write(
            "inner = jml.make('toy/counter')\n"
            "class Own:\n"
            "    spec = inner.spec\n"
            "    def reset(self, key):\n        return inner.reset(key)\n"
            "    def step(self, state, action):\n        return inner.step(state, action)\n"
        )
    assert type(jml.make(f"{module}:Own")).__name__ == "Own"


def test_all_names_are_listed_before_they_are_used():
    code = "import jaxmarl_lite as jml; print({'run', 'sweep', 'ops', 'MAPPOConfig'} - {*dir(jml)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
