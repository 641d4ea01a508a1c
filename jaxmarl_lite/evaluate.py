"""Episodes of a fixed policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import rollout
from jaxmarl_lite.types import Algorithm, Array, Environment, PyTree, TimeStep
from jaxmarl_lite.validation import check_bool, check_fits, check_int


class Evaluation(NamedTuple):
    """Undiscounted sums over each of E episodes."""

    returns: Array  # [E, N]
    costs: Array  # [E, N, K]
    lengths: Array  # [E]
    wins: Array | float = 0.0  # [E] 1 where the episode was won, by the environment's word
    faults: Array | int = (
        0  # [E] int: which of the environment's numbers were wrong, see `rollout.env_faults`
    )


def make_evaluate(
    algorithm: Algorithm, env: Environment, num_episodes: int = 32, greedy: bool = False
) -> Callable[[PyTree, Array], Evaluation]:
    """A pure function ``evaluate(learner, key) -> Evaluation`` that plays ``num_episodes`` whole
    episodes.

    Args:
        algorithm: whose `act` is played.
        env: the environment, of one world.
        num_episodes: E; they run side by side.
        greedy: play the likeliest action instead of a sampled one.
    """
    num_episodes, greedy = check_int("num_episodes", num_episodes), check_bool("greedy", greedy)
    spec = check_fits(algorithm, env)

    def evaluate(learner: PyTree, key: Array) -> Evaluation:
        begin_key, act_key = jax.random.split(key)
        state, timestep = jax.vmap(env.reset)(jax.random.split(begin_key, num_episodes))
        sums = rollout.zero_episode_stats((num_episodes,), spec.num_agents, spec.num_costs)
        faults = jax.vmap(rollout.env_faults)(timestep)
        carry = (
            jnp.zeros((), jnp.int32),
            state,
            timestep,
            algorithm.init_hidden_state(num_episodes),
            sums,
            faults,
        )

        def step(carry: tuple[Array, Any, TimeStep, PyTree, rollout.EpisodeStats, Array]) -> Any:
            moment, state, timestep, hidden_state, sums, faults = carry
            playing = ~timestep.last
            key = jax.random.fold_in(act_key, moment)
            action, _, hidden_state = algorithm.act(
                learner, key, timestep.obs, hidden_state, greedy=greedy
            )
            state, after = jax.vmap(env.step)(state, action)
            sums = rollout.EpisodeStats(
                sums.count,
                sums.returns + jnp.where(playing[:, None], after.reward, 0.0),
                sums.costs + jnp.where(playing[:, None, None], after.cost, 0.0),
                sums.lengths + playing,
                sums.living_steps + (playing[:, None] & timestep.obs.alive),
                sums.non_finite,
                jnp.where(playing, win(state), sums.wins),
            )
            acted = jax.vmap(lambda x: jnp.isfinite(x).all())(
                action
            )  # else the fault is the policy's
            faults = faults | jnp.where(playing & acted, jax.vmap(rollout.env_faults)(after), 0)
            after = after._replace(last=after.last | timestep.last)
            return moment + 1, state, after, hidden_state, sums, faults

        def win(state: Any) -> Array | float:
            return jax.vmap(env.is_win)(state).astype(float) if spec.win_condition else 0.0  # type: ignore[attr-defined]

        def playing_still(carry: Any) -> Array:
            return ~carry[2].last.all() & (carry[0] < spec.max_episode_steps)

        sums, faults = jax.lax.while_loop(playing_still, step, carry)[-2:]
        return Evaluation(sums.returns, sums.costs, sums.lengths, sums.wins, faults)

    return evaluate


def make_play(
    algorithm: Algorithm, env: Environment, num_steps: int, greedy: bool = False
) -> Callable[..., Any]:
    """A pure function ``play(learner, key) -> (states, timesteps, actions)`` of one world, for
    pictures.

    Leaves lead with ``[num_steps]``; states and time steps after the first ``last`` are to be left
    out.
    """
    num_steps, greedy = check_int("num_steps", num_steps), check_bool("greedy", greedy)
    check_fits(algorithm, env)

    def play(learner: PyTree, key: Array) -> tuple[PyTree, TimeStep, Array]:
        begin_key, act_key = jax.random.split(key)
        state, timestep = jax.tree.map(lambda x: x[None], env.reset(begin_key))

        def step(carry: Any, key: Array) -> Any:
            state, timestep, hidden_state = carry
            action, _, hidden_state = algorithm.act(
                learner, key, timestep.obs, hidden_state, greedy=greedy
            )
            after = jax.vmap(env.step)(state, action)
            return (*after, hidden_state), jax.tree.map(lambda x: x[0], (state, timestep, action))

        carry = (state, timestep, algorithm.init_hidden_state(1))
        return jax.lax.scan(step, carry, jax.random.split(act_key, num_steps))[1]

    return play
