"""What a command may not write over."""

import pytest

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.outputs import RECORDS, refuse_foreign, refuse_over
from tiebreak.terminal import one_line, visible


def test_an_input_is_no_output_by_any_name(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("x")
    (tmp_path / "link.csv").symlink_to(table)
    for name in ("t.csv", "link.csv", "../" + tmp_path.name + "/t.csv"):
        with pytest.raises(UserError, match=r"t\.csv"):
            refuse_over(tmp_path / name, [table])
    refuse_over(tmp_path / "other.csv", [table, tmp_path / "absent.csv"])


@pytest.mark.parametrize("name", RECORDS)
def test_a_folder_of_another_command_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("{}")
    refuse_foreign(tmp_path, name)
    with pytest.raises(UserError, match=name):
        refuse_foreign(tmp_path)


def test_what_a_terminal_obeys_is_shown_escaped():
    assert visible("a\x1b[2J\rb\n\tc\u202e") == "a\\x1b[2J\\rb\n\tc\\u202e"
    assert one_line("a\nb") == "a\\nb"
    assert visible("žluťoučký 中文 👍") == "žluťoučký 中文 👍"


@pytest.mark.parametrize("words", [["check", ""], ["check", "a\nb.csv"], ["train", "--out", ""]])
def test_words_that_are_no_names_are_told(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
