"""A user's own optimizers and learning rates, in every algorithm that takes gradient steps."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import SIZES, assert_same_bits, config, updates
from toy_envs import algorithm, env_for

import jaxmarl_lite as jml
from jaxmarl_lite import references
from jaxmarl_lite.algorithms import base_config, optimizers, registry
from jaxmarl_lite.cli import main
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.train import make_train

CHAIN = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.adamw(optax.cosine_decay_schedule(0.02, 100), eps_root=1e-8, weight_decay=1e-3),
)
STEADY = dict(num_epochs=1, num_minibatches=1, normalize_advantages=False)
MODULE = """
import jax, optax

def make():
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, eps_root=1e-8))

plain = optax.sgd(0.1)
number = 3
halving = lambda steps: 0.1 * 0.5 ** (steps / 32.0)

def two_steps(loss, params, state, lr):
    for _ in range(2):
        params = jax.tree.map(lambda p, g: p - lr * g, params, jax.grad(loss)(params))
    return params, state
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user in the working directory."""
    (tmp_path / "users_rules.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def trained(name, env_id="toy/early-death", num_updates=1, **fields):
    """State before and after some updates, and metrics."""
    env = env_for(name, env_id)
    init, train = make_train(algorithm(name, env, **fields), env, num_envs=4, num_steps=6)
    start = init(jax.random.key(0))
    end, info = jax.jit(train, static_argnums=1)(start, num_updates)
    return start.learner_state, end.learner_state, info


def weights(learner):
    names = [name for name in learner._fields if name.endswith("params")]
    return [getattr(learner, name) for name in names if not name.startswith("target")]


@pytest.mark.ci_cases("macpo", "qmix")
@pytest.mark.parametrize("name", ["mappo", "macpo", "qmix", "coma", "liir", "mappo-lagrangian"])
def test_a_chain_of_optax_learns_in_every_kind_of_algorithm(name):
    env_id = "toy/budget-two" if name in ("macpo", "mappo-lagrangian") else "toy/early-death"
    start, end, info = trained(name, env_id, optimizer=CHAIN, num_updates=2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights(end)))
    assert "learning_rate" not in info, "the rate is the chain's own"
    for before, after in zip(weights(start), weights(end), strict=True):
        assert any(
            (a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
        )


@pytest.mark.parametrize("shared", [True, False])
def test_sgd_of_optax_is_the_word_sgd(shared):
    """`max_grad_norm` far above every gradient, so that the word does not clip."""
    fields = STEADY | dict(parameter_sharing=shared)
    word = trained("mappo", optimizer="sgd", lr=0.1, critic_lr=0.1, max_grad_norm=1e9, **fields)
    users = trained("mappo", optimizer=optax.sgd(0.1), **fields)
    for a, b in zip(*map(jax.tree.leaves, (weights(word[1]), weights(users[1]))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_sharing_every_agent_has_a_state_and_a_clip_of_its_own():
    rule = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    start, end, _ = trained("mappo", optimizer=rule, parameter_sharing=False, **STEADY)
    steps = jax.tree.map(lambda a, b: a - b, start.actor_params, end.actor_params)
    lengths = jax.vmap(tree_math.norm)(steps)
    np.testing.assert_allclose(lengths, np.full(lengths.shape, 1e-3), rtol=1e-3)


STILL = optax.sgd(0.0)


@pytest.mark.parametrize(
    "name,field,resting",
    [
        ("mappo", "critic_optimizer", ["critic_params"]),
        ("coma", "critic_optimizer", ["critic_params"]),
        ("liir", "critic_optimizer", ["proxy_critic_params", "extrinsic_critic_params"]),
        ("liir", "intrinsic_optimizer", ["intrinsic_params"]),
        ("macpo", "cost_critic_optimizer", []),
    ],
)
def test_policy_and_critics_may_have_different_optimizers(name, field, resting):
    env_id = "toy/budget-two" if name == "macpo" else "toy/early-death"
    start, end, info = trained(name, env_id, **{field: STILL})
    assert "learning_rate" in info
    pairs = {f: (getattr(start, f), getattr(end, f)) for f in end._fields if f.endswith("params")}
    if name == "macpo":
        pairs["costs"], resting = (start.costs.critic_params, end.costs.critic_params), ["costs"]
    for part, pair in pairs.items():
        differs = any((a != b).any() for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        assert differs == (part not in resting and not part.startswith("target")), part


@pytest.mark.ci_cases("macpo", "qmix")
@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_a_schedule_in_place_of_the_rate(name):
    rate = "lr" if hasattr(registry.config_of(name), "lr") else "critic_lr"
    env_id = "toy/budget-two" if name in ("macpo", "mappo-lagrangian") else "toy/climbing"
    schedule = optax.linear_schedule(0.1, 0.0, 96)  # in environment steps: 4 updates of 24
    _, _, info = trained(name, env_id, num_updates=5, **{rate: schedule})
    first = 0.075 if name == "qmix" else 0.1  # qmix learns after it has counted its rollout
    expected = np.maximum(first - 0.025 * np.arange(5), 0.0)
    np.testing.assert_allclose(info["learning_rate"], expected, atol=1e-6)


def test_a_constant_schedule_is_the_number_and_a_number_stays_data():
    number = trained("ippo", lr=0.01, num_updates=2)
    constant = trained("ippo", lr=lambda steps: 0.01, num_updates=2)
    assert_same_bits(number[1].actor_params, constant[1].actor_params)
    fixed = jml.IPPOConfig(lr=CHAIN.init)  # any function
    assert len(jax.tree.leaves(fixed)) == len(jax.tree.leaves(jml.IPPOConfig())) - 1
    assert jax.tree.map(lambda x: x, fixed) == fixed and fixed.lr is CHAIN.init


def test_a_sweep_over_the_numbers_beside_a_schedule_compiles_once():
    env = env_for("ippo", "toy/climbing")
    base = config("ippo", lr=optax.constant_schedule(0.01))
    init, train = make_train(jml.make_algorithm("ippo", env.spec, base), env, 4, 8)
    traces = []

    @jax.jit
    def run(config):
        traces.append(1)
        return train(init(jax.random.key(0), config), 1)[1]["value_loss"]

    configs = [dataclasses.replace(base, critic_lr=x, gamma=x) for x in (0.1, 0.2, 0.3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(base_config.as_arrays, configs))
    assert jax.vmap(run)(stacked).shape == (3, 1) and len(traces) == 1
    assert {float(run(x).item()) for x in map(base_config.as_arrays, configs)}
    with pytest.raises(ValueError, match="config.lr is 0.5; allowed is <function"):
        init(jax.random.key(0), dataclasses.replace(base, lr=0.5))


@pytest.mark.parametrize(
    "name,fields,text",
    [
        ("mappo", {"optimizer": 3}, "MAPPOConfig.optimizer is 3; allowed is adam, rmsprop, sgd"),
        ("mappo", {"optimizer": "adamw"}, "optimizer is 'adamw'; allowed is adam"),
        ("mappo", {"critic_optimizer": 0.1}, "critic_optimizer is 0.1; allowed is adam"),
        ("mappo", {"optimizer": CHAIN, "lr": 0.1}, "MAPPOConfig.lr is 0.1, which has no effect"),
        ("mappo", {"critic_optimizer": CHAIN, "critic_lr": 0.1}, "critic_lr is 0.1, which has no"),
        ("mappo", {"optimizer": CHAIN, "max_grad_norm": 1.0}, "max_grad_norm is 1.0, which has no"),
        ("mappo", {"optimizer": CHAIN, "eps_root": 0.1}, "eps_root is 0.1, which has no effect"),
        ("qmix", {"optimizer": CHAIN, "lr_anneal_steps": 9.0}, "lr_anneal_steps is 9.0, which"),
        ("qmix", {"lr": len, "lr_anneal_share": 0.5}, "lr_anneal_share is 0.5, which has no"),
        ("macpo", {"critic_optimizer": CHAIN, "optimizer": "sgd"}, "optimizer is 'sgd', which has"),
        ("ippo", {"shared_torso": True, "critic_optimizer": CHAIN}, "critic_optimizer is Gradient"),
        ("liir", {"intrinsic_optimizer": CHAIN, "intrinsic_eps": 0.1}, "intrinsic_eps is 0.1"),
        ("ippo", {"lr": "fast"}, "lr is 'fast'; allowed is a number from 0 to 10, or a schedule"),
        ("ippo", {"lr": CHAIN}, "lr is Gradient.*; allowed is a number from 0 to 10, or a sched"),
    ],
)
def test_settings_without_effect_and_of_the_wrong_kind_are_refused(name, fields, text):
    with pytest.raises(ValueError, match=text):
        registry.config_of(name)(**fields)


@pytest.mark.parametrize(
    "fields,text",
    [
        ({"optimizer": optax.adam}, "which cannot be called without arguments"),
        ({"optimizer": lambda: 3}, "allowed is adam, rmsprop, sgd"),
        ({"optimizer": "users_rules:number"}, "optimizer is 'users_rules:number'; allowed is adam"),
        ({"optimizer": "users_rules:nothing"}, "the module users_rules has no nothing"),
        ({"optimizer": "no_such_module:x"}, "whose module no_such_module cannot be imported"),
        ({"optimizer": optax.lbfgs()}, "optimizer is Gradient.*, which cannot take a step"),
        ({"lr": lambda steps: jnp.ones(3)}, "returns ShapeDtypeStruct.*; allowed is a schedule"),
        ({"lr": lambda steps: float(steps)}, "lr is <function.*, which fails for a traced number"),
        ({"lr": "users_rules:number"}, "lr is 'users_rules:number'; allowed is a function"),
        (
            {"optimizer": references.Unavailable("<chain>")},
            "MAPPOConfig.optimizer of this run was the object <chain>, which its folder cannot "
            "hold; pass it again as config=.'optimizer': ...., or give it as 'module:name'",
        ),
        ({"lr": references.Unavailable("<f>")}, "MAPPOConfig.lr of this run was the object <f>"),
    ],
)
def test_objects_that_cannot_be_used_are_refused_before_anything_compiles(module, fields, text):
    with pytest.raises(ValueError, match=text):
        jml.make_algorithm("mappo", jml.make("toy/relay").spec, config("mappo", **fields))


def test_presets_give_way_to_a_complete_optimizer():
    result = jml.run(
        "mappo",
        "toy/climbing",
        config={"optimizer": CHAIN, "hidden_sizes": (4,)},
        seeds=1,
        total_steps=updates(1),
        num_evaluations=1,
        **SIZES,
    )
    assert result.config.optimizer is CHAIN and result.config.lr == jml.MAPPOConfig.lr


def test_a_run_by_references_is_stored_loaded_and_resumed(module, tmp_path):
    fields = {"optimizer": "users_rules:make", "critic_optimizer": "sgd", "hidden_sizes": (4,)}
    fields |= {"critic_lr": "users_rules:halving"}
    sizes = SIZES | dict(seeds=1, num_evaluations=1)
    whole = jml.run("mappo", "toy/climbing", config=fields, total_steps=updates(2), **sizes)
    first = tmp_path / "first"
    jml.run("mappo", "toy/climbing", config=fields, total_steps=updates(1), out=first, **sizes)
    stored = json.loads((first / "config.json").read_text())["config"]
    assert stored["optimizer"] == "users_rules:make" and stored["critic_lr"] == fields["critic_lr"]
    resumed = jml.resume_run(first, total_steps=updates(2), quiet=True)
    assert_same_bits(whole.states, resumed.states)
    loaded = jml.load_run(first)
    assert loaded.config.optimizer == "users_rules:make"
    assert callable(loaded.policy())


def test_a_run_by_objects_keeps_its_curves_and_asks_for_them(tmp_path):
    fields = {"optimizer": CHAIN, "hidden_sizes": (4,)}
    sizes = SIZES | dict(seeds=1, num_evaluations=1)
    jml.run(
        "mappo", "toy/climbing", config=fields, total_steps=updates(1), out=tmp_path / "r", **sizes
    )
    loaded = jml.load_run(tmp_path / "r")
    assert loaded.returns.shape == (1, 2)
    assert isinstance(loaded.config.optimizer, references.Unavailable)
    assert loaded.config.optimizer.description.startswith("<GradientTransformation")
    with pytest.raises(ValueError, match="was given its config.optimizer, <Gradient.*again as"):
        jml.resume_run(tmp_path / "r", total_steps=updates(2), quiet=True)
    with pytest.raises(
        ValueError, match="optimizer of this run was the object <Gradient.*again as"
    ):
        loaded.policy()
    with pytest.raises(ValueError, match="config.lr is 0.1; allowed is one of the fields"):
        jml.load_run(tmp_path / "r", config={"lr": 0.1})
    resumed = jml.resume_run(
        tmp_path / "r", config={"optimizer": CHAIN}, total_steps=updates(2), quiet=True
    )
    assert resumed.config.optimizer is CHAIN and resumed.returns.shape == (1, 3)
    longer = jml.run(
        "mappo",
        "toy/climbing",
        resume=tmp_path / "r",
        config=fields,
        total_steps=updates(3),
        quiet=True,
    )
    assert longer.config.optimizer is CHAIN and longer.returns.shape == (1, 4)
    again = dataclasses.replace(loaded.config, optimizer=CHAIN)
    spec = jml.make("toy/climbing").spec
    assert jml.make_algorithm("mappo", spec, again).config.optimizer is CHAIN


def test_the_command_line_takes_references(module, tmp_path):
    options = "--seeds 1 --total-steps 16 --num-envs 4 --num-steps 4 --num-evaluations 1 --quiet"
    words = f"train qmix --env toy/climbing --optimizer users_rules:plain {options} --out run"
    words += " --hidden-sizes 4 --sequence-length 4 --batch-size 4 --buffer-size 16"
    main.main(words.split())
    assert jml.load_run(tmp_path / "run").config.optimizer == "users_rules:plain"
    words = f"train ippo --env toy/climbing --lr users_rules:halving {options} --out other"
    main.main([*words.split(), "--hidden-sizes", "4"])
    assert jml.load_run(tmp_path / "other").config.lr == "users_rules:halving"


def test_state_with_a_key_and_a_mask_by_name():
    """A random key in the state, and a rule for each layer by the name of its weights."""

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "head" if "head" in jax.tree_util.keystr(path) else "body", params
        )

    rule = optax.chain(
        optax.add_noise(1e-3, 0.5, jax.random.key(1)),
        optax.multi_transform({"head": optax.adam(1e-2), "body": optax.set_to_zero()}, labels),
    )
    start, end, _ = trained("mappo", optimizer=rule, parameter_sharing=False)
    changed = {
        jax.tree_util.keystr(path): bool((a != b).any())
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(start.actor_params),
            jax.tree.leaves(end.actor_params),
            strict=True,
        )
    }
    assert all(("head" in name) == differs for name, differs in changed.items()), changed
    assert optimizers.is_complete(rule)
