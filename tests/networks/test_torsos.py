"""A user's own networks in every algorithm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import env_for, serves

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import coma, registry
from jaxmarl_lite.networks import recurrent, torsos
from jaxmarl_lite.types import Observation


class TwoLayers(nn.Module):
    """The dense layers of the library, as a user would write them."""

    @nn.compact
    def __call__(self, x):
        for width in (8, 6):
            x = nn.tanh(nn.Dense(width, kernel_init=torsos.orthogonal(2.0**0.5))(x))
        return x


class Cell(nn.Module):
    """A recurrent torso: h' = tanh(W x + U h)."""

    @nn.nowrap
    def initial_state(self, num_rows):
        return jnp.zeros((num_rows, 5))

    @nn.compact
    def step(self, hidden_state, x):
        hidden_state = nn.tanh(nn.Dense(5, name="w")(x) + nn.Dense(5, name="u")(hidden_state))
        return hidden_state, hidden_state


def linear_pair():
    """A pair of functions, as other libraries give them."""

    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 7)) / 3.0}

    return init, lambda params, x: jnp.tanh(x @ params["w"])


@pytest.mark.parametrize("shared", [True, False])
def test_a_users_layers_compute_what_the_librarys_own_do(shared):
    spec = recurrent.NetworkSpec(hidden_sizes=(8, 6), activation="tanh")
    sizes = dict(num_agents=3, shared=shared, gaussian_head=True, num_values=2)
    ours = recurrent.make_network(spec, 4, 2, **sizes)
    theirs = recurrent.make_network(torsos.as_torso("actor", TwoLayers()), 4, 2, **sizes)
    params = ours.init(jax.random.key(0))
    as_theirs = {
        "torso": {"Dense_0": params["layers_0"], "Dense_1": params["layers_1"]},
        **{name: params[name] for name in ("head", "value_head", "log_std")},
    }
    assert jax.tree.structure(as_theirs) == jax.tree.structure(theirs.init(jax.random.key(1)))
    x, first = jax.random.normal(jax.random.key(2), (5, 2, 3, 4)), jnp.zeros((5, 2), bool)
    for a, b in (
        (ours.unroll(params, (), x, first), theirs.unroll(as_theirs, (), x, first)),
        (ours.step(params, (), x[0]), theirs.step(as_theirs, (), x[0])),
    ):
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-6), a, b)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_agents", [3, None])
def test_a_recurrent_torso_over_time_is_its_steps_and_forgets_between_episodes(shared, num_agents):
    net = recurrent.make_network(
        torsos.as_torso("actor", Cell()), 4, 2, num_agents=num_agents, shared=shared
    )
    params, hidden_state = net.init(jax.random.key(0)), net.init_hidden_state(2)
    lead = (2,) if num_agents is None else (2, 3)
    x = jax.random.normal(jax.random.key(1), (4, *lead, 4))
    first = jnp.zeros((4, 2), bool).at[2, 1].set(True)
    out, hidden_states = net.unroll(params, hidden_state, x, first)
    for t in range(4):
        hidden_state = hidden_state.at[1].set(jnp.where(first[t, 1], 0.0, hidden_state[1]))
        step_out, hidden_state = net.step(params, hidden_state, x[t])
        np.testing.assert_allclose(out[t], step_out, atol=1e-6)
        np.testing.assert_allclose(hidden_states[t], hidden_state, atol=1e-6)


ROLES = {"liir": "intrinsic_reward", "macpo": "cost_critic", "mappo-lagrangian": "cost_critic"}


@pytest.mark.ci_cases("macpo-rnn", "liir-linen", "qmix-pair")
@pytest.mark.parametrize(
    "network", [TwoLayers(), linear_pair(), Cell()], ids=["linen", "pair", "rnn"]
)
@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_every_algorithm_learns_with_a_users_networks(name, network):
    env = env_for(name, "toy/relay" if serves(name, "discrete") else "toy/reach")
    roles = {"actor": network}
    if name != "qmix" and not (name == "coma" and isinstance(network, Cell)):
        roles["critic"] = network
    if name in ROLES:
        roles[ROLES[name]] = network
    kind = registry.config_of(name)
    small = {"sequence_length": 4, "buffer_size": 16, "batch_size": 8} if name == "qmix" else {}
    algorithm = jml.make_algorithm(name, env.spec, kind(**small), jml.Networks(**roles))
    init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=8)
    state = init(jax.random.key(0))
    after, metrics = jax.jit(lambda state: train(state, 3))(state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics["value_loss"]))
    for role in roles:
        fields = {"critic": "proxy_critic_params" if name == "liir" else "critic_params"}
        fields |= {"intrinsic_reward": "intrinsic_params", "actor": "actor_params"}
        learner, learned = state.learner_state, after.learner_state
        if role == "cost_critic":
            before, now = learner.costs.critic_params, learned.costs.critic_params
        elif name == "qmix":
            before, now = learner.params.agents, learned.params.agents
        else:
            before, now = (getattr(x, fields[role]) for x in (learner, learned))
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before["torso"], now["torso"])
        assert any(jax.tree.leaves(moved)), role


class Marked(nn.Module):
    """A layer whose weights have a name that no other layer has."""

    mark: str

    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(3, name=self.mark)(x))


SETTINGS = [(name, {}) for name in registry.ALGORITHMS] + [
    ("ippo", {"shared_torso": True}),
    ("ippo", {"parameter_sharing": False}),
    ("coma", {"parameter_sharing": False}),
]


@pytest.mark.parametrize("role", ["actor", "critic", "intrinsic_reward", "cost_critic"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_a_network_of_a_role_is_used_or_refused(name, settings, role):
    env = env_for(name, "toy/relay" if serves(name, "discrete") else "toy/reach")
    config = registry.config_of(name)(**settings)
    networks = jml.Networks(**{role: Marked("mark")})
    try:
        algorithm = jml.make_algorithm(name, env.spec, config, networks)
    except ValueError as error:
        assert f"networks.{role} is given, but {name} has no such network; allowed are" in str(
            error
        )
        assert role not in ("actor", ROLES.get(name))
        assert role != "critic" or name == "qmix" or settings == {"shared_torso": True}
        return
    learner = jax.eval_shape(lambda key: algorithm.init(key, 4), jax.random.key(0))
    marked = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(learner)
        if "['mark']" in jax.tree_util.keystr(path)
        and "opt_state" not in jax.tree_util.keystr(path)
    ]
    fields = {"actor": "actor_params", "intrinsic_reward": "intrinsic_params"}
    field = {"cost_critic": "costs.critic_params"}.get(role, fields.get(role, "critic_params"))
    field = ".params.agents" if name == "qmix" else field
    assert any(field in path for path in marked)


def test_comas_critic_of_a_user_sees_the_others_actions_and_not_its_own():
    spec = env_for("coma", "toy/relay").spec
    networks = coma._make_networks(
        spec,
        coma.COMAConfig(),
        torsos.bodies_of(
            "coma", jml.Networks(critic=Marked("mark")), ("critic",), recurrent.NetworkSpec()
        ),
    )
    params = networks.init_critic(jax.random.key(0), spec)
    shape = (3, 2, spec.num_agents)
    keys = jax.random.split(jax.random.key(1), 3)
    obs = Observation(
        jax.random.normal(keys[0], (*shape, spec.obs_size)),
        jax.random.normal(keys[1], (3, 2, spec.global_state_size)),
        jnp.ones((*shape, spec.action_size), bool),
        jnp.ones(shape, bool),
    )
    action = jax.random.randint(keys[2], shape, 0, spec.action_size)
    q = networks.q(params, obs, action)
    assert q.shape == (*shape, spec.action_size)
    other = action.at[..., 0].set((action[..., 0] + 1) % spec.action_size)
    changed = (networks.q(params, obs, other) != q).any((0, 1, 3))
    assert changed.tolist() == [False] + [True] * (spec.num_agents - 1)
    for field, is_own in (("agents_view", True), ("global_state", False)):
        first = getattr(obs, field)
        first = first.at[:, :, 0].add(1.0)
        moved = (networks.q(params, obs._replace(**{field: first}), action) != q).any((0, 1, 3))
        assert moved.tolist() == [True] + [not is_own] * (spec.num_agents - 1)


def test_comas_critic_refuses_a_torso_with_memory():
    spec = env_for("coma", "toy/relay").spec
    with pytest.raises(ValueError, match="networks.critic has a hidden state; allowed for coma is"):
        jml.make_algorithm("coma", spec, networks=jml.Networks(critic=Cell()))


class Wrong(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "mean of the rows":
            return nn.Dense(3)(x).mean(0)
        if self.kind == "agents folded":
            return nn.Dense(3)(x).reshape(1, -1)
        if self.kind == "ints":
            return jnp.round(nn.Dense(3)(x)).astype(jnp.int32)
        if self.kind == "dropout":
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))
        if self.kind == "integer weights":
            steps = self.param("steps", lambda key: jnp.zeros(3, jnp.int32))
            return nn.Dense(3)(x) + steps.sum()
        if self.kind == "a list":
            return [nn.Dense(3)(x)]
        if self.kind == "fails":
            return x @ jnp.ones((99, 3))
        return nn.BatchNorm(use_running_average=False)(x)


class HalfStep(Cell):
    @nn.compact
    def step(self, hidden_state, x):
        return nn.Dense(5)(x)


class OtherState(Cell):
    @nn.compact
    def step(self, hidden_state, x):
        return nn.Dense(5)(x), (hidden_state, hidden_state)


class OneState(Cell):
    @nn.nowrap
    def initial_state(self, num_rows):
        return jnp.zeros(5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Wrong("mean of the rows"), r"networks.actor gives features of shape \(3,\) for 3 rows"),
        (Wrong("agents folded"), r"features of shape \(1, 9\) for 3 rows.* allowed is \[3, F\]"),
        (Wrong("ints"), "features of dtype int32; allowed are floats"),
        (Wrong("dropout"), "networks.actor draws random numbers in each call; allowed is a module"),
        (
            Wrong("integer weights"),
            r"has the parameter \['steps'\] of dtype int32; allowed are floats",
        ),
        (Wrong("a list"), r"networks.actor gives features of shape list for 3 rows"),
        (
            Wrong("fails"),
            r"networks.actor fails in init for float inputs .*: TypeError: dot_general",
        ),
        (HalfStep(), r"networks.actor.step returns a ShapeDtypeStruct; allowed is \(features, hid"),
        (OtherState(), "networks.actor gives the hidden state .* allowed is the same structure"),
        (OneState(), r"networks.actor.initial_state\(3\) is .* allowed are arrays that lead with"),
        (Wrong("batch norm"), "has the collections batch_stats beside params"),
        (TwoLayers, "networks.actor is <class .*TwoLayers'>; allowed is a Flax Linen module"),
        (3, "networks.actor is 3; allowed is"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(network, message):
    spec = jml.make("toy/relay").spec
    with pytest.raises((TypeError, ValueError), match=message):
        jml.make_algorithm("mappo", spec, networks=jml.Networks(actor=network))


def test_a_role_that_an_algorithm_lacks_is_refused():
    spec = jml.make("toy/relay").spec
    with pytest.raises(ValueError, match="networks.intrinsic_reward is given, but mappo has no"):
        jml.make_algorithm("mappo", spec, networks=jml.Networks(intrinsic_reward=TwoLayers()))
    with pytest.raises(ValueError, match="networks is .* allowed is a jaxmarl_lite.Networks"):
        jml.make_algorithm("mappo", spec, networks=TwoLayers())
