"""Products of operands that are rounded to bfloat16, and networks of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite import platforms
from jaxmarl_lite.networks import products
from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.ops import tree_math

T, B, N, IN, OUT = 5, 4, 3, 12, 6
FORMS = {
    "dense": dict(hidden_sizes=(32, 32), activation="tanh"),
    "recurrent": dict(hidden_sizes=(32,), activation="tanh", recurrent=True, rnn_hidden_size=32),
    "deep heads": dict(
        hidden_sizes=(32,), recurrent=True, rnn_hidden_size=32, head_hidden_sizes=(16,)
    ),
}


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def rounded(x):
    return np.asarray(x.astype(jnp.bfloat16), np.float64)


@pytest.mark.parametrize("agents", [None, N])
def test_operands_of_a_product_and_of_its_gradient_are_rounded_and_results_are_not(agents):
    lead = () if agents is None else (agents,)
    x, matrix, cotangent = draw(0, *lead, 20, IN), draw(1, *lead, IN, OUT), draw(2, *lead, 20, OUT)
    multiply = products.matmul("bfloat16")
    if agents:
        multiply = jax.vmap(multiply)
    result, pull_back = jax.vjp(multiply, x, matrix)
    x, matrix, cotangent, (to_x, to_matrix) = (
        rounded(x),
        rounded(matrix),
        rounded(cotangent),
        pull_back(cotangent),
    )
    for computed, expected in (
        (result, x @ matrix),
        (to_x, cotangent @ matrix.swapaxes(-1, -2)),
        (to_matrix, x.swapaxes(-1, -2) @ cotangent),
    ):
        assert computed.dtype == jnp.float32
        np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-5)  # 1e-2 if rounded


def case(form, shared=True, precision="bfloat16"):
    spec = NetworkSpec(**FORMS[form], precision=precision)
    net = make_network(spec, IN, OUT, num_agents=N, shared=shared, num_values=1)
    first = jnp.asarray(np.random.default_rng(3).random((T, B)) < 0.3)
    return net, jax.jit(net.init)(jax.random.key(0)), draw(4, T, B, N, IN), first


def outputs(form, shared, precision):
    net, params, x, first = case(form, shared, precision)
    unrolled = jax.jit(net.unroll)(params, net.init_hidden_state(B), x, first)
    return params, (unrolled, jax.jit(net.step)(params, net.init_hidden_state(B), x[0]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [True, False])
def test_outputs_differ_from_float32_by_rounding_alone(form, shared):
    params, result = outputs(form, shared, "bfloat16")
    same_params, expected = outputs(form, shared, "float32")
    jax.tree.map(np.testing.assert_array_equal, params, same_params)
    assert len(jax.tree.leaves(result)) == (4 if form == "dense" else 6)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        distance = jnp.linalg.norm(a - b) / jnp.linalg.norm(b)
        assert 1e-4 < distance < 3e-2, distance


def loss(net, x, first):
    aim = draw(5, T, B, N, OUT)

    def of_params(params):
        (out, value), _ = net.unroll(params, net.init_hidden_state(B), x, first)
        return ((out * aim) ** 2).mean() + (value**2).mean()

    return of_params


def cosine(a, b):
    return tree_math.vdot(a, b) / jnp.sqrt(tree_math.vdot(a, a) * tree_math.vdot(b, b))


@pytest.mark.ci_cases("*-dense", "*-recurrent")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [True, False])
def test_first_and_second_derivatives_are_close_to_those_of_float32(form, shared):
    """The second by reverse mode, as for LIIR, and by transposition, as for Fisher vectors."""
    results = []
    for precision in ("bfloat16", "float32"):
        net, params, x, first = case(form, shared, precision)
        function = loss(net, x, first)
        along = jax.tree.map(
            lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params
        )

        def derivatives(params, function=function, along=along, net=net, x=x, first=first):
            first_order = jax.grad(function)(params)
            second = jax.grad(lambda p: tree_math.vdot(jax.grad(function)(p), along))(params)
            out, pull_back = jax.vjp(
                lambda p: net.unroll(p, net.init_hidden_state(B), x, first)[0], params
            )
            tangent = jax.linear_transpose(pull_back, out)((along,))[0]
            return first_order, second, tangent, pull_back(tangent)[0]

        results.append(jax.jit(derivatives)(params))
    for order, (a, b) in enumerate(zip(*results, strict=True)):
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(a))
        assert (0.99 if order else 0.999) < cosine(a, b) < 1.0 - 1e-9


def equations(jaxpr):
    """The equations of a program and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def gradient_products(form, precision, platform):
    """Products in a program of the gradient: whether each has a head's size, and its algorithm."""
    net, params, x, first = case(form, True, precision)
    with platforms.compile_for(platform):
        program = jax.make_jaxpr(jax.grad(loss(net, x, first)))(params)
    found = list(equations(program.jaxpr))
    heads = {OUT, 1}
    dots = [
        (
            bool({size for var in (*e.invars, *e.outvars) for size in var.aval.shape} & heads),
            "BF16_BF16_F32" in str(e.params["precision"]),
        )
        for e in found
        if e.primitive.name == "dot_general"
    ]
    assert all(
        var.aval.dtype == jnp.float32
        for e in found
        if e.primitive.name == "dot_general"
        for var in (*e.invars, *e.outvars)
    )
    return dots, sum(e.primitive.name == "reduce_precision" for e in found)


@pytest.mark.ci_cases("recurrent")
@pytest.mark.parametrize("form", FORMS)
def test_all_products_but_the_heads_are_in_bfloat16(form):
    dots, steps = gradient_products(form, "bfloat16", "gpu")
    assert steps == 0 and len(dots) > 8
    for is_head, is_bfloat16 in dots:
        assert is_bfloat16 != is_head
    assert sum(is_head for is_head, _ in dots) == 6  # two heads, forwards and twice backwards
    on_cpu, steps = gradient_products(form, "bfloat16", "cpu")
    assert not any(is_bfloat16 for _, is_bfloat16 in on_cpu)
    # two operands of each product forwards and one cotangent; the GRU's own rule rounds all three
    assert steps >= sum(not is_head for is_head, _ in on_cpu)
    for platform in ("cpu", "gpu"):
        dots, steps = gradient_products(form, "float32", platform)
        assert steps == 0 and not any(is_bfloat16 for _, is_bfloat16 in dots)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_what_is_not_rounded_stays_float64(float64, platform):
    net, params, x, first = case("deep heads")
    function, start = loss(net, x, first), net.init_hidden_state(B)
    with platforms.compile_for(platform):
        result = jax.eval_shape(
            lambda params: (jax.grad(function)(params), net.step(params, start, x[0])), params
        )
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves((params, result)))
