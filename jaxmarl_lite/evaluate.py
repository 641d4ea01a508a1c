"""Evaluation: whole episodes of a fixed policy, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import rollout
from jaxmarl_lite.types import Algorithm, Array, Environment, EpisodeStats, PyTree, TimeStep
from jaxmarl_lite.validation import check_bool, check_fits, check_int


class Evaluation(NamedTuple):
    """Undiscounted sums over each of E episodes.

    Attributes:
        returns: ``[E, N]``, return of each agent.
        costs: ``[E, N, K]``, cost of each agent.
        lengths: ``[E]``, time steps.
        wins: ``[E]``, 1 where the episode was won, as the environment defines it.
        faults: ``[E]`` int, which numbers of the environment were wrong, see `rollout.env_faults`.
    """

    returns: Array
    costs: Array
    lengths: Array
    wins: Array | float = 0.0
    faults: Array | int = 0


class _EvaluationState(NamedTuple):
    """The loop state of an evaluation; all leaves but ``num_steps`` lead with ``[E]``."""

    num_steps: Array
    env_state: PyTree
    timestep: TimeStep
    hidden_state: PyTree
    sums: EpisodeStats
    faults: Array


def make_evaluate(
    algorithm: Algorithm, env: Environment, num_episodes: int = 32, greedy: bool = False
) -> Callable[[PyTree, Array], Evaluation]:
    """Makes a pure function that plays ``num_episodes`` whole episodes with a fixed policy.

    Args:
        algorithm: The algorithm whose `act` is played.
        env: One environment.
        num_episodes: E, 1 or more; the episodes run side by side.
        greedy: Play the likeliest action instead of a sampled one.

    Returns:
        ``evaluate(learner_state, key) -> Evaluation``.

    Raises:
        ValueError: The environment has other sizes than the algorithm was made for, or an argument
            has the wrong type or range.

    Example:
        In this environment the team receives 1 where both agents take action 0, 0.5 where both take
        action 1, and nothing else, in episodes of one step:

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/coordination")
        >>> config = jml.IPPOConfig(hidden_sizes=(8,))
        >>> algorithm = jml.make_algorithm("ippo", env.spec, config)
        >>> init, _ = jml.make_train(algorithm, env, num_envs=4, num_steps=8)
        >>> evaluate = jml.make_evaluate(algorithm, env, num_episodes=16)
        >>> learner_state = jax.jit(init)(jax.random.key(0)).learner_state
        >>> result = evaluate(learner_state, jax.random.key(1))
        >>> result.returns.shape
        (16, 2)
        >>> set(result.returns[:, 0].tolist()) <= {0.0, 0.5, 1.0}
        True
        >>> result.lengths.max().item()
        1.0
    """
    num_episodes, greedy = check_int("num_episodes", num_episodes), check_bool("greedy", greedy)
    spec = check_fits(algorithm, env)

    def evaluate(learner_state: PyTree, key: Array) -> Evaluation:
        reset_key, act_key = jax.random.split(key)
        env_state, timestep = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))
        sums = rollout.zero_episode_stats((num_episodes,), spec.num_agents, spec.num_costs)
        faults = jax.vmap(rollout.env_faults)(timestep)
        initial_state = _EvaluationState(
            jnp.zeros((), jnp.int32),
            env_state,
            timestep,
            algorithm.init_hidden_state(num_episodes),
            sums,
            faults,
        )

        def step(state: _EvaluationState) -> _EvaluationState:
            num_steps, env_state, timestep, hidden_state, sums, faults = state
            running = ~timestep.last
            key = jax.random.fold_in(act_key, num_steps)
            action, _, hidden_state = algorithm.act(
                learner_state, key, timestep.obs, hidden_state, greedy=greedy
            )
            env_state, next_timestep = jax.vmap(env.step)(env_state, action)
            sums = EpisodeStats(
                sums.count,
                sums.returns + jnp.where(running[:, None], next_timestep.reward, 0.0),
                sums.costs + jnp.where(running[:, None, None], next_timestep.cost, 0.0),
                sums.lengths + running,
                sums.living_steps + (running[:, None] & timestep.obs.alive),
                sums.non_finite,
                jnp.where(running, win(env_state), sums.wins),
                sums.squared_costs,
            )
            # where the action is not finite, the fault is the policy's
            is_finite = jax.vmap(lambda x: jnp.isfinite(x).all())(action)
            faults = faults | jnp.where(
                running & is_finite, jax.vmap(rollout.env_faults)(next_timestep), 0
            )
            # environments step on after their episode, so that its end must be remembered
            next_timestep = next_timestep._replace(last=next_timestep.last | timestep.last)
            return _EvaluationState(
                num_steps + 1, env_state, next_timestep, hidden_state, sums, faults
            )

        def win(env_state: PyTree) -> Array | float:
            if not spec.win_condition:
                return 0.0
            return jax.vmap(env.is_win)(env_state).astype(float)  # type: ignore[attr-defined]

        def any_running(state: _EvaluationState) -> Array:
            return ~state.timestep.last.all() & (state.num_steps < spec.max_episode_steps)

        final_state = jax.lax.while_loop(any_running, step, initial_state)
        sums, faults = final_state.sums, final_state.faults
        return Evaluation(sums.returns, sums.costs, sums.lengths, sums.wins, faults)

    return evaluate


def make_play(
    algorithm: Algorithm, env: Environment, num_steps: int, greedy: bool = False
) -> Callable[[PyTree, Array], tuple[PyTree, TimeStep, Array]]:
    """Makes a pure function that records the steps of one environment, for videos and figures.

    Args:
        algorithm: The algorithm whose `act` is played.
        env: One environment.
        num_steps: Time steps to record, 1 or more.
        greedy: Play the likeliest action instead of a sampled one.

    Returns:
        ``play(learner_state, key) -> (states, timesteps, actions)``, whose leaves lead with
        ``[num_steps]``: the state and time step before each action, and the action. States and time
        steps after the first ``last`` are to be left out.

    Raises:
        ValueError: The environment has other sizes than the algorithm was made for, or an argument
            has the wrong type or range.

    Example:
        Entry 0 is the start of the episode, and the one step of this environment ends it:

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/coordination")
        >>> config = jml.IPPOConfig(hidden_sizes=(8,))
        >>> algorithm = jml.make_algorithm("ippo", env.spec, config)
        >>> init, _ = jml.make_train(algorithm, env, num_envs=4, num_steps=8)
        >>> play = jml.make_play(algorithm, env, num_steps=2, greedy=True)
        >>> learner_state = jax.jit(init)(jax.random.key(0)).learner_state
        >>> states, timesteps, actions = play(learner_state, jax.random.key(1))
        >>> actions.shape
        (2, 2)
        >>> timesteps.last.tolist()
        [False, True]
    """
    num_steps, greedy = check_int("num_steps", num_steps), check_bool("greedy", greedy)
    check_fits(algorithm, env)

    def play(learner_state: PyTree, key: Array) -> tuple[PyTree, TimeStep, Array]:
        reset_key, act_key = jax.random.split(key)
        # a batch of one environment, because `act` takes a leading ``B``
        env_state, timestep = jax.tree.map(lambda x: x[None], env.reset(reset_key))

        def step(
            carry: tuple[PyTree, TimeStep, PyTree], key: Array
        ) -> tuple[tuple[PyTree, TimeStep, PyTree], tuple[PyTree, TimeStep, Array]]:
            env_state, timestep, hidden_state = carry
            action, _, hidden_state = algorithm.act(
                learner_state, key, timestep.obs, hidden_state, greedy=greedy
            )
            next_env_state, next_timestep = jax.vmap(env.step)(env_state, action)
            record = jax.tree.map(lambda x: x[0], (env_state, timestep, action))
            return (next_env_state, next_timestep, hidden_state), record

        carry = (env_state, timestep, algorithm.init_hidden_state(1))
        return jax.lax.scan(step, carry, jax.random.split(act_key, num_steps))[1]

    return play
