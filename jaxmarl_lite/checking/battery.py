"""The checks that every algorithm must pass, in the order in which they run.

A check is a function of a `Case` that raises `CheckFailedError` or `CheckSkippedError`, or returns.
Any other error is a failure as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxmarl_lite import train
from jaxmarl_lite.checking.case import (
    MOST_UPDATES,
    Case,
    CheckFailedError,
    CheckSkippedError,
    Run,
    first_difference,
    is_discrete,
    leaves_of,
    without_config,
)
from jaxmarl_lite.report import checkpoint
from jaxmarl_lite.types import Array, Environment, EnvSpec, Observation, PyTree


class Check(NamedTuple):
    """One check.

    Attributes:
        name: Its name.
        run: The function.
        needs: Names of the checks without which it means nothing.
    """

    name: str
    run: Callable[[Case], None]
    needs: tuple[str, ...] = ()


def _form(leaf: Any) -> str:
    """Returns dtype and shape of a leaf as text."""
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else f"a {type(leaf)}"


def _require_form(name: str, value: PyTree, expected: PyTree, reference: str) -> None:
    """Raises CheckFailedError where a tree has not the form of another one."""
    if jax.tree.structure(value) != jax.tree.structure(expected):
        raise CheckFailedError(
            f"{name} has another structure than {reference}; allowed is the same"
        )
    for (leaf, x), (_, y) in zip(leaves_of(name, value), leaves_of(name, expected), strict=True):
        if _form(x) != _form(y):
            raise CheckFailedError(
                f"{leaf} is {_form(x)}; allowed is {_form(y)}, as in {reference}"
            )


def _require_array(name: str, value: Any, shape: tuple[int, ...], kind: Any) -> None:
    """Raises CheckFailedError where a value is no array of a shape and of a kind of dtype."""
    plural = {jnp.integer: "integers", jnp.floating: "floats"}[kind]
    is_array = hasattr(value, "dtype") and value.shape == shape
    if not is_array or not jnp.issubdtype(value.dtype, kind):
        raise CheckFailedError(
            f"{name} is {_form(value)}; allowed are {plural} of shape {list(shape)}"
        )


def _check_sizes(case: Case) -> None:
    """The algorithm takes the sizes of the battery."""
    try:
        case.algorithm.check_sizes(case.num_envs, case.num_steps)
    except ValueError as error:
        raise CheckFailedError(
            f"{error}: pass other num_envs and num_steps to check_algorithm, or a smaller config"
        ) from error


def _check_init(case: Case) -> None:
    """`init` works under jit and vmap, and gives finite arrays that differ between seeds."""
    learner = case.start.learner
    for name, leaf in leaves_of("learner", learner):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise CheckFailedError(f"{name} is not finite after init")
    parts = jax.tree.leaves(without_config(learner))
    if parts and all((np.asarray(x[0]) == np.asarray(x[1])).all() for x in parts if x.size):
        raise CheckFailedError(
            "init gives the same learner for two keys; allowed is to use its key"
        )


def _check_act(case: Case) -> None:
    """`act` returns actions, log-probabilities and a hidden state of the right form."""
    algorithm, spec, obs = case.algorithm, case.spec, case.observations
    shape = obs.alive.shape
    hidden_state = algorithm.init_hidden_state(shape[0])
    for name, leaf in leaves_of("hidden_state", hidden_state):
        if np.ndim(leaf) == 0 or np.shape(leaf)[0] != shape[0]:
            raise CheckFailedError(
                f"{name} is {_form(leaf)} for num_envs {shape[0]}; allowed is an array that "
                "leads with the environments"
            )
    for greedy in (False, True):
        result = case.act(obs, 0, greedy)
        if not isinstance(result, tuple) or len(result) != 3:
            raise CheckFailedError("act returns no tuple of (action, log_prob, hidden_state)")
        action, log_prob, after = result
        if is_discrete(spec):
            _require_array("the action", action, shape, jnp.integer)
        else:
            _require_array("the action", action, (*shape, spec.action_size), jnp.floating)
        _require_array("log_prob", log_prob, shape, jnp.floating)
        _require_form("the hidden state after act", after, hidden_state, "init_hidden_state")
        if not np.isfinite(np.asarray(log_prob)).all():
            raise CheckFailedError("log_prob is not finite")


def _check_hidden_state(case: Case) -> None:
    """The hidden state of an episode's first step is zero."""
    hidden_state = case.algorithm.init_hidden_state(case.num_envs)
    if not jax.tree.leaves(hidden_state):
        raise CheckSkippedError("the policy has no hidden state")
    for name, leaf in leaves_of("init_hidden_state", hidden_state):
        if np.asarray(leaf).any():
            raise CheckFailedError(
                f"{name} is not zero everywhere; rollouts begin every episode with zeros"
            )


def _illegal(spec: EnvSpec, obs: Observation, action: Array) -> bool:
    """Returns whether an agent in play takes an action that its mask forbids, or out of bounds."""
    mask, alive, taken = map(np.asarray, (obs.action_mask, obs.alive, action))
    if is_discrete(spec):
        if (taken < 0).any() or (taken >= spec.action_size).any():
            return True
        return bool((~np.take_along_axis(mask, taken[..., None], -1)[..., 0] & alive).any())
    if (taken[~mask] != 0).any():
        return True
    if spec.action_low is None or spec.action_high is None:
        return False
    low, high = np.array(spec.action_low) - 1e-5, np.array(spec.action_high) + 1e-5
    return bool((mask & ((taken < low) | (taken > high))).any())


def _check_legal(case: Case) -> None:
    """Actions respect the mask, also where it leaves one action; continuous ones their bounds."""
    spec, observations = case.spec, case.observations
    allowed = (
        "one that the mask allows" if is_discrete(spec) else "0 where the mask is False, in bounds"
    )
    tries = [observations]
    if is_discrete(spec):
        only = np.random.default_rng(0).integers(0, spec.action_size, observations.alive.shape)
        one_hot = jnp.asarray(np.eye(spec.action_size, dtype=bool)[only])
        tries.append(observations._replace(action_mask=one_hot))
    for obs in tries:
        for greedy in (False, True):
            action, *_ = case.act(obs, 1, greedy)
            if _illegal(spec, obs, action):
                raise CheckFailedError(
                    f"act(greedy={greedy}) takes an action that is not legal; allowed is {allowed}"
                )


def _check_greedy(case: Case) -> None:
    """Greedy actions do not depend on the key."""
    first, second = (case.act(case.observations, i, greedy=True)[0] for i in (0, 1))
    if (np.asarray(first) != np.asarray(second)).any():
        raise CheckFailedError(
            "act(greedy=True) depends on the key; allowed is the mode of the policy"
        )


def _check_keys(case: Case) -> None:
    """Sampled actions differ between keys, environments and agents."""
    # one observation in every environment: actions differ by their random numbers alone
    obs = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), case.observations)
    if is_discrete(case.spec):
        obs = obs._replace(
            action_mask=jnp.ones_like(obs.action_mask), alive=jnp.ones_like(obs.alive)
        )
    first, second = (np.asarray(case.act(obs, i)[0]) for i in (0, 1))
    if (first == first[:1]).all():
        raise CheckFailedError(
            "act samples the same actions in all environments; allowed is a key of its own for each"
        )
    if (first == second).all():
        raise CheckFailedError(
            "act samples the same actions for two keys; allowed is to use its key"
        )
    if is_discrete(case.spec) and case.spec.num_agents > 1 and (first == first[:, :1]).all():
        raise CheckFailedError(
            "act samples the same action for all agents; allowed is a key for each"
        )


def _check_update(case: Case) -> None:
    """`update` works under jit and vmap, and returns a learner of the same form and a dict."""
    result = case.update(0, case.start.learner, case.batch)
    if not isinstance(result, tuple) or len(result) != 2:
        raise CheckFailedError("update returns no pair (learner, info)")
    learner, info = result
    _require_form("the learner after update", learner, case.start.learner, "init's learner")
    if not isinstance(info, dict):
        raise CheckFailedError(
            f"update's info is a {type(info).__name__}; allowed is a dict of metrics"
        )


def _check_metrics(case: Case) -> None:
    """Every metric is a finite number, or one for each agent (and cost)."""
    num_agents, num_costs = case.spec.num_agents, case.spec.num_costs
    shapes = ((), (num_agents,), (num_agents, num_costs))
    for name, value in case.learned[1].items():
        if not isinstance(name, str):
            raise CheckFailedError(f"the metric {name!r} has no text for its name")
        if np.shape(value)[1:] not in shapes:
            raise CheckFailedError(
                f"info[{name!r}] has shape {list(np.shape(value)[1:])}; allowed is [], "
                f"[{num_agents}] (agents) or [{num_agents}, {num_costs}] (agents and costs)"
            )


def _check_finite(case: Case) -> None:
    """Learner and metrics are finite after some updates."""
    run, info = case.learned
    for name, leaf in (*leaves_of("learner", run.learner), *leaves_of("info", info)):
        leaf = np.asarray(leaf)
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise CheckFailedError(f"{name} is not finite after {case.num_updates} updates")


def _check_learns(case: Case) -> None:
    """The learner's arrays change, and so does its policy."""
    if case.num_updates >= MOST_UPDATES:
        first = case.algorithm.first_learning_update(case.num_envs, case.num_steps)
        raise CheckSkippedError(f"it first learns in update {first}; pass a smaller config")
    before, after = case.start.learner, case.learned[0].learner
    updates = f"in {case.num_updates} updates"
    pairs = zip(
        leaves_of("learner", without_config(before)),
        leaves_of("learner", without_config(after)),
        strict=True,
    )
    # scalars (counters of steps) are not what is learned
    weights = [
        (a, b) for (_, a), (_, b) in pairs if a.ndim > 1 and jnp.issubdtype(a.dtype, jnp.floating)
    ]
    if not any((np.asarray(a) != np.asarray(b)).any() for a, b in weights):
        raise CheckFailedError(f"no array of the learner changes {updates}")
    old, new = (
        [
            np.asarray(x)
            for greedy in (False, True)
            for x in case.act(case.observations, 2, greedy, learner)[:2]
        ]
        for learner in (before, after)
    )
    no_log_prob = not any(x.any() for x in (old[1], new[1]))
    if not no_log_prob and all((a == b).all() for a, b in zip(old, new, strict=True)):
        raise CheckFailedError(
            f"the learner changes, but act gives the same actions as before {updates}"
        )


def _check_traces(case: Case) -> None:
    """`update` is traced once: for its own results, and for other floats of the config."""
    run = case.learned[0]
    case.update(1, run.learner, case.batch)
    if case.num_traces["update"] > 1:
        weak = [
            name
            for name, leaf in leaves_of("learner", case.start.learner)
            if getattr(leaf, "weak_type", False)
        ]
        hint = f": init gives the weakly typed {weak[0]}, set its dtype" if weak else ""
        raise CheckFailedError(
            f"update is traced {case.num_traces['update']} times for learners of one form{hint}"
        )
    if case.config_floats is None:
        return
    halved = case.init(jax.tree.map(lambda x: 0.5 * x, case.config_floats))
    case.update(1, halved.learner, case.batch)
    if max(case.num_traces.values()) > 1:
        raise CheckFailedError(
            "init or update is traced anew for other floats of the config; allowed is to read "
            "them from the learner, where init puts them as arrays"
        )


def _literals(jaxpr: Any, constants: Any) -> Iterator[bytes]:
    """Yields what distinguishes two traces of one function: operations, literals and constants."""
    for constant in constants:
        if isinstance(constant, (np.ndarray, jax.Array)) and not jnp.issubdtype(
            constant.dtype, jax.dtypes.prng_key
        ):
            yield np.asarray(constant).tobytes()
    for equation in jaxpr.eqns:
        yield equation.primitive.name.encode()
        for variable in equation.invars:
            if isinstance(variable, core.Literal):
                yield np.asarray(variable.val).tobytes()
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, core.ClosedJaxpr)
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from _literals(value.jaxpr, value.consts)
            elif isinstance(value, core.Jaxpr):
                yield from _literals(value, ())


def _check_pure(case: Case) -> None:
    """Two traces of `act` and `update` are one program: no state or random number of Python."""
    learner, batch = (jax.tree.map(lambda x: x[0], x) for x in (case.start.learner, case.batch))
    obs = jax.tree.map(lambda x: x[0], batch.transitions.obs)
    key = jax.random.key(0)
    calls = {
        "act": lambda: jax.make_jaxpr(lambda *args: case.algorithm.act(*args))(
            learner, key, obs, batch.initial_hidden_state
        ),
        "update": lambda: jax.make_jaxpr(lambda *args: case.algorithm.update(*args))(
            key, learner, batch
        ),
    }
    for name, trace in calls.items():
        first, second = (list(_literals(x.jaxpr, x.consts)) for x in (trace(), trace()))
        if first != second:
            raise CheckFailedError(
                f"{name} is another program each time that it is traced; allowed is a pure "
                "function: no random numbers of NumPy, and no counters on a Python object"
            )


def _check_same_seed(case: Case) -> None:
    """Two runs of one seed agree bit for bit, and two seeds do not."""
    run, info = case.learned
    again: Run = case.start
    repeated: PyTree = {}
    for number in range(case.num_updates):
        again, repeated = case.advance(again, number)
    if (name := first_difference("", (run, info), (again, repeated))) is not None:
        raise CheckFailedError(f"two runs from one state differ in {name}")
    lane = [jax.tree.map(lambda x, i=i: x[i], (run, info)) for i in range(3)]
    if (name := first_difference("", lane[0], lane[2])) is not None:
        raise CheckFailedError(f"two runs of one seed, side by side under vmap, differ in {name}")


def _check_resume(case: Case) -> None:
    """A state that was saved and restored goes on to the same bits."""
    run, _ = case.learned
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder, 0, run)
        restored = checkpoint.restore(folder, jax.eval_shape(lambda: run)).state
    expected, actual = (case.advance(x, case.num_updates) for x in (run, restored))
    if (name := first_difference("", expected, actual)) is not None:
        raise CheckFailedError(f"a run that goes on from its checkpoint differs in {name}")


def _check_dead_agents(case: Case) -> None:
    """The policy does not learn from the actions of agents that are not alive."""
    steps, spec = case.batch.transitions, case.spec

    def dead(obs: Observation) -> Observation:
        return obs._replace(alive=jnp.zeros_like(obs.alive))

    steps = steps._replace(obs=dead(steps.obs), next_obs=dead(steps.next_obs))
    random = np.random.default_rng(0)
    mask = np.asarray(steps.obs.action_mask)
    if is_discrete(spec):
        action = jnp.asarray((random.random(mask.shape) * mask).argmax(-1), steps.action.dtype)
    else:
        action = jnp.asarray(random.uniform(-0.5, 0.5, mask.shape) * mask, steps.action.dtype)
    other = steps._replace(action=action, log_prob=steps.log_prob - 1.0)
    results = []
    for transitions in (steps, other):
        learner = case.start.learner
        for number in range(case.num_updates):
            learner, _ = case.update(number, learner, case.batch._replace(transitions=transitions))
        for name, leaf in leaves_of("learner", learner):
            if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
                raise CheckFailedError(
                    f"{name} is not finite after a batch in which no agent is alive; allowed is a "
                    "mean over the living that is 0 where there are none"
                )
        results.append([case.act(case.observations, 3, g, learner)[:2] for g in (False, True)])
    if first_difference("", results[0], results[1]) is not None:
        raise CheckFailedError(
            "the policy learns from the actions of agents that are not alive; allowed is to weigh "
            "every sample of the policy's loss by obs.alive"
        )


def _check_first_ratio(case: Case) -> None:
    """The update sees the policy that acted, over the ends of episodes: no divergence at rate 0."""
    learner = case.start.learner
    config = getattr(learner, "config", None)
    if not hasattr(config, "lr") or "approx_kl" not in case.learned[1]:
        raise CheckSkippedError("no float `lr` in the learner's config, or no metric `approx_kl`")
    frozen = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if getattr(path[-1], "name", "") == "lr" else x, config
    )
    if not np.asarray(case.batch.transitions.last).any():
        raise CheckSkippedError("no episode ends in the rollout; pass a larger num_steps")
    _, info = case.update(0, learner._replace(config=frozen), case.batch)
    divergence = float(np.abs(np.asarray(info["approx_kl"])).max())
    if divergence > 1e-4:
        raise CheckFailedError(
            f"approx_kl is {divergence:.3g} at learning rate 0; allowed is 0: the update must "
            "compute the log-probabilities of the policy that acted, with a hidden state that is "
            "zero where an episode begins"
        )


def _float32_of(env: Environment) -> str:
    """Returns the name of a number that an environment gives in float32; empty if there is none."""
    key = jax.eval_shape(jax.random.key, 0)
    state, first = jax.eval_shape(env.reset, key)
    spec = env.spec
    shape = (spec.num_agents,) if is_discrete(spec) else (spec.num_agents, spec.action_size)
    action = jax.ShapeDtypeStruct(shape, jnp.int32 if is_discrete(spec) else jnp.result_type(float))
    _, second = jax.eval_shape(env.step, state, action)
    for timestep in (first, second):
        for name, leaf in leaves_of("time step", timestep):
            if leaf.dtype == jnp.float32:
                return name
    return ""


def _check_float64(case: Case) -> None:
    """In double precision everything can be traced, and every float of the learner is float64."""
    with jax.enable_x64(True):
        narrow = _float32_of(case.env)
        if narrow:
            raise CheckSkippedError(f"the environment's {narrow} is float32 with jax_enable_x64")
        wide = Case(case.name, case.make, case.env, case.num_envs, case.num_steps, case.seed)
        init, update = train.make_train(wide.algorithm, case.env, case.num_envs, case.num_steps)
        key = jax.eval_shape(jax.random.key, 0)
        state = jax.eval_shape(init, key)
        jax.eval_shape(lambda state: update(state, 2), state)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.learner_state):
            if leaf.dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
                raise CheckFailedError(
                    f"learner{jax.tree_util.keystr(path)} is {leaf.dtype} with jax_enable_x64; "
                    "allowed is jnp.result_type(float)"
                )


CHECKS = (
    Check("sizes", _check_sizes),
    Check("init", _check_init, ("sizes",)),
    Check("act", _check_act, ("init",)),
    Check("hidden state", _check_hidden_state, ("act",)),
    Check("legal actions", _check_legal, ("act",)),
    Check("greedy", _check_greedy, ("act",)),
    Check("random keys", _check_keys, ("act",)),
    Check("update", _check_update, ("act",)),
    Check("metrics", _check_metrics, ("update",)),
    Check("finite", _check_finite, ("update",)),
    Check("learns", _check_learns, ("update",)),
    Check("traced once", _check_traces, ("update",)),
    Check("pure", _check_pure, ("update",)),
    Check("same seed", _check_same_seed, ("update",)),
    Check("resume", _check_resume, ("update",)),
    Check("dead agents", _check_dead_agents, ("update",)),
    Check("acting policy", _check_first_ratio, ("update",)),
    Check("float64", _check_float64, ("update",)),
)
"""All checks, in order."""
