"""Every float of every algorithm's config, handed over with `init`, changes something or is
refused."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_envs import algorithm, env_for

from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.train import make_train

LIVE = {
    "macpo": dict(
        pessimism_ki=0.5,
        pessimism_kp=0.5,
        recovery_share=0.5,
        cost_confidence=0.8,
        cost_average_episodes=2.0,
        target_kl=3.0,
    ),
    "hatrpo": dict(
        target_kl=0.5, accept_ratio=0.5
    ),  # so far that the line search has to shorten the step
    "mappo-lagrangian": dict(cost_confidence=0.8, cost_average_episodes=2.0, multiplier_init=0.1),
    "liir": dict(intrinsic_coef=0.5, intrinsic_init_scale=1.0),
    "qmix": dict(epsilon_steps=1000.0),
}
"""Settings beside which each float has something to act on."""

OTHER = dict(
    lr_anneal_steps=1000.0,
    lr_anneal_share=0.5,
    epsilon_share=0.5,
    max_grad_norm=1e-3,
    eps_root=0.5,
    clip_eps=1e-3,
    cg_tol=0.9,
    cg_max_residual=0.0,
    accept_ratio=0.99,
    initial_step_size=0.3,
    max_step_norm=1e-4,
    backtrack_coeff=0.9,
    cg_damping=5.0,
    multiplier_max=1e-3,
    intrinsic_eps=1.0,
    intrinsic_bound=0.1,
    epsilon_end=0.9,
    epsilon_start=0.2,
    cost_confidence=0.95,
)
"""What a float is changed to; half its value, or 0.1 instead of 0, where nothing is said."""


def _floats(config):
    kinds = ("float", float, "LearningRate")
    return [f.name for f in dataclasses.fields(config) if f.type in kinds]


def _outcome(state, metrics):
    """The bits of all that a run came to, its config left out."""
    leaves = jax.tree.leaves(
        (state._replace(learner_state=state.learner_state._replace(config=())), metrics)
    )
    return b"".join(
        np.asarray(jax.random.key_data(x) if hasattr(x.dtype, "_impl") else x).tobytes()
        for x in leaves
    )


@pytest.mark.ci_cases("macpo", "liir")
@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_every_float_changes_something_or_is_refused(name):
    env = env_for(name, "toy/early-death")
    built = algorithm(name, env, hidden_sizes=(4,), **LIVE.get(name, {}))
    init, train = make_train(built, env, num_envs=4, num_steps=12)

    @jax.jit
    def run(config):
        return train(init(jax.random.key(0), config), 3)

    plain = _outcome(*run(built.config))
    assert plain == _outcome(*run(built.config))
    idle = []
    for field in _floats(built.config):
        value = getattr(built.config, field)
        other = OTHER.get(field, 0.5 * value or 0.1)
        try:
            config = dataclasses.replace(built.config, **{field: other})
            jax.eval_shape(lambda: init(jax.random.key(0), config))  # noqa: B023 - called here
        except ValueError:
            continue
        if _outcome(*run(config)) == plain:
            idle.append(field)
    assert not idle, f"{idle} of {name} change nothing and are taken"
