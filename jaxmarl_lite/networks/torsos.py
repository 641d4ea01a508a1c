"""A user's own networks: any module from observations to features, in every algorithm.

A torso takes rows of inputs ``[R, O]``, a row for each sample and agent, and returns features
``[R, F]``; the heads (a policy's, a critic's) are this library's. It may be

- a Flax Linen module with ``__call__(x) -> features``;
- a pair ``(init, apply)`` with ``init(key, x) -> params`` and ``apply(params, x) -> features``, as
  modules of Equinox, Flax NNX or Haiku give it;
- a recurrent Linen module with the methods ``initial_state(num_rows)``, ``step(hidden_state, x) ->
  (features, hidden_state)`` and, where a whole sequence can be computed faster than step by step,
  ``unroll(hidden_state, x, first) -> (features, hidden_states)`` over time ``[T, R, ...]``;
- a `Torso`.

The hidden state at the start of an episode is zero everywhere, since rollouts reset it so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmarl_lite.ops import jax_types, tree_math
from jaxmarl_lite.types import Array, PyTree


def orthogonal(gain: float = 1.0) -> Callable[..., Array]:
    """Returns an initializer of orthogonal weights (Saxe et al. 2014).

    Under `vmap` it makes one matrix after the other: XLA's QR of several batches of matrices can
    wait for ever on a CPU of few cores (jaxlib 0.10).

    Args:
        gain: factor of the orthogonal matrix.

    Returns:
        ``init(key, shape, dtype=None) -> weights``, as Flax takes it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import torsos
        >>> weights = torsos.orthogonal(2.0)(jax.random.key(0), (3, 3))
        >>> bool(jnp.allclose(weights @ weights.T, 4.0 * jnp.eye(3), atol=1e-5))
        True
    """

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        def draw(key: Array) -> Array:
            return nn.initializers.orthogonal(gain)(key, shape, dtype)

        return jax_types.sequential_vmap(draw)(key)

    return init


class _TypedModule(Protocol):
    """The methods of `flax.linen.Module` with the types that the library gives and takes."""

    def param(
        self,
        name: str,
        init_fn: Callable[..., Array],
        shape: tuple[int, ...],
        dtype: DTypeLike,
        /,
    ) -> Array:
        """Returns one array of the module's weights."""
        ...

    def init(self, key: Array, /, *args: PyTree, method: str = "__call__") -> dict[str, PyTree]:
        """Returns random variables, among them the weights as ``params``."""
        ...

    def apply(self, variables: dict[str, PyTree], /, *args: PyTree, method: str = ...) -> PyTree:
        """Returns the result of a method with given variables."""
        ...


def typed(module: nn.Module) -> _TypedModule:
    """Returns a module itself, with types for the methods that Flax leaves open.

    Args:
        module: a module of Flax.

    Returns:
        The same module.
    """
    return cast(_TypedModule, module)


class Network(NamedTuple):
    """A network as pure functions.

    The output ``out`` is that of the head, with the agents' axis kept. O is the size of the input,
    H the width of the hidden state. The axis ``(N,)`` is there if the network has an agents' axis.

    Attributes:
        init: ``init(key) -> params``.
        init_hidden_state: ``init_hidden_state(num_envs) -> hidden_state``, zeros ``[B, (N,) H]``,
            or () without a GRU.
        step: ``step(params, hidden_state, x) -> (out, hidden_state)`` for one time step, with any
            leading axes.
        unroll: ``unroll(params, hidden_state, x, first) -> (out, hidden_states)`` over time: x is
            ``[T, B, (N,) O]``, and first ``[T, B]`` marks where an episode begins; hidden_states
            ``[T, ...]`` are those after each step.
    """

    init: Callable[[Array], PyTree]
    init_hidden_state: Callable[[int], PyTree]
    step: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]
    unroll: Callable[[PyTree, PyTree, Array, Array], tuple[PyTree, PyTree]]


Sharing = bool | tuple[int, ...]
"""Whether all agents share one set of weights (True), none do (False), or the group of each agent,
numbered from 0, whose agents share theirs."""


def share_by_group(
    init: Callable[[Array], PyTree], separate: Network, groups: tuple[int, ...]
) -> Network:
    """Returns a network whose agents share their weights by groups.

    The parameters lead with the groups ``[G, ...]``; every agent reads those of its group.

    Args:
        init: ``key -> params`` of one set of weights.
        separate: the network with weights for each agent, ``[N, ...]``.
        groups: the group of each agent.

    Returns:
        The network.
    """

    def init_groups(key: Array) -> PyTree:
        return jax.vmap(init)(jax.random.split(key, max(groups) + 1))

    def of_agents(params: PyTree) -> PyTree:
        return tree_math.map_leaves(lambda x: x[jnp.array(groups)], params)

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return separate.step(of_agents(params), hidden_state, x)

    def unroll(
        params: PyTree, hidden_state: PyTree, x: Array, first: Array
    ) -> tuple[PyTree, PyTree]:
        return separate.unroll(of_agents(params), hidden_state, x, first)

    return Network(init_groups, separate.init_hidden_state, step, unroll)


class Torso(NamedTuple):
    """A network without its head, as pure functions of rows.

    Attributes:
        init: ``init(key, x) -> params``, for inputs ``[R, O]``.
        step: ``step(params, hidden_state, x) -> (features, hidden_state)`` of one time step, with
            features ``[R, F]``.
        unroll: ``unroll(params, hidden_state, x, first) -> (features, hidden_states)`` of inputs
            ``[T, R, O]``, where ``first`` ``[T, R]`` marks the first step of an episode, at which
            the hidden state is zero; None computes step by step.
        initial_state: ``initial_state(num_rows) -> hidden_state``, zeros with a leading ``[R]``;
            () without a hidden state.
        name: name for messages.
    """

    init: Callable[[Array, Array], PyTree]
    step: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]
    unroll: Callable[[PyTree, PyTree, Array, Array], tuple[PyTree, PyTree]] | None = None
    initial_state: Callable[[int], PyTree] = lambda num_rows: ()
    name: str = "torso"


_eval_shape: Callable[..., PyTree] = cast(PyTree, jax).eval_shape
_leaves_with_path: Callable[..., PyTree] = cast(PyTree, jax).tree_util.tree_leaves_with_path
_keystr: Callable[..., str] = cast(PyTree, jax).tree_util.keystr
_map: Callable[..., PyTree] = jax.tree.map
_Init = Callable[[Array, Array], PyTree]
_Apply = Callable[[PyTree, Array], Array]


@runtime_checkable
class _RecurrentModule(Protocol):
    """The methods of a recurrent Linen module."""

    def initial_state(self, num_rows: int) -> PyTree: ...

    def step(self, hidden_state: PyTree, x: Array) -> tuple[Array, PyTree]: ...


def as_torso(role: str, network: object) -> Torso:
    """Returns a user's network in any of its forms as a `Torso`.

    Args:
        role: name of the argument, for messages.
        network: a Linen module, a pair ``(init, apply)``, or a `Torso`.

    Returns:
        The torso.

    Raises:
        ValueError: for anything else.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> torso = as_torso("actor", nn.Dense(5))
        >>> params = torso.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> torso.step(params, (), jnp.ones((2, 3)))[0].shape
        (2, 5)
    """
    name = f"networks.{role}"
    if isinstance(network, Torso):
        return network._replace(name=name)
    if isinstance(network, nn.Module) and isinstance(network, _RecurrentModule):
        return _from_recurrent(name, network)
    if isinstance(network, nn.Module):
        return _from_module(name, network)
    parts = cast("tuple[object, ...]", network) if isinstance(network, tuple) else ()
    if len(parts) == 2 and all(map(callable, parts)):
        return _from_pair(name, *cast("tuple[_Init, _Apply]", parts))
    raise ValueError(
        f"{name} is {network!r}; allowed is a Flax Linen module (an object), a pair of "
        "functions (init, apply), or a jaxmarl_lite.networks.Torso"
    )


def _from_pair(name: str, init: _Init, apply: _Apply) -> Torso:
    """Returns a pair of functions as a torso."""

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return apply(params, x), hidden_state

    return Torso(init, step, name=name)


def _from_module(name: str, module: nn.Module) -> Torso:
    """Returns a feed-forward Linen module as a torso."""

    def init(key: Array, x: Array) -> PyTree:
        return _params_of(name, typed(module).init(key, x))

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return typed(module).apply({"params": params}, x), hidden_state

    return Torso(init, step, name=name)


def _from_recurrent(name: str, module: nn.Module) -> Torso:
    """Returns a recurrent Linen module as a torso."""
    recurrent = cast(_RecurrentModule, module)

    def init(key: Array, x: Array) -> PyTree:
        variables = typed(module).init(key, recurrent.initial_state(x.shape[0]), x, method="step")
        return _params_of(name, variables)

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return typed(module).apply({"params": params}, hidden_state, x, method="step")

    def unroll(
        params: PyTree, hidden_state: PyTree, x: Array, first: Array
    ) -> tuple[PyTree, PyTree]:
        return typed(module).apply({"params": params}, hidden_state, x, first, method="unroll")

    has_unroll = hasattr(module, "unroll")
    return Torso(init, step, unroll if has_unroll else None, recurrent.initial_state, name)


def _params_of(name: str, variables: dict[str, PyTree]) -> PyTree:
    """Returns the params of a module, which must have no variables of other kinds."""
    others = sorted(set(variables) - {"params"})
    if others:
        raise ValueError(
            f"{name} has the collections {', '.join(others)} beside params; allowed is a "
            "module whose only variables are params (no batch statistics, no caches)"
        )
    return variables.get("params", {})


def check_torso(torso: Torso, input_size: int) -> int:
    """Checks shapes and dtypes of a torso by tracing it, and returns F, the number of features.

    Args:
        torso: the torso.
        input_size: O, size of its input's last axis.

    Returns:
        F.

    Raises:
        ValueError: features are not one float vector for each row, a hidden state has no leading
            axis of rows or changes its form from step to step, or unroll disagrees in shape.
    """
    rows, steps, dtype = 3, 5, jnp.result_type(float)
    x = jax.ShapeDtypeStruct((rows, input_size), dtype)
    key = _eval_shape(jax.random.key, 0)
    name = torso.name
    hidden_state = _trace(name, "initial_state", lambda: torso.initial_state(rows))
    if any(leaf.ndim == 0 or leaf.shape[0] != rows for leaf in jax.tree.leaves(hidden_state)):
        raise ValueError(
            f"{name}.initial_state({rows}) is {_form(hidden_state)}; allowed are arrays that lead "
            "with the number of rows"
        )
    params = _trace(name, "init", torso.init, key, x)
    for path, leaf in _leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} has the parameter {_keystr(path)} of dtype {leaf.dtype}; "
                "allowed are floats, since optimizers step every parameter"
            )
    result = _trace(name, "step", torso.step, params, hidden_state, x)
    if not _is_pair(result):
        raise ValueError(
            f"{name}.step returns a {type(result).__name__}; allowed is (features, hidden_state)"
        )
    features, after = result
    if not hasattr(features, "shape") or features.ndim != 2 or features.shape[0] != rows:
        shape = getattr(features, "shape", type(features).__name__)
        raise ValueError(
            f"{name} gives features of shape {shape} for {rows} rows [{rows}, {input_size}]; "
            f"allowed is [{rows}, F], a vector for each row (a row is one agent in one sample)"
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"{name} gives features of dtype {features.dtype}; allowed are floats")
    if _form(after) != _form(hidden_state):
        raise ValueError(
            f"{name} gives the hidden state {_form(after)} after one step from "
            f"{_form(hidden_state)}; allowed is the same structure, shapes and dtypes"
        )
    if torso.unroll is not None:
        sequence = jax.ShapeDtypeStruct((steps, rows, input_size), dtype)
        first = jax.ShapeDtypeStruct((steps, rows), jnp.dtype(bool))
        unrolled, states = _eval_shape(torso.unroll, params, hidden_state, sequence, first)
        expected = (steps, *features.shape)
        if getattr(unrolled, "shape", None) != expected:
            raise ValueError(
                f"{name}.unroll gives features of shape {getattr(unrolled, 'shape', unrolled)}; "
                f"allowed is {expected}, as step gives them"
            )

        def first_step(leaf: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

        one = _map(first_step, states)
        if _form(one) != _form(hidden_state):
            raise ValueError(
                f"{name}.unroll gives the hidden states {_form(states)}; allowed is the form of "
                "one hidden state with a leading axis of time"
            )
    return int(features.shape[1])


def _is_pair(value: object) -> bool:
    """Returns whether a value is a tuple of two."""
    return isinstance(value, tuple) and len(cast("tuple[object, ...]", value)) == 2


def _trace(name: str, function: str, call: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Returns the shapes of a call of a user's torso, or raises one error that names it."""
    try:
        return _eval_shape(call, *args)
    except flax.errors.InvalidRngError as error:
        raise ValueError(
            f"{name} draws random numbers in each call; allowed is a module without them, such as "
            "one whose nn.Dropout is deterministic"
        ) from error
    except Exception as error:
        if name in str(error):  # an error of this module
            raise
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name} fails in {function} for float inputs of shape [rows, size]: "
            f"{type(error).__name__}: {text}"
        ) from error


def _form(tree: PyTree) -> PyTree:
    """Returns shapes and dtypes as text, in the tree's structure."""

    def describe(leaf: Array) -> str:
        return f"{leaf.dtype}{list(leaf.shape)}"

    return _map(describe, tree)


def unroll_steps(
    torso: Torso, params: PyTree, hidden_state: PyTree, x: Array, first: Array
) -> tuple[Array, PyTree]:
    """Computes a torso over time: by its own ``unroll``, or step by step.

    Args:
        torso: the torso.
        params: its parameters.
        hidden_state: hidden state before the first step, ``[R, ...]``.
        x: inputs, ``[T, R, O]``.
        first: ``[T, R]`` bool, the steps that begin an episode.

    Returns:
        Features ``[T, R, F]``, and the hidden state after each step, ``[T, R, ...]``.
    """
    if torso.unroll is not None:
        return torso.unroll(params, hidden_state, x, first)
    if not jax.tree.leaves(hidden_state):
        features, _ = torso.step(params, hidden_state, x.reshape(-1, x.shape[-1]))
        return features.reshape(*x.shape[:-1], -1), hidden_state

    def step(hidden_state: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
        x_t, first_t = inputs
        zeros = tree_math.map_leaves(jnp.zeros_like, hidden_state)
        features, hidden_state = torso.step(
            params, tree_math.where(first_t, zeros, hidden_state), x_t
        )
        return hidden_state, (features, hidden_state)

    return jax.lax.scan(step, hidden_state, (x, first))[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Networks:
    """A user's networks by role; None: the layers that the algorithm's config describes.

    Each is a torso in any of the forms of this module. An algorithm that lacks a role refuses it.

    Attributes:
        actor: the policies' torso, from each agent's observation.
        critic: the critic's torso, from the observation or the global state.
        intrinsic_reward: the torso of LIIR's reward, from observation and action.
        cost_critic: the torso of the critic of costs.
    """

    actor: object = None
    critic: object = None
    intrinsic_reward: object = None
    cost_critic: object = None

    def __hash__(self) -> int:
        # of the roles alone, because a user's module may hold what cannot be hashed
        return hash(tuple(value is None for value in vars(self).values()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Networks):
            return False
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(a is b or _is_equal(a, b) for a, b in pairs)


def _is_equal(a: object, b: object) -> bool:
    """Returns whether two modules compare equal; False where they cannot be compared."""
    try:
        return bool(a == b)
    except Exception:  # such as modules that hold arrays
        return False


class _Heads(nn.Module):
    """The heads of a policy or critic on a torso's features.

    Attributes:
        output_size: size of the head's output.
        head_init_scale: gain of the head.
        gaussian_head: whether the head also gives log-deviations.
        num_values: size of a second head's output; 0 for none.
    """

    output_size: int
    head_init_scale: float
    gaussian_head: bool
    num_values: int

    @nn.compact
    def __call__(self, features: Array) -> PyTree:
        """Computes ``out`` of `Network`."""
        dtype = jnp.result_type(float)

        def dense(name: str, size: int, gain: float) -> Array:
            layer = nn.Dense(size, kernel_init=orthogonal(gain), param_dtype=dtype, name=name)
            return layer(features.astype(dtype))

        out: PyTree = dense("head", self.output_size, self.head_init_scale)
        if self.gaussian_head:
            shape = (self.output_size,)
            log_std = typed(self).param("log_std", nn.initializers.zeros, shape, dtype)
            out = (out, log_std)
        return (out, dense("value_head", self.num_values, 1.0)) if self.num_values else out


def make_torso_network(
    torso: Torso,
    input_size: int,
    output_size: int,
    *,
    num_agents: int | None,
    shared: Sharing = True,
    head_init_scale: float = 1.0,
    gaussian_head: bool = False,
    num_values: int = 0,
) -> Network:
    """Returns a network of a user's torso and this library's heads.

    Args:
        torso: the torso.
        input_size: as for `recurrent.make_network`.
        output_size: likewise.
        num_agents: likewise.
        shared: likewise.
        head_init_scale: likewise.
        gaussian_head: likewise.
        num_values: likewise.

    Returns:
        The `Network`, whose params are ``{"torso": ..., "head": ...}``.
    """
    num_features = check_torso(torso, input_size)
    heads = typed(_Heads(output_size, head_init_scale, gaussian_head, num_values))
    dtype = jnp.result_type(float)

    def init(key: Array) -> PyTree:
        torso_key, heads_key = jax.random.split(key)
        x = jnp.zeros((1, input_size), dtype)
        features = jnp.zeros((1, num_features), dtype)
        return {"torso": torso.init(torso_key, x), **heads.init(heads_key, features)["params"]}

    def apply_heads(params: PyTree, features: Array) -> PyTree:
        head_params = {name: value for name, value in params.items() if name != "torso"}
        return heads.apply({"params": head_params}, features)

    def init_hidden_state(num_envs: int) -> PyTree:
        lead = (num_envs,) if num_agents is None else (num_envs, num_agents)
        return _reshape_rows(torso.initial_state(math.prod(lead)), 1, lead)

    def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        lead = x.shape[:-1]
        rows = (math.prod(lead),)
        features, hidden_state = torso.step(
            params["torso"], _reshape_rows(hidden_state, len(lead), rows), x.reshape(*rows, -1)
        )
        out = apply_heads(params, features.reshape(*lead, -1))
        return out, _reshape_rows(hidden_state, 1, lead)

    def unroll(
        params: PyTree, hidden_state: PyTree, x: Array, first: Array
    ) -> tuple[PyTree, PyTree]:
        num_steps, *lead = x.shape[:-1]
        rows = (math.prod(lead),)
        # A row for each environment and agent: all agents of an environment begin at once.
        by_row = jnp.broadcast_to(
            first.reshape(*first.shape, *(1,) * (len(lead) - 1)), (num_steps, *lead)
        )
        features, hidden_states = unroll_steps(
            torso,
            params["torso"],
            _reshape_rows(hidden_state, len(lead), rows),
            x.reshape(num_steps, *rows, -1),
            by_row.reshape(num_steps, *rows),
        )
        out = apply_heads(params, features.reshape(num_steps, *lead, -1))
        return out, _reshape_rows(hidden_states, 2, (num_steps, *lead))

    if num_agents is None or shared is True:
        return Network(init, init_hidden_state, step, unroll)

    def init_each(key: Array) -> PyTree:
        return jax.vmap(init)(jax.random.split(key, num_agents))

    # The agents' axis stands before the last of inputs and outputs, and at the same place from
    # the front in every array of a hidden state. Log-deviations have no axes but the agents'.
    head_axes: PyTree = (-2, 0) if gaussian_head else -2
    out_axes: PyTree = (head_axes, -2) if num_values else head_axes

    def step_each(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        axis = x.ndim - 2
        return jax.vmap(step, (0, axis, axis), (out_axes, axis))(params, hidden_state, x)

    def unroll_each(
        params: PyTree, hidden_state: PyTree, x: Array, first: Array
    ) -> tuple[PyTree, PyTree]:
        axis = x.ndim - 2
        return jax.vmap(unroll, (0, axis - 1, axis, None), (out_axes, axis))(
            params, hidden_state, x, first
        )

    separate = Network(init_each, init_hidden_state, step_each, unroll_each)
    return share_by_group(init, separate, shared) if shared else separate


def _reshape_rows(tree: PyTree, axes: int, lead: tuple[int, ...]) -> PyTree:
    """Returns every array with its first axes in the shape ``lead``."""
    return tree_math.map_leaves(lambda x: x.reshape(*lead, *x.shape[axes:]), tree)


def _is_instance(value: object, kind: type) -> bool:
    """Returns whether a user's value has the type that its annotation promises."""
    return isinstance(value, kind)


Body = TypeVar("Body")


class Bodies(NamedTuple, Generic[Body]):
    """What is built for each role: a user's `Torso`, or the layers of the config.

    Attributes:
        actor: of the policies.
        critic: of the critics of the reward.
        intrinsic_reward: of LIIR's reward.
        cost_critic: of the critics of costs.
    """

    actor: Body
    critic: Body
    intrinsic_reward: Body
    cost_critic: Body


def bodies_of(
    name: str, networks: Networks | None, roles: tuple[str, ...], layers: Body
) -> Bodies[Body | Torso]:
    """Returns a user's networks as torsos, and the config's layers for the roles that she left out.

    Args:
        name: name of the algorithm, for messages.
        networks: the user's networks.
        roles: roles that the algorithm has.
        layers: the layers that the config describes.

    Returns:
        A body for each role.

    Raises:
        ValueError: ``networks`` is no `Networks`, one of its entries is no network, or the
            algorithm lacks a role that it has.
    """
    if networks is None:
        return Bodies(layers, layers, layers, layers)
    if not _is_instance(networks, Networks):
        raise ValueError(
            f"networks is {networks!r}; allowed is a jaxmarl_lite.Networks, such as "
            "Networks(actor=MyEncoder())"
        )
    bodies: dict[str, Body | Torso] = {}
    for field in dataclasses.fields(networks):
        network = getattr(networks, field.name)
        if network is not None and field.name not in roles:
            raise ValueError(
                f"networks.{field.name} is given, but {name} has no such network; allowed are "
                f"{', '.join(roles)}"
            )
        bodies[field.name] = layers if network is None else as_torso(field.name, network)
    return Bodies(**bodies)
