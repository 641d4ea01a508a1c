"""Every kind of algorithm trains with matrix products in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import algorithm, env_for

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import registry


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("liir", {}),
        ("liir", {"recurrent": True, "parameter_sharing": False}),
        ("macpo", {"recurrent": True}),
        ("ippo", {"shared_torso": True}),
        ("ippo", {"parameter_sharing": False}),
        ("mappo", {"recurrent": True}),
        ("qmix", {}),
        ("coma", {}),
    ],
)
def test_an_update_in_bfloat16_is_finite_and_close_to_that_in_float32(name, settings):
    env = env_for(name, "toy/early-death")
    results = {}
    for precision in ("float32", "bfloat16"):
        built = algorithm(name, env, precision=precision, **settings)
        init, train = jml.make_train(built, env, num_envs=4, num_steps=6)
        state = jax.jit(init)(jax.random.key(0))
        after, metrics = jax.jit(lambda state, train=train: train(state, 1))(state)
        learner = after.learner_state._replace(config=())
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics["value_loss"]))
        floats = [x for x in jax.tree.leaves(learner) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in floats)
        results[precision] = np.concatenate([np.ravel(x) for x in floats])
    distance = np.linalg.norm(results["bfloat16"] - results["float32"])
    assert 0 < distance < 0.1 * np.linalg.norm(results["float32"])


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_an_unknown_precision_is_named(name):
    kind = registry.config_of(name)
    with pytest.raises(ValueError) as caught:
        kind(precision="float16")
    text = str(caught.value)
    assert text.startswith(f"{kind.__name__}.precision is 'float16'; allowed is ")
    assert "float32" in text and "bfloat16" in text
    assert kind(precision="bfloat16").network_spec.precision == "bfloat16"
    assert jax.tree.structure(kind()) != jax.tree.structure(kind(precision="bfloat16"))
