"""The progress of a run: what is shown while programs are compiled."""

import time

import pytest

from jaxmarl_lite.experiment import progress


def test_a_log_says_that_the_compiler_is_at_work(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_INTERVAL", 0.05)
    with progress.ProgressBar("ippo", 2, 64) as display:
        time.sleep(0.3)
        display.finish_compiling()
        during = capsys.readouterr().out
        time.sleep(0.2)
        after = capsys.readouterr().out
    assert during.count("compiling for") >= 2 and after.count("compiling for") <= 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_left_running_after_an_error(quiet, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_INTERVAL", 0.01)
    with pytest.raises(ZeroDivisionError), progress.ProgressBar("ippo", 2, 64, quiet):
        1 / 0  # noqa: B018
    time.sleep(0.1)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().out == ""
