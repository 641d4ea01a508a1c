import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.report.metrics import METRICS, base_name, describe, flatten, latest


def test_every_metric_has_one_sentence():
    for name, sentence in METRICS.items():
        assert name == base_name(name) and name.isidentifier()
        assert (
            sentence.endswith(".")
            and (sentence[0].isupper() or sentence[0].isdigit())
            and len(sentence) > 30
        ), name


def test_describe_knows_the_parts():
    assert describe("episode_return") == METRICS["episode_return"]
    assert (
        describe("seed_3/intrinsic_reward_std/agent_1")
        == METRICS["intrinsic_reward_std"] + " (agent 1)"
    )
    with pytest.raises(KeyError, match="retrun"):
        describe("retrun/agent_0")


def test_flatten():
    result = flatten(
        {
            "return": jnp.float32(2),
            "r": np.array([1.0, 3.0]),
            "c": np.array([[1, 2], [3, 4]]),
            "f": True,
        }
    )
    assert result == {
        "return": 2.0,
        "r/agent_0": 1.0,
        "r/agent_1": 3.0,
        "c/agent_0/cost_0": 1.0,
        "c/agent_0/cost_1": 2.0,
        "c/agent_1/cost_0": 3.0,
        "c/agent_1/cost_1": 4.0,
        "f": 1.0,
    }
    assert all(type(value) is float for value in result.values())
    assert base_name("c/agent_1/cost_0") == "c"
    with pytest.raises(ValueError, match="'x'.*\\(1, 2, 3\\)"):
        flatten({"x": np.zeros((1, 2, 3))})


def test_the_latest_row_of_every_seed_counts():
    rows = [
        {"update": update, "seed": seed, "c/agent_1/cost_0": 10 * update + seed, "f": update}
        for update in (2, 1)
        for seed in (0, 4)
    ]
    assert latest(rows, (4, 0, 5), "f").tolist() == [2, 2, 0]
    assert latest(rows, (4, 0), "c", (2, 1)).tolist() == [[[0], [24]], [[0], [20]]]
