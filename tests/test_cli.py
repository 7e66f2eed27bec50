"""The command itself."""

import time

from tiebreak.cli import COMMANDS


def test_help_answers_in_half_a_second(run):
    """The best of three, as a busy machine delays any one; torch alone would take two seconds."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = run("tiebreak", "--help")
        seconds.append(time.perf_counter() - started)
    assert all(name in done.stdout for name in COMMANDS)
    assert min(seconds) < 0.5


def test_no_command_is_the_users_mistake(run):
    assert "COMMAND" in run("tiebreak", code=2).stderr
