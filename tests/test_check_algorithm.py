"""check_algorithm: a good algorithm passes every check, and each planted fault fails the check that
names it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.types import Algorithm, EnvSpec, Observation, TimeStep


class Trio:
    """Episodes of three steps; the second agent lives for two, and lacks the third action."""

    spec = EnvSpec("trio", 2, 3, 3, "discrete", 3, 3)

    def timestep(self, time, reward):
        now = jax.nn.one_hot(time, 3)
        mask = jnp.array([[True, True, True], [True, True, False]])
        obs = Observation(jnp.stack([now, 2 * now]), now, mask, jnp.stack([time < 9, time < 2]))
        return TimeStep(obs, jnp.full(2, reward), jnp.zeros((2, 0)), jnp.ones(()), time == 3)

    def reset(self, key):
        return jnp.int32(0), self.timestep(jnp.int32(0), 0.0)

    def step(self, time, action):
        return time + 1, self.timestep(time + 1, (action == 1).astype(float).mean())


@base_config.config_record
class LinearConfig(base_config.Settings):
    lr: float = base_config.bounded(0.1, 0, 10)
    memory: bool = False


class LinearState(NamedTuple):
    config: Any
    weights: Any


class Linear:
    """A policy gradient with a linear policy, and with a decaying memory of its observations.

    A fault is a method that another class overrides.
    """

    def __init__(self, spec, config):
        self.spec, self.config = spec, config

    def init(self, key, num_envs, config):
        config = jax.tree.map(lambda x: jnp.asarray(x, float), config)
        weights = jax.random.normal(key, (self.spec.obs_size, self.spec.action_size), float)
        return LinearState(config, 0.1 * weights)

    def init_hidden_state(self, num_envs):
        return jnp.zeros((num_envs, *self.shape), float) if self.config.memory else ()

    @property
    def shape(self):
        return self.spec.num_agents, self.spec.obs_size

    def logits(self, weights, obs, seen_before):
        features = obs.agents_view + (seen_before if self.config.memory else 0.0)
        return jnp.where(obs.action_mask, features @ weights, -1e9)

    def remember(self, hidden_state, obs):
        return 0.5 * hidden_state + obs.agents_view if self.config.memory else ()

    def sample(self, key, logits):
        return jax.random.categorical(key, logits)

    def act(self, learner, key, obs, hidden_state, greedy=False):
        logits = self.logits(learner.weights, obs, hidden_state)
        action = logits.argmax(-1) if greedy else self.sample(key, logits)
        action = action.astype(jnp.int32)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]
        return action, log_prob, self.remember(hidden_state, obs)

    def forget(self, hidden_state, last):
        return jnp.where(last[:, None, None], 0.0, hidden_state) if self.config.memory else ()

    def weight(self, steps):
        return steps.obs.alive

    def update(self, key, learner, batch):
        steps = batch.transitions

        def log_probs(weights):
            def step(hidden_state, inputs):
                obs, action, last = inputs
                logits = jax.nn.log_softmax(self.logits(weights, obs, hidden_state))
                chosen = jnp.take_along_axis(logits, action[..., None], -1)[..., 0]
                return self.forget(self.remember(hidden_state, obs), last), chosen

            inputs = steps.obs, steps.action, steps.last
            return jax.lax.scan(step, batch.initial_hidden_state, inputs)[1]

        def loss(weights):
            alive = self.weight(steps)
            chosen = log_probs(weights)
            kl = ((steps.log_prob - chosen) * alive).sum() / jnp.maximum(alive.sum(), 1)
            return -(chosen * steps.reward * alive).mean(), kl

        (value, kl), gradient = jax.value_and_grad(loss, has_aux=True)(learner.weights)
        weights = jax.tree.map(lambda w, g: w - learner.config.lr * g, learner.weights, gradient)
        return learner._replace(weights=weights), {"policy_loss": value, "approx_kl": kl}

    def make(self):
        return Algorithm(
            "linear",
            self.config,
            self.init,
            self.init_hidden_state,
            self.act,
            self.update,
            lambda num_envs, num_steps: None,
            self.spec,
        )


def pair(kind):
    return LinearConfig, lambda name, spec, config, networks: kind(spec, config).make()


@pytest.mark.parametrize("memory", [False, True])
def test_a_good_algorithm_passes_every_check(memory):
    report = jml.check_algorithm(pair(Linear), Trio(), LinearConfig(memory=memory))
    report.raise_for_failures()
    assert {result.environment for result in report.results} == {"trio"}
    skipped = {result.check for result in report.results if result.outcome == "skipped"}
    assert skipped == (set() if memory else {"hidden state"})
    assert len(str(report).splitlines()) == 1 + len(report.results)


def test_an_algorithm_of_the_library_passes_by_name():
    report = jml.check_algorithm("iac", Trio())
    report.raise_for_failures()
    assert sum(result.outcome == "passed" for result in report.results) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", jml.ALGORITHMS)
def test_every_algorithm_of_the_library_passes_in_both_environments(name):
    report = jml.check_algorithm(name)
    report.raise_for_failures()
    environments = {result.environment for result in report.results}
    assert environments == {"discrete", "continuous"}


def test_a_recurrent_policy_of_the_library_passes():
    config = jml.IPPOConfig(hidden_sizes=(8,), recurrent=True, rnn_hidden_size=4, num_epochs=1)
    report = jml.check_algorithm("ippo", Trio(), config, checks=["hidden state", "acting policy"])
    assert {result.outcome for result in report.results} == {"passed"}


class NoKey(Linear):
    def init(self, key, num_envs, config):
        return super().init(jax.random.key(0), num_envs, config)


class PythonBranch(Linear):
    def update(self, key, learner, batch):
        return super().update(key, learner, batch) if batch.transitions.reward.sum() > 0 else None


class OneActionForAll(Linear):
    def act(self, learner, key, obs, hidden_state, greedy=False):
        action, log_prob, after = super().act(learner, key, obs, hidden_state, greedy)
        return action[:, 0], log_prob, after


class StartsAtOne(Linear):
    def init_hidden_state(self, num_envs):
        return jnp.ones((num_envs, *self.shape)) if self.config.memory else ()


class NoMask(Linear):
    def logits(self, weights, obs, seen_before):
        every = obs._replace(action_mask=jnp.ones_like(obs.action_mask))
        return super().logits(weights, every, seen_before)


class NeverGreedy(Linear):
    def act(self, learner, key, obs, hidden_state, greedy=False):
        return super().act(learner, key, obs, hidden_state)


class ConstantKey(Linear):
    def sample(self, key, logits):
        return jax.random.categorical(jax.random.key(3), logits)


class OneDraw(Linear):
    def sample(self, key, logits):
        draw = lambda x: jax.random.categorical(key, x)  # noqa: E731
        return jax.vmap(jax.vmap(draw))(logits)


class OneDrawAmongAgents(Linear):
    def sample(self, key, logits):
        return jax.random.categorical(key, jnp.moveaxis(logits, 1, 0)[:1])[0][:, None].repeat(2, 1)


class OtherForm(Linear):
    def update(self, key, learner, batch):
        learner, info = super().update(key, learner, batch)
        return learner._replace(weights=learner.weights.astype(jnp.float16)), info


class MetricPerStep(Linear):
    def update(self, key, learner, batch):
        learner, info = super().update(key, learner, batch)
        return learner, info | {"reward": batch.transitions.reward}


class NanLater(Linear):
    def update(self, key, learner, batch):
        learner, info = super().update(key, learner, batch)
        return learner, info | {"policy_loss": jnp.log(-jnp.abs(info["policy_loss"]) - 1)}


class LearnsNothing(Linear):
    def update(self, key, learner, batch):
        return learner, super().update(key, learner, batch)[1]


class FrozenPolicy(Linear):
    def init(self, key, num_envs, config):
        learner = super().init(key, num_envs, config)
        return learner._replace(weights=(learner.weights, jnp.zeros((3, 1))))

    def logits(self, weights, obs, seen_before):
        return super().logits(weights[0], obs, seen_before)

    def update(self, key, learner, batch):
        inner = learner._replace(weights=learner.weights[0])
        _, info = Linear(self.spec, self.config).update(key, inner, batch)
        return learner._replace(weights=(learner.weights[0], learner.weights[1] + 1.0)), info


class WeakType(Linear):
    def init(self, key, num_envs, config):
        learner = super().init(key, num_envs, config)
        return learner._replace(weights={"w": learner.weights, "scale": jnp.asarray(1.0)})

    def logits(self, weights, obs, seen_before):
        return super().logits(weights["w"], obs, seen_before)


class FloatOfTheConfig(Linear):
    """Reads the rate where Python has it, so that each rate is a program of its own."""

    def init(self, key, num_envs, config):
        if float(config.lr) > 1:
            raise ValueError
        return super().init(key, num_envs, config)


class RandomNumberOfNumPy(Linear):
    def update(self, key, learner, batch):
        learner, info = super().update(key, learner, batch)
        return learner._replace(weights=learner.weights + np.random.normal() * 1e-3), info


class CountsOnItself(Linear):
    calls = 0

    def act(self, learner, key, obs, hidden_state, greedy=False):
        type(self).calls += 1
        jax.debug.callback(lambda: None)
        noise = jax.pure_callback(
            lambda: np.float32(self.count()), jax.ShapeDtypeStruct((), jnp.float32)
        )
        obs = obs._replace(agents_view=obs.agents_view + 1e-3 * noise)
        return super().act(learner, key, obs, hidden_state, greedy)

    def count(self):
        type(self).calls += 1
        return type(self).calls


class LearnsFromTheDead(Linear):
    def weight(self, steps):
        return jnp.ones_like(steps.obs.alive)


class MeanOverNone(Linear):
    def update(self, key, learner, batch):
        learner, info = super().update(key, learner, batch)
        alive = batch.transitions.obs.alive
        return learner._replace(weights=learner.weights * (alive.sum() / alive.sum())), info


class NeverForgets(Linear):
    def forget(self, hidden_state, last):
        return hidden_state


class Float32(Linear):
    def init(self, key, num_envs, config):
        learner = super().init(key, num_envs, config)
        return learner._replace(weights=learner.weights.astype(jnp.float32))

    def update(self, key, learner, batch):
        learner, info = super().update(key, learner, batch)
        return learner._replace(weights=learner.weights.astype(jnp.float32)), info


@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        (NoKey, "init", "init gives the same learner for two keys"),
        (FloatOfTheConfig, "init", "ConcretizationTypeError"),
        (OneActionForAll, "act", r"the action is int32\[32\]; allowed are integers of shape"),
        (StartsAtOne, "hidden state", "init_hidden_state is not zero everywhere"),
        (NoMask, "legal actions", r"act\(greedy=False\) takes an action that is not legal"),
        (NeverGreedy, "greedy", r"act\(greedy=True\) depends on the key"),
        (ConstantKey, "random keys", "the same actions for two keys"),
        (OneDraw, "random keys", "the same actions in all environments"),
        (OneDrawAmongAgents, "random keys", "the same action for all agents"),
        (PythonBranch, "update", "TracerBoolConversionError"),
        (OtherForm, "update", r"learner after update.weights is float16.* allowed is float32"),
        (MetricPerStep, "metrics", r"info\['reward'\] has shape \[8, 4, 2\]; allowed is \[\]"),
        (NanLater, "finite", r"info\['policy_loss'\] is not finite after 2 updates"),
        (LearnsNothing, "learns", "no array of the learner changes in 2 updates"),
        (FrozenPolicy, "learns", "act gives the same actions as before"),
        (WeakType, "traced once", r"traced 2 times .* weakly typed learner.weights\['scale'\]"),
        (RandomNumberOfNumPy, "pure", "update is another program each time"),
        (CountsOnItself, "same seed", "two runs from one state differ in"),
        (LearnsFromTheDead, "dead agents", "learns from the actions of agents that are not alive"),
        (MeanOverNone, "dead agents", "not finite after a batch in which no agent is alive"),
        (NeverForgets, "acting policy", "approx_kl is .* at learning rate 0; allowed is 0"),
        (Float32, "float64", "learner.weights is float32 with jax_enable_x64"),
    ],
)
def test_each_fault_fails_the_check_that_names_it(kind, check, message):
    config = LinearConfig(memory=kind in (StartsAtOne, NeverForgets))
    report = jml.check_algorithm(pair(kind), Trio(), config, checks=[check])
    (failure,) = report.failures
    assert failure.check == check
    with pytest.raises(ValueError, match=message):
        report.raise_for_failures()
    assert report.results[-1] == failure and failure.explanation in str(report)


def test_what_needs_a_failed_check_is_skipped():
    report = jml.check_algorithm(pair(NoKey), Trio(), checks=["float64"])
    outcomes = {result.check: result.outcome for result in report.results}
    assert outcomes == {
        "sizes": "passed",
        "init": "failed",
        "act": "skipped",
        "update": "skipped",
        "float64": "skipped",
    }
    assert report.results[-1].explanation == "needs the check update"


def test_an_algorithm_that_serves_no_environment_fails():
    def refuse(name, spec, config, networks):
        raise ValueError(f"no {spec.action_type} actions")

    report = jml.check_algorithm((LinearConfig, refuse))
    (failure,) = report.failures
    assert failure.check == "make" and "no continuous actions" in failure.explanation


def test_wrong_arguments_are_refused():
    made = Linear(Trio.spec, LinearConfig()).make()
    with pytest.raises(ValueError, match="env is None; allowed is the environment that linear was"):
        jml.check_algorithm(made)
    with pytest.raises(
        ValueError, match="config is LinearConfig.*allowed is None for an Algorithm"
    ):
        jml.check_algorithm(made, Trio(), LinearConfig())
    with pytest.raises(ValueError, match="algorithm is 3; allowed is one of .*, a .Config, make"):
        jml.check_algorithm(3)
    with pytest.raises(ValueError, match="algorithm is 'ipo'"):
        jml.check_algorithm("ipo")
    with pytest.raises(ValueError, match="config is IPPOConfig.*allowed is a LinearConfig"):
        jml.check_algorithm(pair(Linear), Trio(), jml.IPPOConfig())
    with pytest.raises(ValueError, match="checks is 'gredy'; .* nearest: greedy"):
        jml.check_algorithm(made, Trio(), checks=["gredy"])
    with pytest.raises(ValueError, match="num_envs is 0"):
        jml.check_algorithm(made, Trio(), num_envs=0)
    other = dataclasses.replace(Trio.spec, obs_size=4)
    with pytest.raises(ValueError, match="env has obs_size 3; allowed is 4"):
        jml.check_algorithm(Linear(other, LinearConfig()).make(), Trio())
