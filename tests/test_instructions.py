"""The gate against a slower core: instructions per message, which a noisy machine does not change."""

import json
import platform

import pytest

from bench.instructions import BASELINE, TOLERANCE, count_instructions

from .conftest import installed


@pytest.mark.parametrize("path", ["handle", "step"])
def test_a_message_takes_as_many_instructions_as_the_baseline_says(path: str) -> None:
    baseline = json.loads(BASELINE.read_text())
    if baseline["python"] != platform.python_version():
        pytest.skip(f"NOT TESTED: counted with Python {baseline['python']}, this is {platform.python_version()}")
    installed("valgrind", "valgrind")
    counted = count_instructions(path)
    change = counted / baseline[path] - 1
    assert abs(change) <= TOLERANCE, (
        f"{counted:,} instructions a message on the path {path!r}, {change:+.1%} of the baseline of {baseline[path]:,}:"
        " find out why with callgrind, or, if it is meant, `python -m bench.instructions --write`"
    )
