"""Sweeps: many settings as one program, as runs that everything else reads; Optuna's studies."""

import concurrent.futures
import dataclasses
import json
import re
import shutil
import types

import numpy as np
import pytest
import tiny_runs

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment import api, compilation, optuna_study, sweep, sweep_space
from jaxmarl_lite.report import run_dir

_run_plan = api.run_plan
SIZES = dict(
    tiny_runs.SIZES,
    config={"hidden_sizes": (4,)},
    seeds=(3, 7),
    total_steps=tiny_runs.updates(2),
    num_evaluations=2,
)
GRID = {"lr": [1e-3, 1e-2], "lr_anneal_share": [0.0, 1.0]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep in a folder, and how many programs it compiled."""
    compilation._compile.cache_clear()
    out = tmp_path_factory.mktemp("sweep") / "out"
    result = jml.sweep("ippo", "toy/counter", grid=GRID, out=out, loggers=["csv"], **SIZES)
    return result, compilation._compile.cache_info().misses


def test_floats_train_as_one_program_with_the_numbers_of_single_runs(swept):
    result, misses = swept
    assert misses == 1
    assert result.points == tuple(sweep_space.grid_points(GRID))
    for setting, point in zip(result.points, result.results, strict=True):
        config = SIZES["config"] | setting
        single = jml.run("ippo", "toy/counter", **(SIZES | {"config": config}))
        assert point.plan == single.plan
        for name in single.metrics:
            if name not in tiny_runs.TIMINGS:
                np.testing.assert_array_equal(point.metrics[name], single.metrics[name], name)
    # the annealed points end with another rate than the constant ones
    rates = [point.metrics["learning_rate"][0, -1] for point in result.results]
    assert rates[0] == np.float32(1e-3) and rates[1] < 1e-3 and len(set(rates)) == 4


def test_every_point_is_a_run_that_goes_on(swept):
    result, _ = swept
    point = result.results[2]
    loaded = jml.load_run(point.path)
    assert loaded.seeds == (3, 7) and loaded.config.lr == 1e-2
    np.testing.assert_array_equal(loaded.returns, point.returns)
    assert run_dir.RunFolder(point.path).curve.exists()
    lines = (point.path / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3  # a head; two seeds, three evaluations
    copy = point.path.with_name("copy")
    shutil.copytree(point.path, copy)
    longer = jml.resume_run(copy, total_steps=tiny_runs.updates(3), quiet=True)
    config = SIZES["config"] | result.points[2]
    whole = jml.run(
        "ippo",
        "toy/counter",
        **(SIZES | {"config": config, "total_steps": tiny_runs.updates(3), "num_evaluations": 3}),
    )
    np.testing.assert_array_equal(longer.returns, whole.returns)
    shutil.rmtree(copy)


def test_a_sweep_is_ranked_drawn_and_loaded(swept, tmp_path):
    result, _ = swept
    scores = result.scores()
    assert scores.shape == (4, 2) and result.best == result.points[result.ranking()[0]]
    means = scores.mean(1)
    assert means[result.ranking()[0]] == means.max()
    assert [row["point"] for row in result.rows()] == result.ranking()
    loaded = jml.load_sweep(result.path)
    np.testing.assert_array_equal(loaded.scores(), scores)
    assert loaded.best_result.plan == result.best_result.plan
    assert "eval_return" in result.summary() and "\x1b" not in result.summary()
    for name in ("sweep.png", "table.txt", "results.json"):
        assert (result.path / name).stat().st_size > 100
    figure = result.plot(tmp_path / "picture.svg")
    assert len(figure.axes) == 3  # two settings, and all together
    lowest = jml.Sweep(result.points, result.results, {}, "eval_return", "min")
    assert means[lowest.ranking()[0]] == means.min()


def test_points_that_keep_their_limits_come_first():
    """Costs of two agents by two seeds; the numbers are chosen so that each rule decides once."""
    limits = np.array([[2.0], [np.inf]])

    def point(score, *costs):
        last = np.array(costs)[:, None, :, None]  # [seeds, evaluations, N, K]
        scores = np.full((2, 1), score)
        return types.SimpleNamespace(costs=last, limits=limits, metrics={"eval_return": scores})

    results = (
        point(9.0, (4.0, 0.0), (2.0, 0.0)),  # the mean of 3 is half over the limit of 2
        point(1.0, (1.0, 9.0), (3.0, 9.0)),  # 2 keeps it, and the second agent has none
        point(8.0, (9.0, 0.0), (1.0, 0.0)),
        point(2.0, (0.0, 0.0), (np.nan, np.nan)),
        None,
    )
    points = tuple({"lr": float(i)} for i in range(5))
    ranked = sweep.Sweep(points, results, {4: "no memory"})
    np.testing.assert_allclose(ranked.excesses(), [0.5, 0.0, 1.5, 0.0, np.nan])
    assert ranked.ranking() == [3, 1, 0, 2] and ranked.best == {"lr": 3.0}
    assert [row.get("excess") for row in ranked.rows()] == [0.0, 0.0, 0.5, 1.5, None]
    assert "50 %" in ranked.summary() and "costs over their limits" in ranked.summary()
    fewest = dataclasses.replace(ranked, mode="min")
    assert fewest.ranking() == [1, 3, 0, 2]


def test_trials_that_keep_their_limits_come_first():
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(direction="maximize")
    for lr, score, excess in ((0.1, 9.0, 0.5), (0.2, 1.0, 0.0), (0.3, 8.0, 1.5), (0.4, 2.0, -0.1)):
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(lr, lr)})
        trial.set_constraint("costs over their limits", excess)
        study.tell(trial, score)
    rows = re.findall(r"^ +(\d) +(0\.\d)", optuna_study.summary(study, "eval_return"), re.M)
    assert [number for number, _ in rows] == ["3", "1", "0", "2"]
    assert study.best_params == {"lr": 0.4}


def test_a_study_knows_which_trials_keep_their_limits(tmp_path):
    sizes = SIZES | {"total_steps": 64}
    study = jml.optimize(
        "ippo", "toy/budget", space={"lr": (1e-4, 1e-3)}, num_trials=1, out=tmp_path, **sizes
    )
    (trial,) = study.trials
    result = jml.load_run(tmp_path / "runs" / trial.user_attrs["folder"])
    costs = result.costs[:, -1].mean(0)[:, 0]  # limits 3 and 4.5; an untrained policy costs 7.5
    expected = max(0.0, costs[0] / 3 - 1) + max(0.0, costs[1] / 4.5 - 1)
    assert expected > 0.5
    assert trial.constraints == {"costs over their limits": pytest.approx(expected)}
    with pytest.raises(ValueError, match="easible"):
        _ = study.best_trial


def test_a_sweep_goes_on_with_what_is_missing(swept, monkeypatch):
    result, _ = swept
    shutil.rmtree(result.results[1].path)
    trained = []
    monkeypatch.setattr(
        "jaxmarl_lite.experiment.sweep.api.run_plan",
        lambda plan, *rest: trained.append(plan) or _run_plan(plan, *rest),
    )
    again = jml.sweep("ippo", "toy/counter", grid=GRID, out=result.path, **SIZES)
    assert [plan.config for plan in trained] == [result.results[1].config]
    np.testing.assert_array_equal(again.scores(), result.scores())
    with pytest.raises(run_dir.RunFolderError, match="holds another sweep, of 4 points"):
        jml.sweep("ippo", "toy/counter", grid={"lr": [0.1]}, out=result.path, **SIZES)


def test_an_interrupted_group_goes_on(swept, tmp_path, monkeypatch):
    result, _ = swept
    out = tmp_path / "out"

    def interrupted(plan, env, session):
        monkeypatch.undo()
        stop = dataclasses.replace(session, on_evaluation=_stop_in_the_middle)
        _run_plan(plan, env, stop)
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxmarl_lite.experiment.sweep.api.run_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jml.sweep("ippo", "toy/counter", grid=GRID, out=out, **SIZES)
    assert jml.load_sweep(out).results == (None,) * 4
    assert [path.name for path in (out / "groups").iterdir()] == ["000-003"]
    again = jml.sweep("ippo", "toy/counter", grid=GRID, out=out, **SIZES)
    for point, expected in zip(again.results, result.results, strict=True):
        np.testing.assert_array_equal(point.returns, expected.returns)
    assert not list((out / "groups").iterdir())


def _stop_in_the_middle(report):
    return report.update == 1


@pytest.mark.slow
def test_settings_that_are_no_floats_are_separate_programs():
    compilation._compile.cache_clear()
    points = [
        {"lr": 1e-3, "num_minibatches": 1},
        {"lr": 1e-2, "num_minibatches": 1},
        {"lr": 1e-2, "num_steps": 8},
    ]
    result = jml.sweep("ippo", "toy/counter", points=points, **(SIZES | {"num_steps": 4}))
    assert compilation._compile.cache_info().misses == 2
    assert [r.plan.num_steps for r in result.results] == [4, 4, 8]
    assert result.results[0].config.num_minibatches == 1


def test_a_group_that_does_not_fit_the_memory_is_halved(monkeypatch):
    sizes = []

    def small_device(plan, *rest):
        sizes.append(len(plan.seeds))
        if len(plan.seeds) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return _run_plan(plan, *rest)

    monkeypatch.setattr("jaxmarl_lite.experiment.sweep.api.run_plan", small_device)
    result = jml.sweep("ippo", "toy/counter", grid={"lr": [1e-3, 1e-2, 1e-1]}, **SIZES)
    assert sizes == [6, 2, 4, 2, 2] and None not in result.results


def test_parts_share_a_folder_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "sweep ippo --env toy/counter --hidden-sizes 4 --seed 5 --num-envs 4 --num-steps 4 "
    words += "--total-steps 16 --num-evaluations 1 --eval-episodes 2 --random lr=1e-3:1e-1:log "
    words += "--points 3 --out jobs --part"
    assert main([*words.split(), "0/2"]) == 0
    assert jml.load_sweep("jobs").results.count(None) == 2
    assert main([*words.split(), "1/2"]) == 0
    result = jml.load_sweep("jobs")
    assert None not in result.results and result.results[0].seeds == (5,)
    points = sweep_space.random_points({"lr": (1e-3, 1e-1, "log")}, 3, 0)
    assert list(result.points) == points
    assert "not trained yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--grid lrr=1,2 --out s", "point 0 of the sweep.*lrr.*nearest: lr"),
        ("--grid lr=1e-3,-1 --out s", "point 1 of the sweep.*lr is -1"),
        ("--grid lr=1e-3:1e-2 --out s", "--grid of lr is .*allowed is values with commas"),
        ("--grid lr=1,1 --out s", "grid of lr is .*allowed is different values"),
        ("--grid lr --out s", "--grid is 'lr'; allowed is FIELD=VALUE"),
        ("--random lr=1e-2:1e-3:log --points 2 --out s", "allowed is low below high"),
        ("--random lr=1e-3:1e-2:lin --points 2 --out s", "'lin'.*allowed is .low, high."),
        ("--random lr=1e-3:1e-2 --out s", "num_points is None"),
        ("--grid lr=1e-3 --part 2/2 --out s", "--part is 2; allowed is"),
        ("--grid lr=1e-3 --random lr=1,2 --out s", "exactly one of --grid, --random and --optuna"),
        ("--grid lr=1e-3", "--out is missing"),
        ("--optuna lr=1e-3:1e-2 --out s", "--points is missing"),
        ("--optuna lr=1e-3:1e-2 --points 1 --out s --storage nowhere://x", "cannot open"),
        ("--grid lr=1e-3 --metric eval_retrn --out s", "metric is 'eval_retrn'.*eval_return"),
    ],
)
def test_wrong_sweeps_have_one_clear_error(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxmarl_lite.experiment.api._train", _no_training)
    sizes = "--hidden-sizes 4 --total-steps 16 --num-envs 4 --num-steps 4"
    assert main(["sweep", "ippo", "--env", "toy/counter", *sizes.split(), *words.split()]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and re.search(message, error), error


def _no_training(*arguments):
    raise AssertionError("the error should come before anything is trained")


def _optimize(out, **changes):
    settings = SIZES | dict(space={"lr": (1e-3, 1e-1, "log")}, num_trials=2, out=out)
    return jml.optimize("ippo", "toy/counter", **(settings | changes))


def test_an_optuna_study_prunes_and_goes_on(tmp_path):
    optuna = pytest.importorskip("optuna")

    class Second(optuna.pruners.BasePruner):
        """Prunes the second trial at its first evaluation after the start."""

        def prune(self, study, trial):
            return trial.number == 1 and trial.last_step > 0

    study = _optimize(tmp_path, pruner=Second(), num_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    first = jml.load_run(tmp_path / "runs" / study.trials[0].user_attrs["folder"])
    assert first.config.lr == study.trials[0].params["lr"]
    assert sorted(study.trials[0].intermediate_values) == first.steps.tolist()
    assert study.best_value == pytest.approx(first.returns[:, -1].mean())
    # the pruned run kept what it has, and can be finished
    pruned = jml.load_run(tmp_path / "runs" / "trial-0001")
    assert len(pruned.steps) == 2
    assert len(jml.resume_run(pruned.path, quiet=True).steps) == 3
    again = _optimize(tmp_path, pruner=Second(), num_trials=3)
    assert len(again.trials) == 3 and again.trials[2].state.name == "COMPLETE"
    table = (tmp_path / "table.txt").read_text()
    assert "3 trials: 2 complete, 1 pruned" in table and "trial-0002" in table
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="holds a study of other settings"):
        _optimize(tmp_path, space={"gamma": (0.9, 0.99)})


def test_a_trial_that_was_killed_is_continued(tmp_path):
    optuna = pytest.importorskip("optuna")
    study = _optimize(tmp_path, num_trials=1)
    # as a kill leaves it: a trial that runs, and its unfinished run in a folder
    killed = study.ask({"lr": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)})
    jml.run(
        "ippo",
        "toy/counter",
        out=tmp_path / "runs" / "trial-0001",
        on_evaluation=_stop_in_the_middle,
        **(SIZES | {"config": SIZES["config"] | killed.params}),
    )
    study = _optimize(tmp_path, num_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].params == killed.params
    assert study.trials[2].user_attrs["folder"] == "trial-0001"
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["trial-0000", "trial-0001"]
    assert json.loads((tmp_path / "runs/trial-0001/config.json").read_text())["total_steps"] == 32


@pytest.mark.slow
def test_points_that_were_written_before_an_interruption_are_not_trained_again(
    swept, tmp_path, monkeypatch
):
    result, _ = swept
    out, written = tmp_path / "out", []
    write = sweep._write_point

    def interrupted(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        write(path, *rest)
        written.append(path)

    monkeypatch.setattr(sweep, "_write_point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jml.sweep("ippo", "toy/counter", grid=GRID, out=out, **SIZES)
    monkeypatch.undo()
    monkeypatch.setattr("jaxmarl_lite.experiment.runner.Runner.run", _no_training)
    again = jml.sweep("ippo", "toy/counter", grid=GRID, out=out, **SIZES)
    np.testing.assert_array_equal(again.scores(), result.scores())
    assert not list((out / "groups").iterdir())


def test_a_sweep_of_an_algorithm_that_is_an_object_goes_on(tmp_path):
    config = jml.IPPOConfig(hidden_sizes=(4,))
    ready = jml.make_algorithm("ippo", jml.make("toy/counter").spec, config)
    settings = dict(SIZES, config=None, grid={"lr": [1e-3, 1e-2]}, out=tmp_path / "out")
    first = jml.sweep(ready, "toy/counter", part=(0, 2), **settings)
    assert [r is None for r in first.results] == [False, True]
    second = jml.sweep(ready, "toy/counter", part=(1, 2), **settings)
    assert None not in second.results
    np.testing.assert_array_equal(second.results[0].returns, first.results[0].returns)
    loaded = jml.load_sweep(tmp_path / "out", algorithm=ready)
    np.testing.assert_array_equal(loaded.scores(), second.scores())
    with pytest.raises(ValueError, match=r"config.hidden_sizes is \(8,\); allowed is \(4,\)"):
        jml.sweep(
            ready, "toy/counter", grid={"hidden_sizes": [(8,)]}, out=tmp_path / "new", seeds=1
        )
    assert not (tmp_path / "new").exists()  # before anything is written


def test_a_full_disk_ends_a_sweep(monkeypatch, tmp_path):
    def full(plan, *rest):
        raise jml.RunError("cannot be written") from OSError(28, "No space left on device")

    monkeypatch.setattr(api, "run_plan", full)
    with pytest.raises(jml.RunError, match="cannot be written"):
        jml.sweep("ippo", "toy/counter", grid={"lr": [1e-3]}, out=tmp_path / "out", **SIZES)


def test_jobs_of_an_array_may_begin_at_one_time(tmp_path):
    points, _ = sweep._make_points(
        "ippo", "toy/counter", None, [{"lr": 1e-3}, {"lr": 1e-2}], {"seeds": 1}
    )
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        claims = [
            pool.submit(sweep._claim, tmp_path / "out", points, "eval_return", "max")
            for _ in range(8)
        ]
    assert [claim.result() for claim in claims] == [None] * 8
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(run_dir.RunFolderError, match="not empty and holds no sweep"):
        sweep._claim(tmp_path / "other", points, "eval_return", "max")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_notebook_shows_the_picture_of_a_sweep(swept):
    assert swept[0].plot()._repr_png_().startswith(b"\x89PNG")


def test_settings_in_steps_of_three_have_a_logarithmic_axis():
    from jaxmarl_lite.report import sweep_plot

    rows = [
        {"lr": lr, "gamma": gamma, "score": 1.0, "low": 0.9, "high": 1.1}
        for lr, gamma in ((3e-4, 0.9), (1e-3, 0.95), (3e-3, 0.99))
    ]
    axes = sweep_plot.plot(rows, ("lr", "gamma"), "score").axes
    assert [axis.get_xscale() for axis in axes[:2]] == ["log", "linear"]


def test_a_sweep_tells_how_far_it_is_and_ends_with_one_table(capsys):
    jml.sweep("ippo", "toy/counter", grid=GRID, **(SIZES | {"quiet": False}))
    text = capsys.readouterr().out
    assert "training 4 points as one program: 0, 1, 2, 3" in text
    assert "update 1/2" in text and "update 2/2" in text
    assert text.count("IQM") == 1 and text.count("sweep of 4 points") == 1


def test_messages_name_a_seed_of_a_sweep_by_its_settings(swept):
    points = [sweep.Point(i, x.config, x.plan) for i, x in enumerate(swept[0].results)]
    joined = sweep._joined(points)
    assert joined.seed_name(0) == "seed 3 with lr_anneal_share=0, lr=0.001"
    assert joined.seed_name(7) == "seed 7 with lr_anneal_share=1, lr=0.01"
    assert points[0].plan.seed_name(1) == "seed 7"


def test_a_sweep_is_a_data_frame(swept):
    pytest.importorskip("pandas")
    result, _ = swept
    frame = result.to_dataframe()
    assert len(frame) == 4 * 2 * 3 and list(frame.columns[:3]) == ["point", *GRID]
    last = frame[(frame["point"] == 2) & (frame["seed"] == 7)].iloc[-1]
    assert last["lr"] == 1e-2 and last["eval_return"] == result.results[2].returns[1, -1]
