"""Trained policies: functions from observations to actions, which a file can hold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import keys, references
from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.experiment import liveness, policy_export, policy_files
from jaxmarl_lite.networks.torsos import Networks
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Observation, PyTree
from jaxmarl_lite.validation import check_bool, check_key, check_path, invalid

_HOW = "load_policy(path, networks=jml.Networks(actor=...))"


class TrainedPolicy:
    """The policies of all agents of one environment, as a function of observations.

    `act` is a pure function of a batch of observations, the hidden state and a random key. Calling
    the policy itself acts in one environment: once per step, and `reset` when a new episode begins.
    It keeps the hidden state, and its sampled actions are the same for the same ``key``.

    Args:
        algorithm: the algorithm.
        learner: the learner's state.
        greedy: whether to take the likeliest actions instead of sampled ones.
        key: random key of the sampled actions of calls; None: a fixed one.
        config: settings that the policy was trained with; None: those of ``algorithm``.
        networks: a user's own networks that the algorithm was made with, as for `make_algorithm`.
        reference: the text that finds the algorithm again, see `registry.resolve`; None: its name.

    Attributes:
        greedy: whether it takes the likeliest actions.
        config: settings that it was trained with.
        networks: a user's own networks, or None.
        params: all arrays that the actions depend on, by name: weights, and running moments of
            observations where these are normalized.

    Raises:
        ValueError: ``greedy`` is no bool.

    Example:
        >>> import jax, jaxmarl_lite as jml
        >>> result = jml.run(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=1, total_steps=64,
        ...     num_envs=4, num_steps=8, num_evaluations=1, eval_episodes=4, quiet=True,
        ... )
        >>> policy = result.policy()
        >>> _, timestep = jax.vmap(result.env.reset)(jax.random.split(jax.random.key(0), 5))
        >>> hidden_state = policy.init_hidden_state(5)
        >>> action, hidden_state = policy.act(timestep.obs, hidden_state, jax.random.key(1))
        >>> action.shape  # [B, N]
        (5, 2)
        >>> path = policy.save("counter.safetensors")
        >>> again, _ = jml.load_policy(path).act(timestep.obs, (), jax.random.key(1))
        >>> bool((again == action).all())
        True
    """

    def __init__(
        self,
        algorithm: Algorithm,
        learner: PyTree,
        greedy: bool,
        key: Array | None = None,
        config: Any = None,
        networks: Any = None,
        reference: str | None = None,
    ):
        self._algorithm, self.greedy = algorithm, check_bool("greedy", greedy)
        self.config = algorithm.config if config is None else config
        self.networks = networks
        self._reference = algorithm.name if reference is None else reference
        self._template = _Template(algorithm, learner)
        self.params: dict[str, Array] = self._template.params_of(learner)
        self._act = jax.jit(self._pure_act)
        self._act_alone = jax.jit(self._pure_act_alone)
        self._start = algorithm.init_hidden_state(1)
        self.reset(keys.for_purpose(0, keys.ACT) if key is None else key)

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        return self._algorithm.name

    @property
    def spec(self) -> EnvSpec:
        """Spec of the environment.

        Raises:
            ValueError: the algorithm was made for no certain environment.
        """
        if self._algorithm.spec is None:
            raise invalid("algorithm.spec", None, "that of an environment")
        return self._algorithm.spec

    def init_hidden_state(self, num_envs: int) -> PyTree:
        """Returns the hidden state at the start of episodes.

        Args:
            num_envs: B, the number of environments.

        Returns:
            Arrays that lead with ``[B]``; () for a policy without memory.
        """
        return self._algorithm.init_hidden_state(num_envs)

    def act(
        self,
        obs: Observation | Array,
        hidden_state: PyTree = (),
        key: Array | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> tuple[Array, PyTree]:
        """Chooses the actions of all agents in a batch of environments.

        The function is pure; ``jit`` and ``vmap`` may transform it, also over ``params``.

        Args:
            obs: an `Observation` with a leading ``[B]``, or ``agents_view`` ``[B, N, O]`` alone,
                with which every action is legal and the global state is zero.
            hidden_state: that of `init_hidden_state`, or of the step before.
            key: random key of the sampled actions; not used by a greedy policy.
            params: arrays in place of `params`, such as those of another seed.

        Returns:
            Actions, ``[B, N]`` int or ``[B, N, A]`` float, and the hidden state after the step.

        Raises:
            ValueError: ``obs`` or ``hidden_state`` has another shape than the policy expects, or
                ``key`` is missing or no random key.
        """
        obs = self._checked(obs, batched=True)
        if key is None and self.greedy:
            key = jax.random.key(0)
        check_key("key", key)
        expected = jax.tree.map(lambda x: (obs.agents_view.shape[0], *x.shape[1:]), self._start)
        if _shapes(hidden_state) != expected:
            raise ValueError(
                f"hidden_state has the shapes {_shapes(hidden_state)}; allowed are {expected}, as "
                "init_hidden_state returns them"
            )
        return self._act(self.params if params is None else dict(params), key, obs, hidden_state)

    def __call__(self, obs: Observation | Array) -> Array:
        """Returns the actions of all agents, and advances the hidden state.

        Args:
            obs: observation of one environment, without batch axis; or its ``agents_view``
                ``[N, O]`` alone, with which every action is legal.

        Returns:
            ``[N]`` int for discrete actions, ``[N, A]`` float for continuous ones.

        Raises:
            ValueError: ``obs`` has other shapes than the algorithm's environment.
        """
        obs = self._checked(obs, batched=False)
        self._key, key = jax.random.split(self._key)
        action, self._hidden_state = self._act_alone(self.params, key, obs, self._hidden_state)
        return action

    def reset(self, key: Array | None = None) -> None:
        """Resets the hidden state of calls for a new episode.

        Args:
            key: random key of the actions that follow; None continues with the present one.
        """
        self._hidden_state = self._start
        self._key = self._key if key is None else key

    def save(self, path: str | Path) -> Path:
        """Saves the policy: its arrays, and what `load_policy` needs to build it again.

        The file holds no code and no training state. Loading it needs no run folder and no
        environment.

        Args:
            path: file to write, NAME.safetensors; a file of this name is replaced.

        Returns:
            The path.

        Raises:
            ValueError: ``path`` has another suffix.
        """
        path = policy_files.check_target(path, (".safetensors",))
        metadata = {
            "algorithm": self._reference,
            "config": policy_files.config_to_dict(self.config),
            "spec": dataclasses.asdict(self.spec),
            "networks": _describe_networks(self.networks),
            "greedy": self.greedy,
        }
        return policy_files.write(path, self.params, metadata)

    def export(self, path: str | Path, batch_size: int | None = None) -> Path:
        """Exports the policy for programs that do not have this library.

        - NAME.zip: a StableHLO program for CPU, CUDA and TPU, its spec, and the code that loads it
          with JAX and NumPy alone; see `jaxmarl_lite.exported_policy`.
        - NAME.onnx: an ONNX model of a greedy policy (extra ``onnx``). Inputs: ``agents_view``,
          ``action_mask`` and ``hidden_state_0`` ...; outputs: ``action`` and
          ``next_hidden_state_0`` ....

        Args:
            path: file to write; its suffix decides the format. A file of this name is replaced.
            batch_size: B, the number of environments that the program acts in; None: any number.

        Returns:
            The path.

        Raises:
            ValueError: ``path`` has another suffix, the policy samples its actions and the format
                is ONNX, or its networks cannot be exported.
            ImportError: a package is missing; the message names the extra to install.
        """
        path = policy_files.check_target(path, (".zip", ".onnx"))
        return policy_export.export(self._flat(), path, batch_size)

    def __repr__(self) -> str:
        name = "?" if self._algorithm.spec is None else self._algorithm.spec.name
        played = "greedy" if self.greedy else "sampled"
        return f"TrainedPolicy({self.algorithm} on {name}, {played} actions)"

    def _pure_act(
        self, params: Mapping[str, Array], key: Array, obs: Observation, hidden_state: PyTree
    ) -> tuple[Array, PyTree]:
        learner = self._template.fill(params)
        action, _, hidden_state = self._algorithm.act(
            learner, key, obs, hidden_state, greedy=self.greedy
        )
        return action, hidden_state

    def _pure_act_alone(
        self, params: Mapping[str, Array], key: Array, obs: Observation, hidden_state: PyTree
    ) -> tuple[Array, PyTree]:
        batch = jax.tree.map(lambda x: x[None], obs)
        action, hidden_state = self._pure_act(params, key, batch, hidden_state)
        return action[0], hidden_state

    def _checked(self, obs: Any, batched: bool) -> Observation:
        """Returns an observation after checking its shapes, with defaults beside a bare array."""
        spec = self._algorithm.spec
        if spec is None:
            return obs
        lead = ("B",) if batched else ()
        forms = {name: (*lead, *x.shape[1:]) for name, x in _abstract_obs(spec)._asdict().items()}
        if not isinstance(obs, Observation):
            view, form = obs, forms["agents_view"]
            if not isinstance(view, (jax.Array, np.ndarray)) or view.ndim != len(form):
                raise invalid(
                    "obs",
                    obs,
                    "an Observation, such as timestep.obs, or an array "
                    f"[{', '.join(map(str, form))}]",
                )
            batch = view.shape[: len(lead)]
            rest = {
                name: jnp.ones((*batch, *form[len(lead) :]), bool) for name, form in forms.items()
            }
            zeros = jnp.zeros((*batch, *forms["global_state"][len(lead) :]), view.dtype)
            obs = Observation(**(rest | {"agents_view": view, "global_state": zeros}))
        size = np.shape(obs.agents_view)[:1]
        for name, value in obs._asdict().items():
            expected = tuple(size[0] if x == "B" and size else x for x in forms[name])
            if np.shape(value) != expected:
                raise ValueError(
                    f"obs.{name} has the shape {np.shape(value)}; allowed is {expected}, that of "
                    f"{spec.name}"
                )
        return obs

    def _flat(self) -> policy_export.FlatPolicy:
        """Returns the policy as a function of arrays alone."""
        spec, start = self.spec, self._start
        leaves, structure = jax.tree.flatten(start)
        obs, params = _abstract_obs(spec), self.params

        def act(key: Array, obs: Observation, hidden_state: PyTree) -> tuple[Array, PyTree]:
            return self._pure_act(params, key, obs, hidden_state)

        is_used = liveness.used_inputs(act, jax.random.key(0), obs, start)
        fields = dict(zip(Observation._fields, is_used[1:5], strict=True))
        # always there, so that all policies of a kind of environment are called alike
        fields |= {"agents_view": True, "action_mask": True}
        names = [name for name, used in fields.items() if used]

        def flat(key: Array, arrays: Sequence[Array]) -> list[Array]:
            present = dict(zip(names, arrays, strict=False))
            lead = present["agents_view"].shape[:1]
            observed = {
                name: present.get(name, jnp.zeros((*lead, *x.shape[1:]), x.dtype))
                for name, x in obs._asdict().items()
            }
            hidden_state = jax.tree.unflatten(structure, arrays[len(names) :])
            action, hidden_state = act(key, Observation(**observed), hidden_state)
            return [action, *jax.tree.leaves(hidden_state)]

        return policy_export.FlatPolicy(
            algorithm=self.algorithm,
            spec=spec,
            greedy=self.greedy,
            uses_key=not self.greedy,
            function=flat,
            obs={name: getattr(obs, name) for name in names},
            hidden_state=tuple(leaves),
        )


def load_policy(
    path: str | Path,
    networks: Any = None,
    greedy: bool | None = None,
    key: Array | None = None,
    algorithm: Any = None,
) -> TrainedPolicy:
    """Loads a policy that `TrainedPolicy.save` wrote.

    Args:
        path: the file; neither the run nor its environment is needed.
        networks: the networks, where the policy was trained with a user's own.
        greedy: whether to take the likeliest actions (True) or sampled ones (False); None: as it
            was saved.
        key: random key of the sampled actions of calls; None: a fixed one.
        algorithm: the algorithm, where the policy was trained by one that was passed as an object.

    Returns:
        The policy, with the same actions.

    Raises:
        ValueError: the file is damaged or of another kind, its arrays do not fit the networks, or
            ``networks`` or ``algorithm`` is missing.
        OSError: there is no such file.

    Example:
        >>> import jax, jaxmarl_lite as jml
        >>> spec = jml.make("toy/counter").spec
        >>> algorithm = jml.make_algorithm("mappo", spec, jml.MAPPOConfig(hidden_sizes=(8,)))
        >>> learner = algorithm.init(jax.random.key(0), 1)
        >>> path = jml.TrainedPolicy(algorithm, learner, greedy=False).save("mappo.safetensors")
        >>> policy = jml.load_policy(path, greedy=True)
        >>> policy, policy.spec.num_agents
        (TrainedPolicy(mappo on toy/counter, greedy actions), 2)
    """
    path = check_path("path", path)
    params, metadata = policy_files.read(path)
    networks = _networks_of(path, metadata["networks"], networks)
    spec = policy_files.spec_from_dict(path, metadata["spec"])
    reference, algorithm = metadata["algorithm"], _algorithm_of(path, metadata, algorithm)
    config = policy_files.config_from_dict(path, algorithm, metadata["config"])
    # Shares of a run have no meaning here, and no influence on actions.
    static = base_config.resolve_shares(policy_files.without_objects(config), 1)
    algorithm = registry.make_algorithm(algorithm, spec, static, networks)
    learner = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), 1))
    template = _Template(algorithm, learner)
    policy_files.check_params(path, params, template.params_of(learner))
    return TrainedPolicy(
        algorithm,
        template.fill({name: jnp.asarray(value) for name, value in params.items()}, dummies=False),
        metadata["greedy"] if greedy is None else greedy,
        key,
        config,
        networks,
        reference,
    )


def _algorithm_of(path: Path, metadata: Mapping[str, Any], algorithm: Any) -> Any:
    """Returns the algorithm of a saved policy: what the user passes, or what the file names."""
    name = metadata["algorithm"]
    if algorithm is None and isinstance(references.from_description(name), references.Unavailable):
        raise ValueError(
            f"algorithm is None; allowed is load_policy(path, algorithm=...), as the policy in "
            f"{path} was trained by the object {name}, which a file cannot hold"
        )
    return name if algorithm is None else algorithm


def _describe_networks(networks: Any) -> str | dict[str, str]:
    """Returns a user's networks as texts: one reference, or one text for each role."""
    if networks is None:
        return {}
    if not isinstance(networks, Networks):
        return references.describe(networks)
    reference = references.describe(networks)
    if references.is_reference(reference):
        return reference
    roles = {field.name: getattr(networks, field.name) for field in dataclasses.fields(networks)}
    return {role: references.describe(x) for role, x in roles.items() if x is not None}


def _networks_of(path: Path, described: str | Mapping[str, str], networks: Any) -> Any:
    """Returns the networks of a saved policy: the user's, or those that a reference names."""
    if networks is not None or not described:
        return networks
    if isinstance(described, str):
        if not references.is_reference(described):
            raise ValueError(
                f"networks is None; allowed is {_HOW}, as those of the policy in {path} were the "
                f"object {described}, which a file cannot hold"
            )
        return described
    loaded = {}
    for role, text in described.items():
        value = references.from_description(text)
        if isinstance(value, references.Unavailable):
            raise ValueError(
                f"networks is None; allowed is {_HOW}, as networks.{role} of the policy in {path} "
                f"was the object {value.description}, which a file cannot hold"
            )
        loaded[role] = references.load(f"networks.{role}", text)
    return Networks(**loaded)


class _Template:
    """The form of a learner's state, and the leaves of it that actions depend on.

    Optimizers, critics and replay buffers are not among these: a policy needs none of them.

    Args:
        algorithm: the algorithm.
        learner: a learner's state, or shapes and dtypes of one.
    """

    def __init__(self, algorithm: Algorithm, learner: PyTree):
        with_paths, self._structure = jax.tree_util.tree_flatten_with_path(learner)
        self._names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in with_paths]
        self._shapes = [
            jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
            if not hasattr(leaf, "dtype")
            else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for _, leaf in with_paths
        ]
        self._used = [True] * len(self._names)
        if algorithm.spec is not None:
            self._used = self._find_used(algorithm, algorithm.spec)

    def _find_used(self, algorithm: Algorithm, spec: EnvSpec) -> list[bool]:
        """Returns for every leaf whether the actions, greedy or sampled, depend on it."""
        obs, hidden_state = _abstract_obs(spec), algorithm.init_hidden_state(1)

        def act(leaves: list[Array], key: Array, obs: Any, greedy: bool) -> tuple[Array, PyTree]:
            learner = jax.tree.unflatten(self._structure, leaves)
            action, _, after = algorithm.act(learner, key, obs, hidden_state, greedy=greedy)
            return action, after

        both = [
            liveness.used_inputs(
                functools.partial(act, greedy=greedy), self._shapes, jax.random.key(0), obs
            )
            for greedy in (False, True)
        ]
        return [a or b for a, b in zip(*both, strict=True)][: len(self._names)]

    def params_of(self, learner: PyTree) -> dict[str, Any]:
        """Returns the leaves that actions depend on, by name."""
        leaves = jax.tree.leaves(learner)
        triples = zip(self._names, leaves, self._used, strict=True)
        return {name: leaf for name, leaf, used in triples if used}

    def fill(self, params: Mapping[str, Any], dummies: bool = True) -> PyTree:
        """Returns a learner's state with the given leaves.

        Args:
            params: leaves by name.
            dummies: whether all others are zeros, which cost nothing in a compiled function;
                otherwise they are their shapes.
        """
        leaves = [
            params[name] if name in params else _zeros(shape) if dummies else shape
            for name, shape in zip(self._names, self._shapes, strict=True)
        ]
        return jax.tree.unflatten(self._structure, leaves)


def _zeros(shape: jax.ShapeDtypeStruct) -> Array:
    """Returns an array of a shape, which no action depends on."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)


def _abstract_obs(spec: EnvSpec) -> Any:
    """Returns shapes and dtypes of an observation of one environment, with a leading ``[1]``."""
    dtype, agents = jnp.result_type(float), spec.num_agents
    return Observation(
        jax.ShapeDtypeStruct((1, agents, spec.obs_size), dtype),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((1, spec.global_state_size), dtype),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((1, agents, spec.action_size), jnp.dtype(bool)),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((1, agents), jnp.dtype(bool)),  # type: ignore[arg-type]
    )


def _shapes(tree: PyTree) -> PyTree:
    """Returns the shapes of a tree's arrays, in its structure."""
    return jax.tree.map(np.shape, tree)
