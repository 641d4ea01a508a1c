"""A policy can be exported, stored as bytes and called again without the code that made it."""

import jax
import numpy as np
import pytest
from jax import export
from toy_envs import algorithm, env_for

from jaxmarl_lite import types


@pytest.mark.parametrize(("name", "recurrent"), [("ippo", False), ("mappo", True), ("qmix", True)])
def test_a_policy_is_exported_and_called(name, recurrent):
    env = env_for(name, "toy/counter")
    built = algorithm(name, env, recurrent=recurrent)
    learner = built.init(jax.random.key(0), 3)
    obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 3))[1].obs
    arguments = jax.random.key(2), obs, built.init_hidden_state(3)
    policy = jax.jit(
        lambda key, obs, hidden_state: (built.act(learner, key, obs, hidden_state), obs)
    )
    stored = export.export(policy)(*arguments).serialize()
    (action, _, hidden_state), observed = export.deserialize(stored).call(*arguments)
    expected = policy(*arguments)
    np.testing.assert_array_equal(action, expected[0][0])
    assert isinstance(observed, types.Observation) and jax.tree.structure(
        hidden_state
    ) == jax.tree.structure(expected[0][2])


def test_every_public_record_is_registered():
    records = {x for x in vars(types).values() if isinstance(x, type) and issubclass(x, tuple)} - {
        types.Algorithm
    }
    assert {"Observation", "TimeStep", "TrainState"} <= {record.__name__ for record in records}
    for record in records:
        with pytest.raises(ValueError, match="[Dd]uplicate serialization"):
            export.register_namedtuple_serialization(
                record, serialized_name=f"test.{record.__name__}"
            )
