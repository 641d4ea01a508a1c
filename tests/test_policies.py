"""A trained policy is a pure function of arrays, and a file of weights holds all of it."""

import dataclasses
import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from toy_envs import algorithm, env_for

import jaxmarl_lite as jml
from jaxmarl_lite import references
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.experiment import policy_files
from jaxmarl_lite.experiment.policies import TrainedPolicy

BATCH = 6
KINDS = {
    "dense": ("ippo", "toy/counter", {}),
    "recurrent": ("mappo", "toy/counter", {"recurrent": True}),
    "continuous": ("happo", "toy/reach", {"normalize_observations": True}),
    "values": ("qmix", "toy/counter", {"recurrent": True}),
    "costs": ("macpo", "toy/counter", {}),
    "bfloat16": ("ippo", "toy/counter", {"precision": "bfloat16"}),
}


@functools.cache
def learned(kind, seed=0):
    name, env_id, settings = KINDS[kind]
    env = env_for(name, env_id)
    built = algorithm(name, env, **settings)
    learner = jax.jit(built.init, static_argnums=1)(jax.random.key(seed), 2)
    if kind == "continuous":
        normalizer = jax.tree.map(lambda x: x + 0.25, learner.obs_normalizer)
        learner = learner._replace(obs_normalizer=normalizer)
    return built, learner, env


@functools.cache
def policy(kind, greedy=False, seed=0):
    built, learner, env = learned(kind, seed)
    return TrainedPolicy(built, learner, greedy), built, learner, env


def observe(env, batch=BATCH, seed=1):
    """Observations of the environment's form, with random views and masks."""
    view_key, mask_key, reset_key = jax.random.split(jax.random.key(seed), 3)
    obs = jax.vmap(env.reset)(jax.random.split(reset_key, batch))[1].obs
    mask = jax.random.bernoulli(mask_key, 0.7, obs.action_mask.shape)
    return obs._replace(
        agents_view=jax.random.normal(view_key, obs.agents_view.shape), action_mask=mask
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("greedy", [True, False])
def test_act_is_the_algorithms_own_and_the_file_holds_it(kind, greedy, tmp_path):
    trained, built, learner, env = policy(kind, greedy)
    obs, key, hidden_state = observe(env), jax.random.key(5), trained.init_hidden_state(BATCH)
    hidden_state = jax.tree.map(lambda x: x + 0.1, hidden_state)
    action, after = trained.act(obs, hidden_state, key)
    expected, _, expected_after = jax.jit(built.act, static_argnames="greedy")(
        learner, key, obs, hidden_state, greedy=greedy
    )
    np.testing.assert_array_equal(action, expected)
    jax.tree.map(np.testing.assert_array_equal, after, expected_after)

    path = trained.save(tmp_path / "folder" / "policy.safetensors")
    loaded = jml.load_policy(path)
    assert loaded.greedy == greedy and loaded.spec == trained.spec
    assert loaded.config == trained.config and loaded.algorithm == built.name
    again, _ = loaded.act(obs, hidden_state, key)
    np.testing.assert_array_equal(again, expected)
    # what only training needs is not in it
    stored = safetensors.numpy.load(path.read_bytes())
    assert stored.keys() == trained.params.keys() and len(stored) < len(jax.tree.leaves(learner))
    assert not any("critic" in name or "opt_state" in name or "replay" in name for name in stored)


def test_greedy_may_be_chosen_at_loading(tmp_path):
    trained, built, learner, env = policy("values", greedy=True)
    path = trained.save(tmp_path / "q.safetensors")
    obs, key, hidden_state = observe(env, 64), jax.random.key(2), trained.init_hidden_state(64)
    sampled, _ = jml.load_policy(path, greedy=False).act(obs, hidden_state, key)
    expected, _, _ = built.act(learner, key, obs, hidden_state, greedy=False)
    np.testing.assert_array_equal(sampled, expected)  # also the probability of random actions
    assert (sampled != trained.act(obs, hidden_state)[0]).any()


@pytest.mark.parametrize("kind", ["dense", "recurrent"])
def test_act_goes_through_jit_and_vmap(kind):
    trained, _, _, env = policy(kind, greedy=True)
    obs, hidden_state = observe(env), trained.init_hidden_state(BATCH)
    action, _ = trained.act(obs, hidden_state)
    jitted = jax.jit(lambda obs, state: trained.act(obs, state)[0])(obs, hidden_state)
    np.testing.assert_array_equal(jitted, action)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), obs)
    mapped = jax.vmap(lambda obs: trained.act(obs, hidden_state)[0])(twice)
    np.testing.assert_array_equal(mapped, jnp.stack([action, action]))
    # over the parameters of two seeds
    other = policy(kind, greedy=True, seed=1)[0]
    params = jax.tree.map(lambda *x: jnp.stack(x), trained.params, other.params)
    mapped = jax.vmap(lambda p: trained.act(obs, hidden_state, params=p)[0])(params)
    np.testing.assert_array_equal(mapped, jnp.stack([action, other.act(obs, hidden_state)[0]]))


def test_a_call_is_a_step_of_one_environment():
    trained, _, _, env = policy("recurrent")
    obs, key = observe(env, 1), jax.random.key(9)
    trained.reset(key)
    hidden_state = trained.init_hidden_state(1)
    for _ in range(3):
        key, act_key = jax.random.split(key)
        action, hidden_state = trained.act(obs, hidden_state, act_key)
        np.testing.assert_array_equal(trained(jax.tree.map(lambda x: x[0], obs)), action[0])


def test_an_array_of_views_is_an_observation_where_all_is_legal():
    trained, _, _, env = policy("dense", greedy=True)
    obs = observe(env)
    obs = obs._replace(action_mask=jnp.ones_like(obs.action_mask))
    action, _ = trained.act(obs)
    np.testing.assert_array_equal(trained.act(obs.agents_view)[0], action)
    np.testing.assert_array_equal(trained(np.asarray(obs.agents_view[0])), action[0])


def test_inputs_of_another_form_are_refused():
    trained, _, _, env = policy("recurrent")
    obs, hidden_state, key = observe(env), trained.init_hidden_state(BATCH), jax.random.key(0)
    refused = [
        ((obs, (), key), "hidden_state has the shapes"),
        ((obs, trained.init_hidden_state(2), key), "hidden_state has the shapes"),
        ((obs, hidden_state), "key is None; allowed is one random key"),
        (("left", hidden_state, key), "obs is 'left'; allowed is an Observation"),
        ((obs.agents_view[0], hidden_state, key), "an array .B, 2, 1."),
        ((obs._replace(alive=obs.alive[:2]), hidden_state, key), "obs.alive has the shape"),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            trained.act(*arguments)
    with pytest.raises(ValueError, match=r"obs.agents_view has the shape \(6, 2, 1\)"):
        trained(obs)


class Encoder(nn.Module):
    width: int = 5

    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(self.width)(x))


def test_a_users_networks_are_passed_again(tmp_path):
    env = env_for("ippo", "toy/counter")
    networks = jml.Networks(actor=Encoder())
    built = registry.make_algorithm("ippo", env.spec, networks=networks)
    learner = built.init(jax.random.key(0), 2)
    trained = TrainedPolicy(built, learner, True, networks=networks)
    path = trained.save(tmp_path / "mine.safetensors")
    obs = observe(env)
    loaded = jml.load_policy(path, networks=networks)
    np.testing.assert_array_equal(loaded.act(obs)[0], trained.act(obs)[0])
    with pytest.raises(
        ValueError, match="networks is None; allowed is load_policy.path, netw.*Enc"
    ):
        jml.load_policy(path)
    with pytest.raises(ValueError, match="has the shape .5, 2.; allowed is .7, 2."):
        jml.load_policy(path, networks=jml.Networks(actor=Encoder(7)))
    with pytest.raises(ValueError, match="lacks the array actor_params/layers_0"):
        jml.load_policy(path, networks=jml.Networks(critic=Encoder()))


def header_of(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]


def test_every_wrong_file_has_one_clear_error(tmp_path):
    trained = policy("dense")[0]
    path = trained.save(tmp_path / "right.safetensors")
    content, wrong = path.read_bytes(), tmp_path / "wrong.safetensors"

    def refused(data, message):
        wrong.write_bytes(data)
        with pytest.raises(ValueError, match=message) as caught:
            jml.load_policy(wrong)
        assert str(wrong) in str(caught.value) and "\n" not in str(caught.value)

    refused(content[:-9], "is damaged, or no safetensors file")
    refused(content[:5], "is damaged, or no safetensors file")
    refused(b"", "is damaged, or no safetensors file")
    refused(b"a text", "is damaged, or no safetensors file")
    refused(b"PK\x03\x04 and more", "is a zip archive; .*exported_policy.load")
    flipped = bytearray(content)
    flipped[-1] ^= 1
    refused(bytes(flipped), "is damaged: its checksum differs")
    arrays, header = safetensors.numpy.load(content), header_of(path)
    refused(safetensors.numpy.save(arrays), "is a safetensors file of something else")
    older = safetensors.numpy.save(arrays, header | {"format_version": "0"})
    refused(older, "is of format version 0; allowed is version 1")
    changed = safetensors.numpy.save(arrays, header | {"greedy": "true"})
    refused(changed, "its checksum differs")
    with pytest.raises(FileNotFoundError):
        jml.load_policy(tmp_path / "none.safetensors")
    for name in ("policy.npz", "policy"):
        with pytest.raises(ValueError, match="path is .*; allowed is a file, NAME.safetensors"):
            trained.save(tmp_path / name)
    with pytest.raises(ValueError, match="allowed is a file, NAME.zip or NAME.onnx"):
        trained.export(tmp_path / "policy.safetensors")


def test_double_precision_is_named(tmp_path, float64):
    built = algorithm("ippo", env_for("ippo", "toy/counter"))
    learner = built.init(jax.random.key(0), 2)
    path = TrainedPolicy(built, learner, True).save(tmp_path / "double.safetensors")
    assert jml.load_policy(path).params["actor_params/head/bias"].dtype == np.float64
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="has the dtype float64; allowed is float32, or jax_enable"),
    ):
        jml.load_policy(path)


def test_infinite_limits_and_shares_survive(tmp_path):
    """The settings come back as they were, with what stands in JSON as text."""
    built, learner, _ = learned("costs")
    config = dataclasses.replace(built.config, cost_limit={"some": np.inf}, lr_anneal_share=0.5)
    path = TrainedPolicy(built, learner, True, config=config).save(tmp_path / "x.safetensors")
    loaded = jml.load_policy(path)
    assert loaded.config == config and loaded.config.cost_limit.to_dict() == {"some": np.inf}
    assert repr(loaded).startswith("TrainedPolicy(macpo on ")


@dataclasses.dataclass
class WithObjects:
    optimizer: object = "adam"
    lr: object = 0.5
    widths: tuple = (4,)
    schedule: object = 1.0


def test_optimizers_are_described_and_not_needed():
    """No action depends on them, and no file can hold them."""
    config = WithObjects(optax.sgd(0.1), "my_module:rate", (8,), math.sqrt)
    data = policy_files.config_to_dict(config)
    assert data["optimizer"].startswith("<GradientTransformation") and data["widths"] == (8,)
    assert data["lr"] == "my_module:rate" and data["schedule"] == "math:sqrt"
    assert policy_files.without_objects(config) == WithObjects(widths=(8,))
    stored = WithObjects(references.from_description(data["optimizer"]))
    assert policy_files.without_objects(stored) == WithObjects()
