"""Every random key is used once, and no two networks begin equal."""

import collections
import itertools

import jax
import numpy as np
import pytest
from jax.extend import random as jax_random
from toy_envs import algorithm, env_for

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.algorithms.random_policy import random_policy
from jaxmarl_lite.evaluate import make_evaluate
from jaxmarl_lite.experiment import playback, policies
from jaxmarl_lite.train import make_train

ENV = "toy/pursuit"  # draws its start, and all episodes are equally long


class Recorder:
    """Threefry that counts how often each key is used up: drawn from, or split."""

    def __init__(self):
        self.uses = collections.Counter()
        original = jax.random.key
        plain = jax.random.key_impl(original(0))
        data = lambda key, **k: jax.random.wrap_key_data(key, impl=plain)  # noqa: E731

        def use(key):
            jax.debug.callback(lambda k: self.uses.update([np.asarray(k).tobytes()]), key)

        def random_bits(key, width, shape):
            use(key)
            return jax.random.bits(data(key), shape, f"uint{width}")

        def split(key, shape):
            use(key)
            return jax.random.key_data(jax.random.split(data(key), shape))

        self.impl = jax_random.define_prng_impl(
            key_shape=(2,),
            seed=lambda seed: jax.random.key_data(original(seed)),
            split=split,
            random_bits=random_bits,
            fold_in=lambda key, number: jax.random.key_data(jax.random.fold_in(data(key), number)),
            name="recording",
        )


@pytest.fixture
def recorder(monkeypatch):
    result, key = Recorder(), jax.random.key
    monkeypatch.setattr(jax.random, "key", lambda seed, impl=None: key(seed, impl=result.impl))
    return result


@pytest.mark.ci_cases("macpo", "liir")
@pytest.mark.parametrize(
    "name", ["ippo", "coma", "qmix", "liir", "macpo"]
)  # the others use the code of these
def test_a_run_uses_each_key_once(name, recorder):
    """Weights, two rollouts and updates, an evaluation, the random policy, and what is played
    afterwards."""
    env = env_for(name, ENV)
    built = algorithm(name, env)
    init, train = make_train(built, env, num_envs=2, num_steps=6)
    state = jax.jit(init)(jax.random.key(0))
    state, _ = jax.jit(train, static_argnums=1)(state, 2)
    evaluate = jax.jit(make_evaluate(built, env, 2))
    for purpose in (keys.EVALUATION, keys.AFTERWARDS):
        evaluate(state.learner_state, keys.for_purpose(keys.for_purpose(0, purpose), 0))
    jax.jit(make_evaluate(random_policy(env.spec), env, 2))(
        (), keys.for_purpose(0, keys.RANDOM_POLICY)
    )
    playback.make_episode_fn(built, env, greedy=False)(state.learner_state, 0)
    act = policies.TrainedPolicy(built, state.learner_state, greedy=False)
    observation = env.reset(jax.random.key(7))[1].obs
    for _ in range(2):
        act(observation)
    jax.effects_barrier()
    twice = sum(count > 1 for count in recorder.uses.values())
    assert len(recorder.uses) > 60 and twice == 0, (
        f"{twice} of {len(recorder.uses)} keys are used twice"
    )


def test_the_recorder_sees_a_key_that_is_used_twice(recorder):
    key = jax.random.key(0)
    jax.jit(
        lambda key: [
            jax.random.normal(k) for k in (jax.random.split(key)[1], jax.random.fold_in(key, 1))
        ]
    )(key)
    jax.effects_barrier()
    assert sorted(recorder.uses.values()) == [
        1,
        2,
    ]  # the key is split once, and what it gives is drawn from twice


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_no_two_networks_begin_equal(name):
    """Networks of one form are told apart by their first layers, heads that are scaled down being
    as distinct."""
    env = env_for(name, "toy/climbing")
    if name in ("macpo", "mappo-lagrangian"):
        env = one_cost(env)
    learner = jax.jit(algorithm(name, env).init, static_argnums=1)(jax.random.key(0), 2)
    skipped = ("config", "target", "_opt", "replay")
    drawn = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(learner)
        if leaf.size > 1
        and leaf.dtype.kind == "f"
        and np.ptp(leaf) > 0
        and not any(x in jax.tree_util.keystr(path) for x in skipped)
    }
    assert drawn
    for (one, x), (other, y) in itertools.combinations(drawn.items(), 2):
        for a, b in itertools.product(_agents(x), _agents(y)):
            assert a.shape != b.shape or not np.array_equal(a, b), f"{one} and {other} begin equal"


def _agents(x):
    """A leaf, or its entries for each of two agents."""
    return [x, *x] if x.ndim > 2 else [x]


def one_cost(env):
    from jaxmarl_lite.envs.wrappers import Cost, with_costs

    inner = getattr(env, "env", env)
    return with_costs(
        getattr(inner, "env", inner),
        [Cost("some", "of action 1", lambda s, a, n: (a == 1) * 1.0, 0.5)],
    )
