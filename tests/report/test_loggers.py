import json
import math

import pytest

from jaxmarl_lite.report.loggers import (
    JsonlLogger,
    marl_eval_json,
    read_rows,
    restore_rows,
)


def write_some(logger, updates, seeds=2):
    for update in updates:
        for seed in range(seeds):
            logger.write(
                update, update * 100, seed, {"return": update + seed / 10, "loss": 1 / (update + 1)}
            )


def test_rows_come_back_as_they_went_and_at_once(tmp_path):
    logger = JsonlLogger(tmp_path / "deep" / "metrics.jsonl")
    logger.write(1, 64, 0, {"a": 0.1, "b": math.nan, "c": math.inf, "d": -math.inf, "e": 1e-300})
    row = read_rows(tmp_path / "deep" / "metrics.jsonl")[0]  # before any close
    assert math.isnan(row.pop("b"))
    assert row == {
        "update": 1,
        "step": 64,
        "seed": 0,
        "a": 0.1,
        "c": math.inf,
        "d": -math.inf,
        "e": 1e-300,
    }
    text = (tmp_path / "deep" / "metrics.jsonl").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no strict JSON"))
    logger.close()
    logger.close()


def test_names_of_the_index_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seed"):
        JsonlLogger(tmp_path / "m").write(1, 1, 0, {"seed": 1.0})


def test_resumed_rows_equal_undisturbed_rows_byte_for_byte(tmp_path):
    calm, broken = tmp_path / "calm", tmp_path / "broken"
    logger = JsonlLogger(calm)
    write_some(logger, range(1, 9))
    logger.close()
    logger = JsonlLogger(broken)
    write_some(logger, range(1, 7))
    logger.close()
    with broken.open("ab") as file:
        file.write(b'{"update": 7, "st')  # killed in the middle of a row
    restore_rows(broken, tmp_path / "copy", 4, None, lambda row: True)  # the checkpoint's update
    logger = JsonlLogger(broken, tmp_path / "copy")
    assert logger.mark.rows == 8
    write_some(logger, range(5, 9))
    logger.close()
    assert broken.read_bytes() == calm.read_bytes() == (tmp_path / "copy").read_bytes()


def test_opening_cuts_a_half_written_line(tmp_path):
    path = tmp_path / "m"
    path.write_text('{"update": 1, "step": 1, "seed": 0, "a": 1.0}\n{"upda')
    assert len(read_rows(path)) == 1
    logger = JsonlLogger(path)
    logger.write(2, 2, 0, {"a": 2.0})
    logger.close()
    assert [row["a"] for row in read_rows(path)] == [1.0, 2.0]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "m").write_text(
        '{"update": 1, "step": 1, "seed": 0}\nrubbish\n{"update": 2, "step": 1, "seed": 0}\n'
    )
    with pytest.raises(ValueError, match="m, line 2 is no metrics row"):
        read_rows(tmp_path / "m")


ROWS = [
    {"update": 2, "step": 20, "seed": 0, "return": 9.0, "eval_return": 3.0, "elapsed_seconds": 1.5},
    {"update": 1, "step": 10, "seed": 0, "return": 9.0, "eval_return": 5.0, "elapsed_seconds": 0.5},
    {"update": 1, "step": 10, "seed": 1, "eval_return": math.nan, "cost/agent_0": 1.0},
    {"update": 2, "step": 20, "seed": 1, "eval_return": 4.0, "cost/agent_0": 2.0},
    {"update": 3, "step": 30, "seed": 0, "return": 9.0},
]
NAMES = {"environment": "matrix", "task": "climbing", "algorithm": "liir"}


def test_marl_eval_form_by_hand():
    result = marl_eval_json(ROWS[:2] + ROWS[3:], **NAMES, metrics=("eval_return", "cost/agent_0"))
    assert result == {
        "matrix": {
            "climbing": {
                "liir": {
                    "seed_0": {
                        "step_0": {"step_count": 10, "elapsed_time": 0.5, "eval_return": [5.0]},
                        "step_1": {"step_count": 20, "elapsed_time": 1.5, "eval_return": [3.0]},
                        "absolute_metrics": {"eval_return": [5.0]},
                    },
                    "seed_1": {
                        "step_0": {"step_count": 20, "eval_return": [4.0], "cost/agent_0": [2.0]},
                        "absolute_metrics": {"eval_return": [4.0], "cost/agent_0": [2.0]},
                    },
                }
            }
        }
    }


def test_absolute_metrics_skip_nans_or_are_given():
    runs = marl_eval_json(ROWS, **NAMES)["matrix"]["climbing"]["liir"]
    assert runs["seed_1"]["absolute_metrics"] == {"eval_return": [4.0]}
    assert math.isnan(runs["seed_1"]["step_0"]["eval_return"][0])
    runs = marl_eval_json(ROWS, **NAMES, absolute={0: {"eval_return": [1, 2]}})["matrix"][
        "climbing"
    ]["liir"]
    assert runs["seed_0"]["absolute_metrics"] == {"eval_return": [1.0, 2.0]}
