"""An environment that is changed in place between two runs: the second run has its new numbers."""

from __future__ import annotations

import dataclasses
import functools
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import SIZES, config, updates

import jaxmarl_lite as jml
from jaxmarl_lite.experiment.fingerprint import changed_fields, data_by_field, fingerprint
from jaxmarl_lite.types import EnvSpec, Observation, TimeStep

LENIENT_RANKS = True  # Jumanji broadcasts
GLOBAL = {"bonus": 0.0}
SHORT = SIZES | {
    "seeds": 1,
    "total_steps": updates(1),
    "num_evaluations": 1,
    "config": config("ippo"),
}


def spoiled(self, value):
    return value


class Paid:
    """One step; the team is paid what its fields say."""

    factor = 1.0
    spec = EnvSpec("paid", 2, 1, 1, "discrete", 2, 1)

    def __init__(self):
        self.scale, self.table, self.options = (
            1.0,
            np.array([1.0, 1.0]),
            {"penalty": 0.0, "more": [0.0]},
        )
        self.device = jnp.ones(2)
        bonus = [0.0]
        self.closed = lambda x, extra=(0.0,): x + bonus[0] + extra[0]
        self.bonus = bonus

    def look(self, reward, last):
        obs = Observation(jnp.ones((2, 1)), jnp.ones(1), jnp.ones((2, 2), bool), jnp.ones(2, bool))
        return TimeStep(
            obs, jnp.full(2, reward), jnp.zeros((2, 0)), jnp.ones(()), jnp.asarray(last)
        )

    def reset(self, key):
        return jnp.int32(0), self.look(0.0, False)

    @functools.partial(jax.jit, static_argnums=0)
    def pay(self, action):
        paid = (
            self.closed(self.scale * self.factor * jnp.asarray(self.table)[action[0]])
            * self.device[0]
        )
        return self.unchanged(
            paid - self.options["penalty"] - self.options["more"][0] + GLOBAL["bonus"]
        )

    def unchanged(self, value):
        return value

    def step(self, state, action):
        return state, self.look(self.pay(action), True)

    @functools.cached_property
    def derived(self):
        return np.arange(3.0)


CHANGES = {
    "field": lambda env: setattr(env, "scale", 10.0),
    "numpy table": lambda env: env.table.__setitem__(0, 10.0),
    "entry of a dict": lambda env: env.options.__setitem__("penalty", 1.0),
    "list in a dict": lambda env: env.options["more"].append(1.0),
    "jax array": lambda env: setattr(env, "device", 2 * env.device),
    "closure": lambda env: env.bonus.__setitem__(0, 1.0),
    "default of a function": lambda env: setattr(env.closed, "__defaults__", ((1.0,),)),
    "attribute of the class": lambda env: setattr(type(env), "factor", 3.0),
    "method of the class": lambda env: setattr(type(env), "unchanged", spoiled),
    "global of its module": lambda env: GLOBAL.update(bonus=1.0),
    "another spec": lambda env: setattr(env, "spec", dataclasses.replace(env.spec, max_return=1.0)),
}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(Paid, "factor", Paid.factor)
    monkeypatch.setattr(Paid, "unchanged", Paid.unchanged)
    monkeypatch.setitem(GLOBAL, "bonus", 0.0)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_change_is_seen(change, wrapped):
    env = Paid()
    outer = (
        jml.with_costs(env, [jml.Cost("some", "of action 1", lambda s, a, n: a == 1)])
        if wrapped
        else env
    )
    previous = fingerprint(outer)
    assert previous.complete and previous.same(fingerprint(outer))
    CHANGES[change](env)
    assert not previous.same(fingerprint(outer))


def test_what_a_cost_closes_over_is_seen():
    weight = np.ones(2)
    env = jml.with_costs(
        Paid(), [jml.Cost("some", "of action 1", lambda s, a, n: (a == 1) * weight)]
    )
    previous = fingerprint(env)
    weight[0] = 2.0
    assert not previous.same(fingerprint(env))


def test_a_cached_value_that_is_made_later_is_no_change():
    env = Paid()
    previous = fingerprint(env)
    env.derived  # noqa: B018
    between = fingerprint(env)
    assert previous.same(between)
    env.derived[0] = 5.0
    assert not between.same(fingerprint(env))


def test_what_cannot_be_read_is_never_taken_for_unchanged():
    env = Paid()
    with Path(__file__).open() as env.file:
        assert not fingerprint(env).same(fingerprint(env))
    env.file, env.lock = env, threading.Lock()  # a circle, and an object that decides no numbers
    assert fingerprint(env).same(fingerprint(env))


@pytest.mark.parametrize(
    "name", ["toy/budget", "delayed/toy/relay", "safe/search-and-rescue-2s-40t", "smax/3m"]
)
def test_the_environments_of_the_library_are_read_whole(name):
    env = jml.make(name)
    previous = fingerprint(env)
    jax.eval_shape(env.reset, jax.random.key(0))
    assert previous.same(fingerprint(env)) and env.spec


def test_a_second_run_compiles_only_if_the_environment_changed(monkeypatch):
    env = Paid()
    once = jml.run("ippo", env, **SHORT)
    assert once.returns[0, 0] == 1.0
    compiled = []
    lower = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda *args, **kw: compiled.append(1) or lower(*args, **kw)
    )
    assert jml.run("ippo", env, **SHORT).returns[0, 0] == 1.0 and not compiled
    env.scale, env.options["penalty"] = 10.0, 4.0
    changed = jml.run("ippo", env, **SHORT)
    assert changed.returns[0, 0] == 6.0 and compiled
    assert changed.episode().reward.tolist() == [[6.0, 6.0]]
    env.table[:] = 2.0
    assert changed.episode().reward.tolist() == [[16.0, 16.0]]


def test_reading_an_environment_does_not_keep_it():
    env = Paid()
    env.field = Paid()
    gone = weakref.ref(env.field)
    fingerprint(env)
    data_by_field(env)
    del env.field
    gc.collect()
    assert gone() is None


def test_inside_a_wrapper_the_spec_changes_too():
    env = Paid()
    outer = jml.with_costs(env, [jml.Cost("some", "of action 1", lambda s, a, n: a == 1)])
    env.spec = dataclasses.replace(env.spec, max_episode_steps=7)
    assert outer.spec.max_episode_steps == 7


def test_a_run_that_goes_on_in_a_changed_object_says_in_what(tmp_path):
    env = Paid()
    jml.run("ippo", env, out=tmp_path / "r", **SHORT)
    sizes = {"total_steps": updates(2), "quiet": True}
    jml.resume_run(tmp_path / "r", env=env, **sizes)  # a warning would be an error here
    env.scale, env.options["penalty"] = 10.0, 4.0
    with pytest.warns(
        UserWarning,
        match=r"env differs .* in options, scale; the run goes on with what it holds now",
    ):
        result = jml.resume_run(tmp_path / "r", env=env, **sizes | {"total_steps": updates(3)})
    assert result.returns[0].tolist() == [1.0, 1.0, 1.0, 6.0]
    assert result.states.num_updates == 3


def test_stored_hashes_are_those_of_another_process():
    code = "import test_changed_environments as t; print(t.data_by_field(t.Paid()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.strip() == str(data_by_field(Paid())), done.stderr


def test_stored_hashes_name_the_field():
    env = Paid()
    outer = jml.with_costs(env, [jml.Cost("some", "of action 1", lambda s, a, n: a == 1)])
    previous = data_by_field(outer)
    env.table[1] = 3.0
    assert changed_fields(previous, data_by_field(outer)) == ["env.table"]
    assert changed_fields(previous, {**previous, "other": "0"}) == ["other"]
