"""A stage is done by what it was made of, not by a file that is there."""

import pytest

from tiebreak.errors import UserError
from tiebreak.pipeline.stage_record import begin, end, is_done, make_record
from tiebreak.pipeline.stages import read_launcher


@pytest.fixture
def stage(tmp_path):
    table, done, path = tmp_path / "t.csv", tmp_path / "out" / "done.txt", tmp_path / "stages" / "s.json"
    table.write_text("table")
    done.parent.mkdir()

    def now(*more):
        return make_record(["check", str(table), "--out", str(done), *more], [], done)

    begin(now(), done, path)
    done.write_text("made")
    end(now(), done, path)
    return table, done, path, now


def test_a_stage_is_done_while_nothing_has_changed(stage):
    _, done, path, now = stage
    assert is_done("s", done, now(), path)
    done.unlink()
    assert not is_done("s", done, now(), path)


@pytest.mark.parametrize("what", ["words", "table", "result", "record"])
def test_a_stage_runs_again_where_something_is_another(stage, what):
    table, done, path, now = stage
    more = ["--test", "x"] if what == "words" else []
    if what in ("table", "result"):
        (table if what == "table" else done).write_text("another")
    if what == "record":
        path.write_text("[")
    assert not is_done("s", done, now(*more), path)
    if what == "words":  # and does not count as done because it was begun with the new ones
        begin(now(*more), done, path)
        assert not is_done("s", done, now(*more), path)


def test_a_result_that_was_left_by_a_process_of_its_own_is_taken_as_first_seen(stage):
    _, done, path, now = stage
    done.unlink()
    begin(now(), done, path)
    done.write_text("made")
    assert is_done("s", done, now(), path)
    done.write_text("half")
    assert not is_done("s", done, now(), path)


def test_chains_of_earlier_versions_go_on_which_is_said_once_and_kept(stage, caplog):
    table, done, path, now = stage
    path.unlink()
    with caplog.at_level("INFO"):
        assert is_done("s", done, now(), path) and is_done("t", done, now(), path.with_name("t.json"))
    assert caplog.text.count("count as done") == 1 and str(path.parents[1]) in caplog.text
    table.write_text("another")
    assert not is_done("s", done, now(), path)


@pytest.mark.parametrize("launch", ["'torchrun", "nosuchcommand --x"])
def test_a_launcher_that_cannot_be_started_is_told(launch):
    with pytest.raises(UserError, match="--launch"):
        read_launcher(launch)


def test_a_further_file_that_later_stages_read_must_be_as_it_was_left(stage, tmp_path):
    _, done, path, now = stage
    more = tmp_path / "metrics.json"
    more.write_text("{}")
    end(now(), done, path, [more])
    assert is_done("s", done, now(), path, [more])
    more.write_text("{")
    assert not is_done("s", done, now(), path, [more])
    more.unlink()
    assert not is_done("s", done, now(), path, [more])
