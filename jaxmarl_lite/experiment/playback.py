"""Single episodes of a trained run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxmarl_lite import keys
from jaxmarl_lite.evaluate import make_play
from jaxmarl_lite.types import Algorithm, Array, Environment, PyTree
from jaxmarl_lite.validation import check_int, check_path, invalid

if TYPE_CHECKING:
    from jaxmarl_lite.experiment.result import Result


class Episode(NamedTuple):
    """One episode of T steps; arrays are NumPy's.

    Attributes:
        states: the T + 1 states of the environment, including the last one.
        agents_view: ``[T, N, O]`` observation of each agent.
        action: ``[T, N]`` int or ``[T, N, A]`` float.
        alive: ``[T, N]`` bool.
        reward: ``[T, N]`` reward of each step.
        cost: ``[T, N, K]`` cost of each step.
        team_reward: ``[T]`` reward of the team.
        intrinsic_reward: ``[T, N]`` reward of each step that the algorithm has learned for each
            agent; None where it learns none.
    """

    states: list[Any]
    agents_view: np.ndarray
    action: np.ndarray
    alive: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    team_reward: np.ndarray
    intrinsic_reward: np.ndarray | None

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return len(self.reward)

    def __repr__(self) -> str:
        """Returns the sizes and sums in one line, in place of all arrays."""
        costs = self.cost.sum(0).mean(0)  # [K]
        text = f"Episode of {self.length} steps: return {self.team_reward.sum():.4g}"
        return text + (f", mean costs {', '.join(f'{x:.4g}' for x in costs)}" if len(costs) else "")


class Rendering(NamedTuple):
    """Files of one episode, returned by `Result.render`.

    Attributes:
        video: the video; None where the environment cannot be drawn.
        rewards: the figure of each agent's intrinsic reward; None where the algorithm learns none.
        episode: the episode.
    """

    video: Path | None
    rewards: Path | None
    episode: Episode

    def __repr__(self) -> str:
        video, rewards = (None if path is None else str(path) for path in self[:2])
        return f"Rendering(video={video!r}, rewards={rewards!r})"


EpisodeFn = Callable[[PyTree, int], Episode]


def make_episode_fn(algorithm: Algorithm, env: Environment, greedy: bool) -> EpisodeFn:
    """Returns a function that plays one episode with a learner's policy.

    Args:
        algorithm: the algorithm.
        env: the environment.
        greedy: whether to play the likeliest actions instead of sampled ones.

    Returns:
        ``play(learner, seed) -> Episode``; the episode is drawn from ``seed``. The function is
        compiled at its first call.
    """
    spec = env.spec
    # One step more than an episode can have, so that its last state is included.
    play_one = make_play(algorithm, env, spec.max_episode_steps + 1, greedy)

    @jax.jit
    def compiled(learner: PyTree, key: Array) -> Any:
        states, timesteps, actions = play_one(learner, key)
        intrinsic = (
            None
            if algorithm.intrinsic_reward is None
            else algorithm.intrinsic_reward(learner, timesteps.obs, actions)
        )
        return states, timesteps, actions, intrinsic

    def play(learner: PyTree, seed: int) -> Episode:
        seed = check_int("episode_seed", seed, -(2**31), 2**32 - 1)
        states, timesteps, actions, intrinsic = jax.device_get(
            compiled(learner, keys.for_purpose(seed, keys.PLAY))
        )
        # an episode that the step limit of `make_play` ends has no last time step
        length = int(timesteps.last.argmax()) if timesteps.last.any() else len(timesteps.last) - 1
        obs, successors = timesteps.obs, slice(1, length + 1)
        return Episode(
            states=[jax.tree.map(lambda x, i=i: x[i], states) for i in range(length + 1)],
            agents_view=obs.agents_view[:length],
            action=actions[:length],
            alive=obs.alive[:length],
            reward=timesteps.reward[successors],
            cost=timesteps.cost[successors],
            team_reward=np.asarray(spec.team_return(timesteps.reward[successors])),
            intrinsic_reward=None if intrinsic is None else intrinsic[:length],
        )

    return play


def animate(env: Environment, episode: Episode, path: Path) -> Path:
    """Writes the video of an episode.

    Args:
        env: an environment with the method ``animate``.
        episode: the episode.
        path: file to write.

    Returns:
        The file.

    Raises:
        ValueError: the environment writes no files with this suffix.
    """
    draw = env.animate  # type: ignore[attr-defined]
    rewards = {}
    if "rewards" in inspect.signature(draw).parameters:
        rewards = {"rewards": episode.intrinsic_reward}
    return draw(episode.states, path, **rewards)


def render(
    result: Result,
    path: str | Path | None,
    seed: int | None,
    episode_seed: int,
    greedy: bool | None,
) -> Rendering:
    """Writes one episode of a run; for arguments and errors see `Result.render`.

    Args:
        result: the run.
        path: file of the video.
        seed: a seed of the run.
        episode_seed: seed of the episode's random numbers.
        greedy: whether to play the likeliest actions.

    Returns:
        The files and the episode.
    """
    can_draw = getattr(result.env, "animate", None) is not None
    learns_reward = result.built_algorithm.intrinsic_reward is not None
    if not can_draw and not learns_reward:
        raise ValueError(
            f"environment {result.plan.env} cannot be drawn: it has no `animate`; allowed is one "
            "that has it, or an algorithm that learns a reward"
        )
    if path is None and result.path is None:
        raise invalid("path", path, "a file such as episode.gif: the run has no folder")
    video = check_path("path", result.path / "episode.gif" if path is None else path)  # type: ignore[operator]
    if not video.suffix or video.is_dir():
        raise invalid("path", str(video), "a file name with a suffix, such as episode.gif")
    episode = result.episode(seed, episode_seed, greedy)
    written = animate(result.env, episode, video) if can_draw else None
    rewards = video.with_suffix(".rewards.png") if learns_reward else None
    if rewards is not None:
        result.plot_intrinsic_rewards(rewards, episode=episode)
    return Rendering(written, rewards, episode)
