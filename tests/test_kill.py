"""A killed run goes on (a few kills; ``benchmarks/kills.py`` does many)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent.parent / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.guard
def test_killed_runs_end_in_the_same_bits() -> None:
    done = subprocess.run(
        [sys.executable, str(KILLS), "--kills", "4", "--algorithm", "ippo"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same bits" in done.stdout and "OTHER" not in done.stdout
