"""An exported policy acts without this library, with the same numbers."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_policies import learned, observe, policy

from jaxmarl_lite import exported_policy, platforms, types
from jaxmarl_lite.experiment.policies import TrainedPolicy

ALONE = """
import importlib.machinery, json, sys

class Alone:
    '''JAX, NumPy and what they need; flatbuffers is that of the file.'''
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jaxmarl_lite", "flax", "optax", "jumanji", "chex"):
            raise ModuleNotFoundError(name + " is hidden")
        if name == "flatbuffers":
            installed = [x for x in sys.path if "-packages" in x]
            rest = [x for x in sys.path if x not in installed]
            return importlib.machinery.PathFinder.find_spec(name, rest)

folder, names = sys.argv[1], sys.argv[2:]
sys.meta_path.insert(0, Alone())
sys.path.insert(0, f"{folder}/{names[0]}.zip")
import load_policy
import jax, numpy as np
for name in names:
    policy, arrays = load_policy.load(f"{folder}/{name}.zip"), np.load(f"{folder}/{name}.npz")
    results = {}
    for batch in (1000, 7):
        obs = {field: x[:batch] for field, x in arrays.items()}
        state, key = policy.init_hidden_state(batch), jax.random.key(5)
        for step in range(2):  # the second with what the first remembers
            action, state = policy.act(obs, state, None if policy.greedy else key)
            results[f"{batch} {step}"] = np.asarray(action)
    policy.reset(jax.random.key(3))
    calls = [policy({field: x[i] for field, x in arrays.items()}) for i in range(3)]
    np.savez(f"{folder}/{name}.results.npz", calls=np.stack(calls), **results)
import flatbuffers
assert flatbuffers.__file__.startswith(folder), flatbuffers.__file__
assert "jaxmarl_lite" not in sys.modules
"""


def test_the_same_actions_in_a_process_without_the_library(tmp_path):
    cases = {
        "dense": policy("dense", True),
        "sampled": policy("dense"),
        "recurrent": policy("recurrent"),
        "continuous": policy("continuous"),
    }
    for name, (trained, _, _, env) in cases.items():
        trained.export(tmp_path / f"{name}.zip")
        obs = observe(env, 1000)
        np.savez(tmp_path / f"{name}.npz", agents_view=obs.agents_view, action_mask=obs.action_mask)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, tmp_path, *cases],
        capture_output=True,
        text=True,
        timeout=500,
        env={"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for name, (trained, _, _, env) in cases.items():
        answers, obs = np.load(tmp_path / f"{name}.results.npz"), observe(env, 1000)
        for batch in (1000, 7):
            part = jax.tree.map(lambda x, n=batch: x[:n], obs)
            state = trained.init_hidden_state(batch)
            for step in range(2):
                action, state = trained.act(part, state, jax.random.key(5))
                compare(answers[f"{batch} {step}"], action)
        trained.reset(jax.random.key(3))
        calls = [trained(jax.tree.map(lambda x, i=i: x[i], obs)) for i in range(3)]
        compare(answers["calls"], np.stack(calls))


def compare(answer, action):
    """Integers agree; floats as far as two compilations of one sum do."""
    if action.dtype == np.int32:
        assert answer.dtype == np.int32
        assert np.mean(answer != action) <= 0.001  # a draw at the edge of two actions
    else:
        np.testing.assert_allclose(answer, action, rtol=0, atol=1e-5)


def test_the_file_describes_itself(tmp_path):
    file = policy("recurrent")[0].export(tmp_path / "policy.zip")
    done = subprocess.run([sys.executable, "-I", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for text in ("mappo on toy/counter, sampled", "agents_view", "[B, 2, 1]", "hidden_state_0"):
        assert text in done.stdout
    manifest = exported_policy.read_manifest(file)
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"] and manifest["spec"]["num_agents"] == 2
    assert [x["name"] for x in manifest["outputs"]] == ["action", "hidden_state_0"]
    continuous = exported_policy.describe(policy("continuous")[0].export(tmp_path / "c.zip"))
    assert "actions from [-1.0, -1.0] to [1.0, 1.0]" in continuous


def test_bfloat16_of_an_accelerator_is_exported_for_every_platform(tmp_path):
    trained, _, _, env = policy("bfloat16", True)
    with platforms.compile_for("gpu"):
        file = trained.export(tmp_path / "policy.zip")
    obs = observe(env, 1000)
    action, _ = exported_policy.load(file).act(obs, (), None)
    compare(np.asarray(action), np.asarray(trained.act(obs, ())[0]))
    with zipfile.ZipFile(file) as archive:
        program = export.deserialize(bytearray(archive.read(exported_policy.PROGRAM)))
    assert "reduce_precision" in program.mlir_module()


def test_wrong_inputs_are_refused(tmp_path):
    trained, _, _, env = policy("recurrent")
    loaded = exported_policy.load(trained.export(tmp_path / "policy.zip"))
    obs, state, key = observe(env), loaded.init_hidden_state(6), jax.random.key(0)
    refused = [
        ((obs, (), key), "hidden_state has 0 arrays; allowed are 1"),
        ((obs, state), "key is None; allowed is a random key"),
        ((obs, loaded.init_hidden_state(2), key), "hidden_state_0 has the shape .2, 2, 8."),
        (({"action_mask": obs.action_mask}, state, key), "obs has no agents_view"),
        ((obs.agents_view[..., :0], state, key), "agents_view has the shape .6, 2, 0.; allowed"),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            loaded.act(*arguments)
    action, _ = loaded.act(obs, state, key)
    raw, _ = loaded.act(obs._asdict(), state, jax.random.key_data(key))
    np.testing.assert_array_equal(raw, action)


def test_damaged_files_are_refused(tmp_path):
    file = policy("dense")[0].export(tmp_path / "policy.zip")
    content, wrong = file.read_bytes(), tmp_path / "wrong.zip"

    def refused(data, message):
        wrong.write_bytes(data)
        with pytest.raises(ValueError, match=message) as caught:
            exported_policy.load(wrong)
        assert str(wrong) in str(caught.value) and "\n" not in str(caught.value)

    refused(content[:-100], "is no zip archive, or a damaged one")
    refused(b"text", "is no zip archive, or a damaged one")
    damaged = bytearray(content)
    damaged[200] ^= 255
    refused(bytes(damaged), "damaged")

    def rewrite(**changes):
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(wrong, "w") as new:
            for name in old.namelist():
                new.writestr(name, changes.get(name.partition(".")[0], old.read(name)))
        return wrong.read_bytes()

    refused(rewrite(policy=b"another program"), "is damaged: policy.stablehlo has another checksum")
    manifest = exported_policy.read_manifest(file) | {"format_version": 0}
    refused(rewrite(manifest=json.dumps(manifest)), "version 0; allowed is .*version 1")
    refused(rewrite(manifest="{"), "damaged")
    with zipfile.ZipFile(wrong, "w") as archive:
        archive.writestr("readme.txt", "text")
    refused(wrong.read_bytes(), "is a zip archive without a policy")
    with pytest.raises(FileNotFoundError):
        exported_policy.load(tmp_path / "none.zip")


def test_a_network_that_cannot_be_exported_is_named(tmp_path):
    built, learner, _ = learned("dense")

    def through_python(*args, **keywords):
        action, *rest = built.act(*args, **keywords)
        form = jax.ShapeDtypeStruct(action.shape, action.dtype)
        return jax.pure_callback(np.asarray, form, action, vmap_method="sequential"), *rest

    trained = TrainedPolicy(built._replace(act=through_python), learner, True)
    with pytest.raises(ValueError, match="the networks of this ippo policy cannot be exported to"):
        trained.export(tmp_path / "policy.zip")
    assert not (tmp_path / "policy.zip").exists()


@pytest.mark.parametrize("kind", ["dense", "recurrent", "continuous"])
def test_an_onnx_model_acts_alike(kind, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    trained, _, _, env = policy(kind, True)
    file = trained.export(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(file)
    for batch in (1000, 3):
        obs, state = observe(env, batch), trained.init_hidden_state(batch)
        inputs = {
            "agents_view": np.asarray(obs.agents_view),
            "action_mask": np.asarray(obs.action_mask),
        }
        for _ in range(2):
            leaves = jax.tree.leaves(state)
            inputs |= {f"hidden_state_{i}": np.asarray(x) for i, x in enumerate(leaves)}
            assert {x.name for x in session.get_inputs()} == inputs.keys()
            answer, *after = session.run(None, inputs)
            action, state = trained.act(obs, state)
            compare(answer, action)
            for x, y in zip(after, jax.tree.leaves(state), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)
    names = [x.name for x in session.get_outputs()]
    assert names == ["action", *(["next_hidden_state_0"] if kind == "recurrent" else [])]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["spec"])["name"] == env.spec.name


def test_onnx_needs_a_greedy_policy_and_its_packages(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="greedy is False; allowed for ONNX"):
        policy("dense")[0].export(tmp_path / "policy.onnx")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"pip install jaxmarl-lite\[onnx\]"):
        policy("dense", True)[0].export(tmp_path / "policy.onnx")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"pip install jaxmarl-lite\[export\]"):
        policy("dense")[0].export(tmp_path / "policy.zip")
    assert not list(tmp_path.iterdir())


def test_the_loader_in_the_file_is_the_module_of_the_library(tmp_path):
    file = policy("dense", True)[0].export(tmp_path / "policy.zip", batch_size=4)
    with zipfile.ZipFile(file) as archive:
        source = archive.read("load_policy.py")
    assert source == Path(exported_policy.__file__).read_bytes()
    loaded, env = exported_policy.load(file), policy("dense")[3]
    assert loaded.act(observe(env, 4))[0].shape == (4, 2)
    with pytest.raises(ValueError, match="allowed is .4, 2, 1."):
        loaded.act(observe(env, 3))


def test_every_public_record_is_registered():
    """A user's own function of records, such as an algorithm's `act`, can be exported too."""
    built, learner, env = learned("recurrent")
    arguments = jax.random.key(2), observe(env, 3), built.init_hidden_state(3)
    function = jax.jit(lambda *arguments: (built.act(learner, *arguments), arguments[1]))
    stored = export.export(function)(*arguments).serialize()
    (action, *_), observed = export.deserialize(stored).call(*arguments)
    np.testing.assert_array_equal(action, function(*arguments)[0][0])
    assert isinstance(observed, types.Observation) and jnp.issubdtype(action.dtype, jnp.integer)
    records = {x for x in vars(types).values() if isinstance(x, type) and issubclass(x, tuple)} - {
        types.Algorithm
    }
    assert {"Observation", "TimeStep", "TrainState"} <= {record.__name__ for record in records}
    for record in records:
        with pytest.raises(ValueError, match="[Dd]uplicate serialization"):
            export.register_namedtuple_serialization(
                record, serialized_name=f"test.{record.__name__}"
            )
