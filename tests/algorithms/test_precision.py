"""Every kind of algorithm trains with matrix products in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import algorithm, env_for, of_agents

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.ops import tree_math


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("liir", {}),
        ("macpo", {}),
        ("ippo", {"parameter_sharing": False}),
        ("mappo", {"recurrent": True}),
        ("qmix", {}),
        ("coma", {}),
    ],
)
def test_an_update_in_bfloat16_is_finite_and_goes_where_that_in_float32_goes(name, settings):
    """The acting networks' weights; Adam's first step of LIIR's reward has one size in all entries,
    also where the gradient is close to 0 and its sign is that of the rounding."""
    env = env_for(name, "toy/early-death")
    steps = []
    for precision in ("float32", "bfloat16"):
        built = algorithm(name, env, precision=precision, **settings)
        init, train = jml.make_train(built, env, num_envs=4, num_steps=6)
        before = jax.jit(init)(jax.random.key(0))
        after, metrics = jax.jit(lambda state, train=train: train(state, 1))(before)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics["value_loss"]))
        floats = [
            x
            for x in jax.tree.leaves(after.learner_state._replace(config=()))
            if jnp.issubdtype(x.dtype, jnp.floating)
        ]
        assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in floats)
        old, new = (next(iter(of_agents(x.learner_state).values())) for x in (before, after))
        steps.append(jax.tree.map(jnp.subtract, new, old))
    exact, rounded = steps
    length = jnp.sqrt(tree_math.vdot(exact, exact) * tree_math.vdot(rounded, rounded))
    assert tree_math.vdot(exact, rounded) > 0.95 * length > 0
    assert any(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), exact, rounded)))


def test_the_meta_gradient_in_bfloat16_is_that_of_float32(float64):
    """By plain gradient descent, whose step is the gradient; in float64 no step is lost beside its
    weight, and all rounding is that of the products."""
    env = env_for("liir", "toy/early-death")
    steps = []
    for precision in ("float32", "bfloat16"):
        built = algorithm("liir", env, precision=precision, optimizer="sgd")
        init, train = jml.make_train(built, env, num_envs=4, num_steps=6)
        before = jax.jit(init)(jax.random.key(0))
        after, _ = jax.jit(lambda state, train=train: train(state, 1))(before)
        old, new = (jax.tree.leaves(x.learner_state.intrinsic_params) for x in (before, after))
        steps.append([np.asarray(x - y) for x, y in zip(new, old, strict=True)])
    for exact, rounded in zip(*steps, strict=True):
        length = np.linalg.norm(exact) * np.linalg.norm(rounded)
        assert (exact * rounded).sum() > 0.9999 * length > 0
        assert (exact != rounded).any()


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
