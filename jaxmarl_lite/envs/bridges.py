"""Bridges between this library's environments and those of other libraries.

Each ``from_...`` takes an environment object of the other library and returns an environment that
`jaxmarl_lite.run` takes like any other. The other library's own end of an episode and its time
limit are kept apart: at the end the discount is 0, at the time limit it stays 1. No bridge resets
an episode by itself.

`to_pettingzoo` is the way out: a parallel PettingZoo environment for programs in any framework.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import references
from jaxmarl_lite.envs.base import make_timestep
from jaxmarl_lite.types import Array, Environment, EnvSpec, Observation, PyTree, TimeStep
from jaxmarl_lite.validation import check_environment_object, check_int, invalid, show

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


class BridgeState(NamedTuple):
    """The state of an episode between two steps.

    Attributes:
        inner: the other library's own state.
        time: ``[]`` int, steps of the episode so far.
        key: typed key of the steps to come.
    """

    inner: PyTree
    time: Array
    key: Array


class _Step(NamedTuple):
    """The other library's answer to a step, in our terms: see `BridgeEnvironment`."""

    inner: PyTree
    obs: Observation
    reward: Array
    terminated: Array
    truncated: Array | bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class BridgeEnvironment:
    """An environment of another library as the library's `Environment`.

    Attributes:
        spec: sizes and meanings.
        unwrapped: the other library's environment.
        native_reset: ``native_reset(key) -> (inner, Observation)``.
        native_step: ``native_step(key, inner, action)``, the inner state, observation, reward and
            end of the episode, without its time limit.
        limit_is_truncation: whether an end in the last step that the time limit allows counts as a
            truncation: the other library then reports both alike.
    """

    spec: EnvSpec
    unwrapped: Any
    native_reset: Callable[[Array], tuple[PyTree, Observation]]
    native_step: Callable[[Array, PyTree, Array], _Step]
    limit_is_truncation: bool = False

    def __repr__(self) -> str:
        return f"BridgeEnvironment({self.spec.name!r})"

    def reset(self, key: Array) -> tuple[BridgeState, TimeStep]:
        """Begins an episode.

        Args:
            key: typed random key.

        Returns:
            The state and the first time step.
        """
        reset_key, next_key = jax.random.split(key)
        inner, obs = self.native_reset(reset_key)
        state = BridgeState(_strong(inner), jnp.zeros((), jnp.int32), next_key)
        return state, make_timestep(obs)

    def step(self, state: BridgeState, action: Array) -> tuple[BridgeState, TimeStep]:
        """Takes one joint action.

        Args:
            state: the state of the episode.
            action: ``[N]`` int when discrete, ``[N, A]`` float when continuous.

        Returns:
            The next state and the time step, without costs (K = 0); `with_costs` adds some.
        """
        step_key, next_key = jax.random.split(state.key)
        # a copy, since Brax's environments write into the dictionaries of the state they are given
        copy = jax.tree.map(lambda x: x, state.inner)
        inner, obs, reward, terminated, truncated = self.native_step(step_key, copy, action)
        inner = jax.tree.map(
            lambda old, new: new if _is_key(new) else jnp.asarray(new, old.dtype),
            state.inner,
            inner,
        )
        time = state.time + 1
        at_limit = time >= self.spec.max_episode_steps
        terminated = jnp.asarray(terminated, bool)
        last = terminated | truncated | at_limit
        if self.limit_is_truncation:
            terminated = terminated & ~at_limit
        timestep = make_timestep(obs, reward, terminated, last)
        return BridgeState(inner, time, next_key), timestep


def _is_key(x: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)


def _strong(tree: PyTree) -> PyTree:
    """Returns a state without weak types, which would make ``step`` compile twice."""
    return jax.tree.map(
        lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, jnp.result_type(x)), tree
    )


def _is_box(space: Any) -> bool:
    return not hasattr(space, "n") and hasattr(space, "low")


def _bounds(
    name: str, low: Any, high: Any, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns the bounds of each action dimension, or None where there are none."""
    low, high = (np.broadcast_to(np.asarray(x, float), (size,)) for x in (low, high))
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.any():
        return None
    if not finite.all():
        raise invalid(
            f"{name}'s action bounds", (low.tolist(), high.tolist()), "all finite or all infinite"
        )
    return tuple(low.tolist()), tuple(high.tolist())


def _require(env: Any, library: str, methods: Sequence[str]) -> None:
    """Raises TypeError for a class in place of an object, or an object without these methods."""
    if isinstance(env, type):
        raise TypeError(f"env is the class {env.__name__}; allowed is an object of it")
    missing = [name for name in methods if not hasattr(env, name)]
    if missing:
        raise TypeError(
            f"env is {show(env)}, which has no {', '.join(missing)}; allowed is an environment of "
            f"{library}"
        )


def from_gymnax(env: Any, env_params: Any = None) -> Environment:
    """Returns a gymnax environment as a team of one agent.

    The time limit is ``env_params.max_steps_in_episode``; with gymnax 0 it is taken out of
    the environment's own end, so that a time limit is a truncation.

    Args:
        env: a gymnax environment.
        env_params: its parameters; its ``default_params`` when None.

    Returns:
        The environment, with N = 1; the state for a central critic is the observation.

    Raises:
        TypeError: for an object that is not a gymnax environment.
        ValueError: for actions that are neither discrete nor a vector.

    Example:
        >>> import gymnax, jaxmarl_lite as jml
        >>> env = jml.from_gymnax(*gymnax.make("CartPole-v1"))
        >>> env.spec.obs_size, env.spec.action_size, env.spec.max_episode_steps
        (4, 2, 500)
    """
    _require(env, "gymnax", ("step_env", "reset_env", "default_params", "action_space"))
    params = env.default_params if env_params is None else env_params
    limit = check_int("env_params.max_steps_in_episode", params.max_steps_in_episode, 1)
    # gymnax 0 ends an episode at the time limit as if it were over: there, the limit is moved away.
    params = params.replace(max_steps_in_episode=np.iinfo(np.int32).max)
    space = env.action_space(params)
    if not hasattr(space, "n") and not (_is_box(space) and len(space.shape) <= 1):
        raise invalid("env's action space", space, "Discrete, or Box of one dimension")

    def observe(obs: PyTree) -> Observation:
        return _one_agent(obs, size)

    def reset(key: Array) -> tuple[PyTree, Observation]:
        obs, inner = env.reset_env(key, params)
        return inner, observe(obs)

    def step(key: Array, inner: PyTree, action: Array) -> _Step:
        native = action[0] if discrete else action[0].reshape(space.shape)
        obs, inner, reward, terminated, *_ = env.step_env(key, inner, native, params)
        return _Step(inner, observe(obs), reward, terminated)

    discrete = hasattr(space, "n")
    size = int(space.n) if discrete else math.prod(space.shape)
    bounds = None if discrete else _bounds("env", space.low, space.high, size)
    return _single(str(env.name), env, reset, step, discrete, size, limit, bounds)


def _one_agent(obs: PyTree, action_size: int, global_state: PyTree | None = None) -> Observation:
    """Returns the observation of a team of one, whose every action is legal."""
    flat = _flat(obs)
    state = flat if global_state is None else _flat(global_state)
    return Observation(flat[None], state, jnp.ones((1, action_size), bool), jnp.ones(1, bool))


def _flat(tree: PyTree) -> Array:
    """Returns all leaves as one float vector."""
    return jnp.concatenate([jnp.asarray(x, float).reshape(-1) for x in jax.tree.leaves(tree)])


def _single(
    name: str,
    env: Any,
    reset: Callable[[Array], tuple[PyTree, Observation]],
    step: Callable[[Array, PyTree, Array], _Step],
    discrete: bool,
    action_size: int,
    limit: int,
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> BridgeEnvironment:
    """Returns the bridge with the sizes that one trace of ``reset`` shows."""
    _, obs = jax.eval_shape(reset, jax.eval_shape(jax.random.key, 0))
    spec = EnvSpec(
        name,
        num_agents=obs.agents_view.shape[0],
        obs_size=obs.agents_view.shape[1],
        global_state_size=obs.global_state.shape[0],
        action_type="discrete" if discrete else "continuous",
        action_size=action_size,
        max_episode_steps=limit,
        action_low=bounds[0] if bounds else None,
        action_high=bounds[1] if bounds else None,
    )
    return BridgeEnvironment(spec, env, reset, step)


def from_jumanji(
    env: Any,
    agents_view: Callable[[PyTree], Array] | None = None,
    global_state: Callable[[PyTree], Array] | None = None,
    max_episode_steps: int | None = None,
) -> Environment:
    """Returns a Jumanji environment, of one agent or of a team, as our environment.

    `make` has Jumanji's teams with observations and costs that were chosen for them; this bridge
    takes any Jumanji environment whose actions are one integer, or an array that leads with the
    agents' axis. An array of the observation that leads with N is the agents' own, every other
    array is seen by all.

    Args:
        env: a Jumanji environment.
        agents_view: ``observation -> [N, O]``, in place of that rule.
        global_state: ``observation -> [S]``, the input of a central critic; all agents'
            observations by default.
        max_episode_steps: the time limit; by default ``env.time_limit``.

    Returns:
        The environment. Rewards of ``[N]`` are individual, a scalar reward is the team's.

    Raises:
        TypeError: for an object that is not a Jumanji environment.
        ValueError: for actions of another kind, or without a time limit.

    Example:
        >>> import jumanji, jaxmarl_lite as jml
        >>> env = jml.from_jumanji(jumanji.make("Cleaner-v0"))
        >>> env.spec.num_agents, env.spec.action_size, env.spec.max_episode_steps
        (3, 4, 100)
    """
    _require(env, "Jumanji", ("action_spec", "observation_spec", "reward_spec"))
    limit = getattr(env, "time_limit", None) if max_episode_steps is None else max_episode_steps
    if limit is None:
        raise invalid("max_episode_steps", None, "the time limit, as this environment has none")
    limit = check_int("max_episode_steps", limit, 1)
    space, name = env.action_spec, type(env).__name__
    shape = tuple(space.shape)
    discrete = jnp.issubdtype(space.dtype, jnp.integer)
    alone = shape == ()
    num_agents = 1 if alone else shape[0]
    if discrete and len(shape) <= 1:
        counts = np.asarray(getattr(space, "num_values", np.asarray(space.maximum) + 1))
        size = int(counts.max())
        exists = np.arange(size) < np.broadcast_to(counts, (num_agents,))[:, None]
        bounds = None
    elif not discrete and len(shape) == 2:
        size = shape[1]
        exists = np.ones((num_agents, size), bool)
        low, high = (np.broadcast_to(np.asarray(x), shape) for x in (space.minimum, space.maximum))
        bounds = _bounds(name, low[0], high[0], size)
    else:
        raise invalid(f"{name}'s action_spec", space, "one integer, or [N], or float [N, A]")

    def view(obs: PyTree) -> Array:
        if agents_view is not None:
            return jnp.asarray(agents_view(obs), float)
        leaves = [jnp.asarray(x, float) for x in jax.tree.leaves(_without_mask(obs))]
        parts = [
            x.reshape(num_agents, -1)
            if not alone and x.ndim and x.shape[0] == num_agents
            else jnp.broadcast_to(x.reshape(-1), (num_agents, x.size))
            for x in leaves
        ]
        return jnp.concatenate(parts, -1)

    def observe(obs: PyTree) -> Observation:
        agents = view(obs)
        state = agents.reshape(-1) if global_state is None else global_state(obs)
        mask, native = jnp.asarray(exists), getattr(obs, "action_mask", None)
        if native is not None and discrete and native.size == mask.size:
            mask = mask & native.reshape(mask.shape)
        # An agent without a legal action takes no part; its mask may be empty.
        return Observation(agents, jnp.asarray(state, float), mask, mask.any(-1))

    def reset(key: Array) -> tuple[PyTree, Observation]:
        inner, timestep = env.reset(key)
        return inner, observe(timestep.observation)

    def step(key: Array, inner: PyTree, action: Array) -> _Step:
        del key  # Jumanji's state holds its own
        native = (action[0] if alone else action).astype(space.dtype)
        inner, timestep = env.step(inner, native)
        terminated = timestep.last() & jnp.all(timestep.discount == 0)
        return _Step(
            inner, observe(timestep.observation), timestep.reward, terminated, timestep.last()
        )

    bridge = _single(name, env, reset, step, bool(discrete), size, limit, bounds)
    individual = tuple(env.reward_spec.shape) == (num_agents,) and num_agents > 1
    reward_type = "individual" if individual else "team"
    # Most of Jumanji's environments report their time limit with discount 0.
    return dataclasses.replace(
        bridge,
        spec=dataclasses.replace(bridge.spec, reward_type=reward_type),
        limit_is_truncation=True,
    )


def _without_mask(obs: PyTree) -> PyTree:
    """Returns an observation without its action mask and its clock, which are not features."""
    if hasattr(obs, "_asdict"):
        items = obs._asdict()
    elif dataclasses.is_dataclass(obs):
        items = {f.name: getattr(obs, f.name) for f in dataclasses.fields(obs)}
    else:
        return obs
    return [value for name, value in items.items() if name != "action_mask"]


def from_jaxmarl(
    env: Any,
    *,
    max_episode_steps: int | None = None,
    reward: str = "team",
    global_state: Callable[[PyTree, dict[str, Array]], Array] | None = None,
) -> Environment:
    """Returns any JaxMARL environment with dictionaries of agents as our environment.

    `make` has SMAX, MPE and Overcooked with observations, costs and wins that were chosen for
    them. Observations and actions of unequal agents are padded with zeros.

    Args:
        env: a JaxMARL ``MultiAgentEnv``.
        max_episode_steps: the time limit; by default ``env.max_steps``. A ``done`` before it is
            an end, at it a truncation.
        reward: ``team``: all agents receive the sum of the rewards; ``individual``.
        global_state: ``(state, observations) -> [S]``; by default JaxMARL's ``world_state`` where
            there is one, else all agents' observations.

    Returns:
        The environment.

    Raises:
        TypeError: for an object that is not a JaxMARL environment.
        ValueError: for a wrong ``reward``, or without a time limit.

    Example:
        >>> import jax, jaxmarl, jaxmarl_lite as jml
        >>> env = jml.from_jaxmarl(jaxmarl.make("MPE_simple_spread_v3"))
        >>> env.spec.num_agents, env.spec.action_size, env.spec.max_episode_steps
        (3, 5, 25)
    """
    _require(env, "JaxMARL", ("agents", "step_env", "reset", "action_space"))
    if reward not in ("team", "individual"):
        raise invalid("reward", reward, "'team' or 'individual'")
    limit = getattr(env, "max_steps", None) if max_episode_steps is None else max_episode_steps
    if limit is None:
        raise invalid("max_episode_steps", None, "the time limit, as this environment has none")
    limit = check_int("max_episode_steps", limit, 1)
    agents = list(env.agents)
    spaces = [env.action_space(agent) for agent in agents]
    discrete = hasattr(spaces[0], "n")
    sizes = np.array([int(s.n) if discrete else math.prod(s.shape) for s in spaces])
    size = int(sizes.max())
    exists = np.arange(size) < sizes[:, None]
    bounds = None
    if not discrete:
        largest = spaces[int(sizes.argmax())]
        bounds = _bounds(type(env).__name__, largest.low, largest.high, size)

    def observe(inner: PyTree, obs: dict[str, Array]) -> Observation:
        views = [_flat(obs[agent]) for agent in agents]
        width = max(len(view) for view in views)
        agents_view = jnp.stack([jnp.pad(view, (0, width - len(view))) for view in views])
        if global_state is not None:
            state = global_state(inner, obs)
        else:
            state = obs.get("world_state", agents_view)
        mask = jnp.asarray(exists)
        if masked:
            legal = env.get_avail_actions(inner)
            rows = [jnp.asarray(legal[agent], bool) for agent in agents]
            mask = mask & jnp.stack([jnp.pad(row, (0, size - len(row))) for row in rows])
        return Observation(agents_view, _flat(state), mask, jnp.ones(len(agents), bool))

    def reset(key: Array) -> tuple[PyTree, Observation]:
        obs, inner = env.reset(key)
        return inner, observe(inner, obs)

    masked = discrete and _has_masks(env)

    def step(key: Array, inner: PyTree, action: Array) -> _Step:
        native = {
            agent: action[i].astype(jnp.int32)
            if discrete
            else action[i, : sizes[i]].reshape(spaces[i].shape)
            for i, agent in enumerate(agents)
        }
        # `step_env` and not `step`, which would begin the next episode
        obs, after, rewards, dones, _ = env.step_env(key, inner, native)
        values = jnp.stack([jnp.asarray(rewards[agent], float) for agent in agents])
        values = values if reward == "individual" else jnp.full_like(values, values.sum())
        return _Step(after, observe(after, obs), values, dones["__all__"])

    bridge = _single(type(env).__name__, env, reset, step, discrete, size, limit, bounds)
    return dataclasses.replace(
        bridge,
        spec=dataclasses.replace(bridge.spec, reward_type=reward),
        limit_is_truncation=True,
    )


def _has_masks(env: Any) -> bool:
    """Returns whether a JaxMARL environment says which actions are legal; its base class raises."""
    try:
        _, inner = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
        jax.eval_shape(env.get_avail_actions, inner)
    except (AttributeError, NotImplementedError):
        return False
    return True


def from_brax(
    env: Any, max_episode_steps: int = 1000, agents: Sequence[Sequence[int]] | None = None
) -> Environment:
    """Returns an environment of Brax or of MuJoCo Playground as our environment.

    Both have ``reset(key) -> state`` and ``step(state, action) -> state`` with fields ``obs``,
    ``reward`` and ``done``. The environment must not be wrapped for training: such wrappers reset.

    Args:
        env: a Brax or Playground environment.
        max_episode_steps: the time limit, in steps of the environment.
        agents: the indices of the actuators that each agent moves, such as
            ``((0, 1, 2), (3, 4, 5))`` for two agents on half-cheetah; by default one agent moves
            all. Every agent observes the whole robot and its own number, and receives the reward.

    Returns:
        The environment, with actions in [-1, 1]. Where ``obs`` is a dictionary with ``state`` and
        ``privileged_state``, the second is the input of a central critic.

    Raises:
        TypeError: for an object that is not such an environment.
        ValueError: for groups of actuators that do not name each exactly once.
    """
    _require(env, "Brax or MuJoCo Playground", ("reset", "step", "action_size"))
    limit = check_int("max_episode_steps", max_episode_steps, 1)
    total = int(env.action_size)
    groups = [list(range(total))] if agents is None else [list(group) for group in agents]
    if sorted(i for group in groups for i in group) != list(range(total)) or not all(groups):
        raise invalid("agents", agents, f"groups that have each actuator 0 to {total - 1} once")
    num_agents, size = len(groups), max(map(len, groups))
    exists = np.arange(size) < np.array([len(group) for group in groups])[:, None]
    # Position of each actuator in the flattened [N, A] actions.
    place = {i: (a, b) for a, group in enumerate(groups) for b, i in enumerate(group)}
    flat_index = np.array([place[i][0] * size + place[i][1] for i in range(total)])

    def observe(state: Any) -> Observation:
        obs = state.obs
        critic_view = obs
        if isinstance(obs, dict) and "state" in obs:
            critic_view, obs = obs.get("privileged_state", obs["state"]), obs["state"]
        view = jnp.broadcast_to(_flat(obs), (num_agents, _flat(obs).size))
        if num_agents > 1:
            view = jnp.concatenate([view, jnp.eye(num_agents, dtype=view.dtype)], -1)
        alive = jnp.ones(num_agents, bool)
        return Observation(view, _flat(critic_view), jnp.asarray(exists), alive)

    def reset(key: Array) -> tuple[PyTree, Observation]:
        state = env.reset(key)
        return state, observe(state)

    def step(key: Array, inner: PyTree, action: Array) -> _Step:
        del key  # the state holds its own
        after = env.step(inner, jnp.clip(action, -1.0, 1.0).reshape(-1)[flat_index])
        return _Step(after, observe(after), after.reward, after.done > 0)

    bounds = ((-1.0,) * size, (1.0,) * size)
    return _single(type(env).__name__, env, reset, step, False, size, limit, bounds)


def to_pettingzoo(env: Environment, *, action_mask: str = "observation") -> ParallelEnv:
    """Returns an environment as a parallel PettingZoo environment of NumPy arrays.

    Agents are called ``agent_0``, ``agent_1`` and so on. All of them take part until the episode
    ends: the end is a termination where the discount is 0, else a truncation. ``infos[agent]`` has
    ``cost`` (a dictionary from each cost's name to its value in this step), ``alive`` and
    ``action_mask``; ``state()`` is the state for a central critic.

    Args:
        env: an environment of this library.
        action_mask: ``observation``: with discrete actions every observation is a dictionary of
            ``observation`` and ``action_mask``, PettingZoo's usual form; ``info``: observations
            are vectors, and the mask is in ``infos`` alone.

    Returns:
        A ``pettingzoo.ParallelEnv``.

    Raises:
        ImportError: where PettingZoo is not installed.
        ValueError: ``env`` is no environment, or ``action_mask`` is another text.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.to_pettingzoo(jml.make("toy/budget"))
        >>> observations, infos = env.reset(seed=0)
        >>> actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        >>> observations, rewards, terminations, truncations, infos = env.step(actions)
        >>> sorted(infos["agent_0"])
        ['action_mask', 'alive', 'cost']
    """
    check_environment_object(env)
    if action_mask not in ("observation", "info"):
        raise invalid("action_mask", action_mask, "'observation' or 'info'")
    return _pettingzoo_class()(env, action_mask == "observation")


@functools.cache
def _pettingzoo_class() -> type:
    """Returns the class of `to_pettingzoo`, whose base is PettingZoo's."""
    references.import_extra("pettingzoo", "to_pettingzoo needs", "pettingzoo")
    from gymnasium import spaces
    from pettingzoo import ParallelEnv

    class PettingZooEnvironment(ParallelEnv):
        """A parallel PettingZoo environment around one of ours; see `to_pettingzoo`."""

        def __init__(self, env: Environment, mask_in_obs: bool) -> None:
            spec = env.spec
            self.env, self._discrete = env, spec.action_type == "discrete"
            self._mask_in_obs = mask_in_obs and self._discrete
            self.metadata = {"name": spec.name, "render_modes": [], "is_parallelizable": True}
            self.render_mode = None
            self.possible_agents = [f"agent_{i}" for i in range(spec.num_agents)]
            self.agents: list[str] = []
            self._reset, self._step = jax.jit(env.reset), jax.jit(env.step)
            self._generator = np.random.default_rng()
            self._observation_spaces = {a: self._observation_space() for a in self.possible_agents}
            self._action_spaces = {a: self._action_space() for a in self.possible_agents}
            self.state_space = spaces.Box(-np.inf, np.inf, (spec.global_state_size,), np.float32)

        def _observation_space(self) -> spaces.Space:
            spec = self.env.spec
            box = spaces.Box(-np.inf, np.inf, (spec.obs_size,), np.float32)
            if not self._mask_in_obs:
                return box
            mask = spaces.Box(0, 1, (spec.action_size,), np.int8)
            return spaces.Dict({"observation": box, "action_mask": mask})

        def _action_space(self) -> spaces.Space:
            spec = self.env.spec
            if self._discrete:
                return spaces.Discrete(spec.action_size)
            low = -np.inf if spec.action_low is None else np.array(spec.action_low, np.float32)
            high = np.inf if spec.action_high is None else np.array(spec.action_high, np.float32)
            return spaces.Box(low, high, (spec.action_size,), np.float32)

        def observation_space(self, agent: str) -> spaces.Space:
            """Returns the space of an agent's observations, always the same object."""
            return self._observation_spaces[agent]

        def action_space(self, agent: str) -> spaces.Space:
            """Returns the space of an agent's actions, always the same object."""
            return self._action_spaces[agent]

        def reset(
            self, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[dict[str, Any], dict[str, Any]]:
            """Begins an episode; a seed fixes it and all that follow."""
            del options
            if seed is not None:
                self._generator = np.random.default_rng(seed)
            key = jax.random.key(int(self._generator.integers(2**32)))
            self._state, timestep = self._reset(key)
            self.agents = list(self.possible_agents)
            return self._tell(jax.device_get(timestep))

        def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
            """Takes one joint action, with an entry for every agent."""
            if not self.agents:
                raise RuntimeError("the episode is over; allowed is `reset`")
            missing = [agent for agent in self.agents if agent not in actions]
            if missing:
                raise ValueError(f"actions has no entry for {', '.join(missing)}")
            for agent in self.agents:
                space: Any = self.action_space(agent)
                if self._discrete and not 0 <= int(actions[agent]) < space.n:
                    raise invalid(f"the action of {agent}", actions[agent], f"0 to {space.n - 1}")
            kind = np.int32 if self._discrete else np.float32
            action = np.stack([np.asarray(actions[agent], kind) for agent in self.agents])
            self._state, timestep = self._step(self._state, jnp.asarray(action))
            timestep = jax.device_get(timestep)
            observations, infos = self._tell(timestep)
            over, last = bool(timestep.discount == 0), bool(timestep.last)
            rewards = {a: float(timestep.reward[i]) for i, a in enumerate(self.agents)}
            terminations = dict.fromkeys(self.agents, last and over)
            truncations = dict.fromkeys(self.agents, last and not over)
            self.agents = [] if last else self.agents
            return observations, rewards, terminations, truncations, infos

        def _tell(self, timestep: TimeStep) -> tuple[dict[str, Any], dict[str, Any]]:
            """Returns observations and infos of one time step by agent."""
            obs, names = timestep.obs, self.env.spec.cost_names
            self._global_state = np.asarray(obs.global_state, np.float32)
            observations, infos = {}, {}
            for i, agent in enumerate(self.agents):
                view = np.asarray(obs.agents_view[i], np.float32)
                mask = np.asarray(obs.action_mask[i], np.int8)
                observations[agent] = (
                    {"observation": view, "action_mask": mask} if self._mask_in_obs else view
                )
                cost = {name: float(timestep.cost[i, k]) for k, name in enumerate(names)}
                infos[agent] = {"cost": cost, "alive": bool(obs.alive[i]), "action_mask": mask}
            return observations, infos

        def state(self) -> np.ndarray:
            """Returns the state for a central critic, ``[S]``."""
            return self._global_state

        def render(self) -> None:
            """Draws nothing; `jaxmarl-lite render` makes videos of runs."""

        def close(self) -> None:
            """Closes nothing: there is no window and no process."""

    return PettingZooEnvironment
