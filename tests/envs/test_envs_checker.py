"""check_environment: a good environment passes, and every planted fault is named."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from small_envs import ENVS, get_env

from jaxmarl_lite.envs import check_environment
from jaxmarl_lite.types import EnvSpec, Observation, TimeStep


class Walk:
    """A user's own world: three agents push a point to the right; it ends at 2 or is cut off after
    5 steps."""

    spec = EnvSpec("walk", 3, 2, 1, "discrete", 2, 5, cost_names=("effort",))

    def observe(self, state):
        place, _ = state
        view = jnp.stack([jnp.full(3, place), jnp.arange(3.0)], axis=-1)
        return Observation(view, place[None], jnp.ones((3, 2), bool), jnp.ones(3, bool))

    def reset(self, key):
        state = (jax.random.uniform(key), jnp.int32(0))
        first = TimeStep(
            self.observe(state), jnp.zeros(3), jnp.zeros((3, 1)), jnp.float32(1), jnp.bool_(False)
        )
        return state, first

    def step(self, state, action):
        place, time = state
        push = (action == 1).astype(float)
        state = (place + push.mean() / 4, time + 1)
        over = state[0] >= 2
        reward = jnp.broadcast_to(push.sum(), 3)
        discount = 1.0 - over.astype(float)
        return state, TimeStep(
            self.observe(state), reward, push[:, None], discount, over | (state[1] >= 5)
        )


def test_a_custom_env_passes():
    assert check_environment(Walk()) is Walk.spec


@pytest.mark.parametrize(
    "env_id", ["toy/early-death", "toy/reach-heterogeneous", "jumanji/connector-5x5x2a"]
)
def test_the_librarys_envs_pass(env_id):
    assert env_id in ENVS
    env = get_env(env_id)
    assert check_environment(env, jax.random.key(5)) == env.spec


def spec_with(**changes):
    return lambda env: setattr(env, "spec", dataclasses.replace(Walk.spec, **changes))


def answer_with(method, change):
    """Change what a method answers: ``change(state, timestep) -> (state, timestep)``."""

    def plant(env):
        original = getattr(env, method)
        setattr(env, method, lambda *args: change(*original(*args)))

    return plant


def in_obs(**fields):
    return lambda state, ts: (
        state,
        ts._replace(obs=ts.obs._replace(**{k: f(ts) for k, f in fields.items()})),
    )


def in_step(**fields):
    return lambda state, ts: (state, ts._replace(**{k: f(ts) for k, f in fields.items()}))


def never_ends(env):
    def step(state, action):
        state, timestep = Walk.step(env, state, action)
        return state, timestep._replace(last=jnp.bool_(False), discount=jnp.float32(1))

    env.step = step


def untraceable(env):
    def step(state, action):
        return Walk.step(env, state, action) if action[0] > 0 else (state, None)

    env.step = step


def swap(reset_or_step):
    """The time step first, as some libraries give it."""
    return answer_with(reset_or_step, lambda state, ts: (ts, state))


def step_of_other_order(*names):
    """`step` with the arguments of other libraries."""

    def plant(env):
        inner = env.step
        env.step = eval(f"lambda {', '.join(names)}: inner(state, action)", {"inner": inner})

    return plant


FAULTS = {
    "no step": (lambda env: setattr(env, "step", None), "step cannot be traced"),
    "spec is no EnvSpec": (
        lambda env: setattr(env, "spec", {"num_agents": 3}),
        "spec is a dict, but must be a",
    ),
    "no agents": (spec_with(num_agents=0), "spec.num_agents is 0, but must be a positive int"),
    "kind": (
        spec_with(action_type="both"),
        "spec.action_type is 'both', but must be 'discrete' or 'continuous'",
    ),
    "costs twice": (
        spec_with(cost_names=("a", "a")),
        "spec.cost_names .* a tuple of different names",
    ),
    "costs of two words": (
        spec_with(cost_names=("two words",)),
        "spec.cost_names .* words, without spaces or any of",
    ),
    "too few names": (
        spec_with(action_names=("go",)),
        r"spec.action_names .* \(\) or a tuple of 2 words, one per",
    ),
    "bounds of discrete": (
        spec_with(action_low=(0.0, 0.0)),
        "spec.action_low .* None for discrete actions",
    ),
    "bounds swapped": (
        spec_with(action_type="continuous", action_low=(0.0, 1.0), action_high=(1.0, -1.0)),
        r"spec.action_low\[1\] is 1, but must be below spec.action_high\[1\] = -1",
    ),
    "bounds on one side": (
        spec_with(action_type="continuous", action_low=(0.0, 0.0)),
        "spec.action_high is None, but must be given together with spec.action_low",
    ),
    "a bound that is a number": (
        spec_with(action_type="continuous", action_low=0.0, action_high=1.0),
        "spec.action_low is 0.0, but must be a tuple of 2 finite numbers",
    ),
    "bounds too many": (
        spec_with(action_type="continuous", action_low=(0.0,)),
        "spec.action_low .* tuple of 2 finite",
    ),
    "view size": (
        spec_with(obs_size=4),
        r"reset's obs.agents_view is of shape \(3, 2\), but must be \(3, 4\) \[N, O\]",
    ),
    "state size": (
        spec_with(global_state_size=2),
        r"reset's obs.global_state is of shape \(1,\), but must be \(2,\) \[S\]",
    ),
    "cost width": (
        spec_with(cost_names=()),
        r"reset's cost is of shape \(3, 1\), but must be \(3, 0\) .*cost_names",
    ),
    "mask dtype": (
        answer_with("reset", in_obs(action_mask=lambda ts: ts.obs.action_mask.astype(float))),
        "reset's obs.action_mask is of dtype float32, but must be bool",
    ),
    "reward shape": (
        answer_with("step", in_step(reward=lambda ts: ts.reward.sum())),
        r"step's reward is of shape \(\), but must be \(3,\) \[N\]",
    ),
    "reward dtype": (
        answer_with("step", in_step(reward=lambda ts: ts.reward.astype(int))),
        "step's reward is of dtype int32, but must be float32",
    ),
    "reward not an array": (
        answer_with("reset", in_step(reward=lambda ts: None)),
        "reset's reward is a NoneType",
    ),
    "reward infinite": (
        answer_with("step", in_step(reward=lambda ts: ts.reward + jnp.inf)),
        "step's reward is not finite",
    ),
    "reward of the team differs": (
        answer_with("step", in_step(reward=lambda ts: jnp.arange(3.0))),
        r"step's reward is \[0.0, 1.0, 2.0\], but must be the same for all agents",
    ),
    "reward at reset": (
        answer_with("reset", in_step(reward=lambda ts: ts.reward + 1)),
        "reset's reward is .* but must be 0",
    ),
    "cost at reset": (
        answer_with("reset", in_step(cost=lambda ts: ts.cost + 1)),
        "reset's cost is .* but must be 0",
    ),
    "no legal action": (
        answer_with("step", in_obs(action_mask=lambda ts: ts.obs.action_mask.at[1].set(False))),
        r"step's obs.action_mask is False for every action of living agents \[1\]",
    ),
    "discount of the algorithm": (
        answer_with("step", in_step(discount=lambda ts: ts.discount * 0.99)),
        "step's discount is 0.99, but must be 0 or 1",
    ),
    "over but not last": (
        answer_with(
            "step", in_step(discount=lambda ts: jnp.float32(0), last=lambda ts: jnp.bool_(False))
        ),
        "step's discount is 0 with last False",
    ),
    "last at reset": (
        answer_with("reset", in_step(last=lambda ts: jnp.bool_(True))),
        "reset's discount is 1.0 with last True, but must be 1 with last False",
    ),
    "state changes its form": (
        answer_with("step", lambda state, ts: ({"place": state[0]}, ts)),
        "the state after step is of the form .*place.* but must be of reset's form",
    ),
    "state changes its dtype": (
        answer_with("step", lambda state, ts: ((state[0], state[1].astype(float)), ts)),
        r"the state's \[1\] after step is float32\(\), but must be as after reset, int32\(\)",
    ),
    "never ends": (never_ends, "step's last is still False after 5 steps"),
    "untraceable": (untraceable, "step cannot be traced, as `jit` and `vmap` need .TracerBool"),
    "answers one thing": (
        lambda env: setattr(env, "reset", lambda key: Walk.reset(env, key)[1]),
        r"reset's answer is a TimeStep alone, but must be the pair \(state, TimeStep\), in this",
    ),
    "reset in the other order": (
        swap("reset"),
        r"reset's answer is the pair \(TimeStep, state\), but must be the pair \(state, TimeStep\)",
    ),
    "step in the other order": (
        swap("step"),
        r"step's answer is the pair \(TimeStep, state\), but must be",
    ),
    "five answers": (
        lambda env: setattr(env, "step", lambda state, action: (state, state, 0.0, True, {})),
        r"step's answer is a tuple of 5: .* but must be the pair",
    ),
    "key first": (
        step_of_other_order("key", "state", "action"),
        r"step takes step\(key, state, action\); allowed is step\(state, action\): a random key",
    ),
    "key first, with parameters": (
        step_of_other_order("rng", "state", "action", "params=None"),
        r"step takes step\(rng, state, action, params=None\); allowed is step\(state, action\)",
    ),
    "key last": (
        step_of_other_order("state", "action", "key"),
        r"step takes step\(state, action, key\); allowed is step\(state, action\)",
    ),
    "action first": (
        step_of_other_order("action", "state"),
        r"step takes step\(action, state\); allowed is step\(state, action\)",
    ),
    "reset without a key": (
        lambda env: setattr(env, "reset", lambda: Walk.reset(env, jax.random.key(0))),
        r"reset takes reset\(\); allowed is reset\(key\)",
    ),
    "negative cost": (
        answer_with("step", in_step(cost=lambda ts: ts.cost - 0.5)),
        r"step's cost is \[\[.*\], but must be 0 or more",
    ),
    "observation of another kind": (
        answer_with("reset", in_step(obs=lambda ts: tuple(ts.obs))),
        "reset's obs is a tuple, but must be a jaxmarl_lite.types.Observation",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault):
    plant, message = FAULTS[fault]
    env = Walk()
    plant(env)
    with pytest.raises(ValueError, match=message):
        check_environment(env)


def test_a_name_is_no_environment():
    with pytest.raises(ValueError, match="text 'toy/memory', but must be an object: make"):
        check_environment("toy/memory")


def test_more_arguments_with_defaults_are_fine():
    env = Walk()
    step_of_other_order("state", "action", "params=None")(env)
    check_environment(env)


class Clocked:
    """Ends after 6 steps; the key is part of the state, so that `step` can draw a new episode."""

    spec = EnvSpec("clocked", 1, 2, 1, "discrete", 2, 6)

    def timestep(self, state, last):
        _, place, time = state
        view = jnp.stack([place, time / 6])
        obs = Observation(view[None], place[None], jnp.ones((1, 2), bool), jnp.ones(1, bool))
        return TimeStep(obs, place[None], jnp.zeros((1, 0)), jnp.ones(()), last)

    def reset(self, key):
        key, place_key = jax.random.split(key)
        state = (key, jax.random.uniform(place_key), jnp.int32(0))
        return state, self.timestep(state, jnp.bool_(False))._replace(reward=jnp.zeros(1))

    def end(self, time):
        return time == 6  # not >=: a step after the last would not end

    def step(self, state, action):
        key, place, time = state
        state = (key, place + 0.1 * action[0], time + 1)
        return state, self.timestep(state, self.end(state[2]))


class ResetsItself(Clocked):
    """At the end, state and observation are those of a new episode, as gymnax returns them."""

    def step(self, state, action):
        state, timestep = super().step(state, action)
        fresh, first = self.reset(state[0])
        state, obs = jax.tree.map(
            lambda a, b: jnp.where(timestep.last, a, b), (fresh, first.obs), (state, timestep.obs)
        )
        return state, timestep._replace(obs=obs)


class Logged:
    """A wrapper whose state counts all steps of all episodes, as logging wrappers do."""

    spec = Clocked.spec

    def __init__(self, env):
        self.env = env

    def reset(self, key):
        state, timestep = self.env.reset(key)
        return (state, jnp.int32(0)), timestep

    def step(self, state, action):
        inner, timestep = self.env.step(state[0], action)
        return (inner, state[1] + 1), timestep


@pytest.mark.parametrize("env", [ResetsItself(), Logged(ResetsItself())], ids=["bare", "logged"])
def test_an_environment_that_resets_itself_is_refused(env):
    with pytest.raises(ValueError, match=r"step resets the environment: .*without an auto-reset"):
        check_environment(env)


class Blink(Clocked):
    """Two steps that end where they began in all that is observed, with a clock in the state."""

    spec = dataclasses.replace(Clocked.spec, max_episode_steps=2)

    def timestep(self, state, last):
        key, _, time = state
        return super().timestep((key, jnp.zeros(()), time % 2), last)

    def end(self, time):
        return time == 2


@pytest.mark.parametrize("env", [Clocked(), Logged(Clocked()), Blink()])
def test_an_environment_that_goes_on_after_its_end_is_not_taken_for_one_that_resets(env):
    check_environment(env)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (None, r"spec.win_condition is 'at 2', but there is no method `is_win\(state\)`"),
        (lambda state: state[0] * 1.0, r"is_win's answer is float32\(\), but must be one bool"),
        (
            lambda state: bool(state[0] >= 2),
            "is_win cannot be traced, as `jit` and `vmap` need .TracerBool",
        ),
    ],
)
def test_a_promised_win_is_reported(described, message):
    env = Walk()
    spec_with(win_condition="at 2")(env)
    if described is not None:
        env.is_win = described
    with pytest.raises(ValueError, match=message):
        check_environment(env)
    env.is_win = lambda state: state[0] >= 2
    check_environment(env)
    spec_with(can_diverge=True)(env)
    with pytest.raises(
        ValueError,
        match=r"spec.can_diverge is True, but there is no method `is_non_finite\(state\)`",
    ):
        check_environment(env)


def test_a_missing_method_is_named():
    class Half:
        spec = Walk.spec
        reset = Walk.reset

    with pytest.raises(
        ValueError, match="Half has no `step`; an environment has `spec`, `reset` and `step`"
    ):
        check_environment(Half())
