"""Oracles in plain numpy: loops over one number at a time, written from the textbook and not from
the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from toy_envs import Tally


def advantage(reward, value, next_value, discount, last, gamma, lam):
    """GAE by its definition, a sum over what follows: A_t = Σ_l (γλ)^l δ_{t+l}, up to the end of
    the episode."""
    horizon = len(reward)
    delta = [reward[t] + gamma * discount[t] * next_value[t] - value[t] for t in range(horizon)]
    result = np.zeros(horizon)
    for t in range(horizon):
        weight = 1.0
        for later in range(t, horizon):
            result[t] += weight * delta[later]
            if last[later]:
                break
            weight *= gamma * lam
    return result


def clip_by_norm(flat, max_norm):
    """A flat vector, no longer than `max_norm`."""
    length = np.sqrt(np.sum(flat**2))
    return flat * (max_norm / length) if length > max_norm else flat


def softmax(logits, legal):
    """Probabilities over the legal actions; an illegal one has exactly 0."""
    result = np.zeros(len(logits))
    best = max(x for x, ok in zip(logits, legal, strict=True) if ok)
    for a, ok in enumerate(legal):
        result[a] = np.exp(logits[a] - best) if ok else 0.0
    return result / result.sum()


def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + np.exp(-x))


def gru(params, hidden_state, x):
    """One step of a GRU for one vector: the weights of the three gates stand side by side, in the
    order r, z, n."""
    size = len(hidden_state)
    w, b = np.asarray(params["inputs"]["kernel"]), np.asarray(params["inputs"]["bias"])
    u, c = np.asarray(params["kernel"]), np.asarray(params["bias"])
    gate = lambda k: slice(k * size, (k + 1) * size)  # noqa: E731
    r = sigmoid(x @ w[:, gate(0)] + b[gate(0)] + hidden_state @ u[:, gate(0)])
    z = sigmoid(x @ w[:, gate(1)] + b[gate(1)] + hidden_state @ u[:, gate(1)])
    n = np.tanh(x @ w[:, gate(2)] + b[gate(2)] + r * (hidden_state @ u[:, gate(2)] + c))
    return (1 - z) * n + z * hidden_state


def network(params, hidden_state, x, relu=False):
    """Dense layers, perhaps a GRU, perhaps more layers, a head, for one vector. Answers (out,
    hidden_state)."""
    for stack in ("layers", "head_layers"):
        layer = 0
        while f"{stack}_{layer}" in params:
            dense = params[f"{stack}_{layer}"]
            x = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
            x = np.maximum(x, 0.0) if relu else np.tanh(x)
            layer += 1
        if stack == "layers" and "cell" in params:
            x = hidden_state = gru(params["cell"], hidden_state, x)
    return x @ np.asarray(params["head"]["kernel"]) + np.asarray(
        params["head"]["bias"]
    ), hidden_state


def play_tally(
    env: Tally, reset_keys, num_steps: int, choose: Callable[[int, int], Any]
) -> tuple[list[list[dict[str, Any]]], dict[str, Any], list[dict[str, Any]]]:
    """Play worlds of `Tally` one after the other, with `choose(t, b)` -> the two actions.

    Answers ``steps[t][b]``, the sums over the episodes that ended, and where each world then
    stands."""
    steps: list[list[dict[str, Any]]] = [[] for _ in range(num_steps)]
    ended = {"count": 0, "returns": np.zeros(2), "costs": np.zeros((2, 2)), "length": 0}
    ended["squared_costs"] = np.zeros((2, 2))
    stand = []
    for b, key in enumerate(reset_keys):
        episode = 0
        start = float(jax.random.uniform(jax.random.fold_in(key, episode)))
        time, returns, costs = 0, np.zeros(2), np.zeros((2, 2))
        for t in range(num_steps):
            action = choose(t, b)
            observed, reward = (start, time), np.array([start + time, action[1]])
            cost = np.array([[0.0, 0.0], [time, 10.0 * time]])
            time += 1
            end = env.over_at + 2 if env.uneven and start > 0.5 else env.over_at
            over, cut = time >= end, time >= env.limit
            steps[t].append(
                {
                    "seen": observed,
                    "next": (start, time),
                    "reward": reward,
                    "cost": cost,
                    "discount": 0.0 if over else 1.0,
                    "last": over or cut,
                    "episode": episode,
                }
            )
            returns, costs = returns + reward, costs + cost
            if over or cut:
                ended["count"] += 1
                ended["returns"], ended["costs"] = (
                    ended["returns"] + returns,
                    ended["costs"] + costs,
                )
                ended["squared_costs"] = ended["squared_costs"] + costs**2
                ended["length"] += time
                episode += 1
                start = float(jax.random.uniform(jax.random.fold_in(key, episode)))
                time, returns, costs = 0, np.zeros(2), np.zeros((2, 2))
        stand.append(
            {"episode": episode, "start": start, "time": time, "returns": returns, "costs": costs}
        )
    return steps, ended, stand
