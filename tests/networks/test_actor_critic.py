import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_impl

from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.ops import tree_math

T, B, N, IN, H, OUT = 6, 3, 2, 4, 5, 3
FORMS = {
    "feed-forward": NetworkSpec((7, 6), "tanh", False, H),
    "recurrent": NetworkSpec((7,), "relu", True, H),
    "recurrent, deep heads": NetworkSpec((7,), "tanh", True, H, (6, 4)),
}


def _case(form, agents=N, shared=True, **keywords):
    net = make_network(FORMS[form], IN, OUT, num_agents=agents, shared=shared, **keywords)
    lead = (T, B) if agents is None else (T, B, agents)
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(*lead, IN)), float)
    first = jnp.asarray(draw.random((T, B)) < 0.3)
    start = jax.tree.map(
        lambda m: jnp.asarray(draw.normal(size=m.shape), float), net.init_hidden_state(B)
    )
    # Zero biases would hide an error in them.
    params = jax.tree.map(
        lambda p: p + 0.3 * draw.normal(size=p.shape), jax.jit(net.init)(jax.random.key(1))
    )
    return net._replace(step=jax.jit(net.step), unroll=jax.jit(net.unroll)), params, x, first, start


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [True, False])
def test_unroll_is_the_plain_network_step_by_step(float64, form, shared):
    net, params, x, first, start = _case(form, shared=shared)
    out, memories = net.unroll(params, start, x, first)
    assert out.shape == (T, B, N, OUT) and out.dtype == jnp.float64
    for b in range(B):
        for n in range(N):
            agent_params = jax.tree.map(
                np.asarray, params if shared else jax.tree.map(lambda p, n=n: p[n], params)
            )
            current = np.asarray(start)[b, n] if form != "feed-forward" else ()
            for t in range(T):
                if form != "feed-forward" and first[t, b]:
                    current = np.zeros(H)
                relu = FORMS[form].activation == "relu"
                expected, current = reference_impl.network(
                    agent_params, current, np.asarray(x)[t, b, n], relu
                )
                np.testing.assert_allclose(out[t, b, n], expected, rtol=1e-11, atol=1e-12)
                if form != "feed-forward":
                    np.testing.assert_allclose(memories[t, b, n], current, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("agents", "shared"), [(None, True), (N, True), (N, False)])
def test_unroll_is_step_with_the_memory_zeroed_at_the_beginnings(float64, form, agents, shared):
    net, params, x, first, start = _case(form, agents, shared)
    out, memories = net.unroll(params, start, x, first)
    current = start
    for t in range(T):
        current = jax.tree.map(
            lambda m, t=t: np.asarray(m) * ~np.asarray(first[t]).reshape(B, *(1,) * (m.ndim - 1)),
            current,
        )
        expected, current = net.step(params, current, x[t])
        np.testing.assert_allclose(out[t], expected, rtol=1e-12, atol=1e-13)
        jax.tree.map(
            lambda a, b, t=t: np.testing.assert_allclose(a[t], b, rtol=1e-12, atol=1e-13),
            memories,
            current,
        )


@pytest.mark.parametrize("shared", [True, False])
def test_derivatives_of_unroll_are_those_of_step_after_step(float64, shared):
    """First and second derivatives; `unroll` has a rule of its own for the first."""
    net, params, x, first, start = _case("recurrent", shared=shared)
    aim = jnp.asarray(np.random.default_rng(1).normal(size=(T, B, N, OUT + H)))

    def full(params, start, x):
        out, memories = net.unroll(params, start, x, first)
        return (jnp.concatenate([out, memories], -1) * aim).sum()

    def stepwise(params, current, x):
        total = 0.0
        for t in range(T):
            current = jnp.where(first[t][:, None, None], 0.0, current)
            out, current = net.step(params, current, x[t])
            total += (jnp.concatenate([out, current], -1) * aim[t]).sum()
        return total

    point = params, start, x
    draw = np.random.default_rng(2)
    along = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape)), point)

    def slope(function):
        pull = jax.grad(function, (0, 1, 2))
        return lambda *at: tree_math.vdot(pull(*at), along)

    for function in (lambda f: jax.grad(f, (0, 1, 2)), lambda f: jax.grad(slope(f), (0, 1, 2))):
        result, expected = (jax.jit(function(f))(*point) for f in (full, stepwise))
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_each_head_has_layers_of_its_own(float64):
    net, params, x, first, start = _case("recurrent, deep heads", num_values=1)
    (out, value), _ = net.unroll(params, start, x, first)
    other = {
        name.replace("value_layers", "head_layers").replace("value_head", "head"): params[name]
        for name in params
        if "head" not in name
    }
    alone = make_network(FORMS["recurrent, deep heads"], IN, 1, num_agents=N)
    np.testing.assert_allclose(
        value, alone.unroll(other | {"head": params["value_head"]}, start, x, first)[0]
    )
    assert out.shape[-1] == OUT and {"head_layers_1", "value_layers_1"} < set(params)


def test_shared_weights_are_one_function_of_every_agent(float64):
    net, params, x, first, start = _case("recurrent")
    alone = make_network(FORMS["recurrent"], IN, OUT, num_agents=None)
    out, _ = net.unroll(params, start, x, first)
    for n in range(N):
        np.testing.assert_allclose(
            out[:, :, n], alone.unroll(params, start[:, n], x[:, :, n], first)[0], rtol=1e-13
        )
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(alone.init, jax.random.key(0))
    )


@pytest.mark.parametrize("form", FORMS)
def test_with_weights_of_their_own_agents_do_not_touch_each_other(float64, form):
    net, params, x, first, start = _case(form, shared=False)
    assert all(leaf.shape[0] == N for leaf in jax.tree.leaves(params))

    def of_agent(n):
        return lambda params, start, x: (net.unroll(params, start, x, first)[0][:, :, n] ** 2).sum()

    for n in range(N):
        to_params, to_start, to_x = jax.jit(jax.grad(of_agent(n), (0, 1, 2)))(params, start, x)
        for leaf in jax.tree.leaves(to_params):
            assert (leaf[1 - n] == 0).all()
        weights = jax.tree.leaves(to_params)
        assert all(jnp.abs(leaf[n]).max() > 0 for leaf in weights)
        assert (to_x[:, :, 1 - n] == 0).all() and jnp.abs(to_x[:, :, n]).max() > 0
        for leaf in jax.tree.leaves(to_start):
            assert (leaf[:, 1 - n] == 0).all()


def test_agents_with_weights_of_their_own_begin_differently():
    net = make_network(FORMS["recurrent"], IN, OUT, num_agents=N, shared=False)
    kernels = [p for p in jax.tree.leaves(jax.jit(net.init)(jax.random.key(0))) if p.ndim == 3]
    assert len(kernels) == 4 and all((k[0] != k[1]).any() for k in kernels)


@pytest.mark.parametrize("shared", [True, False])
def test_a_gaussian_head(float64, shared):
    net, params, x, first, start = _case("recurrent", shared=shared, gaussian_head=True)
    (mean, log_std), _ = net.unroll(params, start, x, first)
    plain, weights, *_ = _case("recurrent", shared=shared)
    without = {name: leaf for name, leaf in params.items() if name != "log_std"}
    assert jax.tree.structure(without) == jax.tree.structure(weights)
    np.testing.assert_allclose(mean, plain.unroll(without, start, x, first)[0], rtol=1e-13)
    np.testing.assert_array_equal(log_std, params["log_std"])
    assert log_std.shape == ((OUT,) if shared else (N, OUT))
    (mean, log_std), _ = net.step(params, start, x[0])
    assert mean.shape == (B, N, OUT) and log_std.shape == ((OUT,) if shared else (N, OUT))


@pytest.mark.parametrize(("agents", "shape"), [(None, (B, H)), (N, (B, N, H))])
def test_memories_begin_at_zero_in_the_right_shape(agents, shape):
    hidden_state = make_network(FORMS["recurrent"], IN, OUT, num_agents=agents).init_hidden_state(B)
    assert (
        hidden_state.shape == shape
        and hidden_state.dtype == jnp.float32
        and (hidden_state == 0).all()
    )
    assert (
        make_network(FORMS["feed-forward"], IN, OUT, num_agents=agents).init_hidden_state(B) == ()
    )


@pytest.mark.parametrize("wide", [False, True])
def test_precision_is_the_working_one(wide):
    with jax.enable_x64(wide):
        net = make_network(FORMS["recurrent"], IN, OUT, num_agents=N, gaussian_head=True)
        params = jax.jit(net.init)(jax.random.key(0))
        x = jnp.zeros((T, B, N, IN))
        result = jax.jit(net.unroll)(params, net.init_hidden_state(B), x, jnp.zeros((T, B), bool))
        expected = jnp.float64 if wide else jnp.float32
        assert all(leaf.dtype == expected for leaf in jax.tree.leaves((params, result)))


def test_head_scale_and_first_log_std():
    def head(scale):
        net = make_network(
            FORMS["feed-forward"],
            IN,
            OUT,
            num_agents=None,
            head_init_scale=scale,
            gaussian_head=True,
        )
        return jax.jit(net.init)(jax.random.key(0))

    small, large = head(0.01), head(1.0)
    np.testing.assert_allclose(small["head"]["kernel"] * 100.0, large["head"]["kernel"], rtol=1e-5)
    kernel = np.asarray(large["head"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(OUT), atol=1e-5)
    hidden = np.asarray(large["layers_0"]["kernel"])
    np.testing.assert_allclose(hidden @ hidden.T, 2.0 * np.eye(IN), atol=1e-5)
    assert (small["log_std"] == 0).all()


@pytest.mark.timeout(120)
def test_many_recurrent_networks_begin_side_by_side():
    """A batched QR of these sizes waits for ever on two cores; see `orthogonal`."""
    net = make_network(
        NetworkSpec((128,), recurrent=True, rnn_hidden_size=128), 10, 5, num_agents=None
    )
    keys = jax.random.split(jax.random.key(0), 8)
    together = jax.jit(jax.vmap(lambda key: (net.init(key), net.init(jax.random.fold_in(key, 1)))))(
        keys
    )
    alone = jax.jit(net.init)(keys[3])
    for a, b in zip(jax.tree.leaves(together[0]), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[3], b, atol=1e-6)
