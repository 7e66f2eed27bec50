"""`tiebreak check`: counts, problems by row, leaks, and the exit code."""

import subprocess
import sys

import pytest

from tiebreak.cli import main
from tiebreak.labels import CLASSES, NO_LABEL, describe_absent
from tiebreak.sample.generator import write_sample


def winner(*values) -> dict:
    return dict(zip(CLASSES, values, strict=True))


@pytest.fixture
def check(capsys):
    """Run the command: exit code, standard output, standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        code = main(["check", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_counts_and_class_shares(check, write_table):
    path = write_table(winner(1, 0, 0), winner(1, 0, 0), winner(0, 1, 0), winner(0, 0, 1))
    code, out, err = check(path)
    assert (code, err) == (0, "")
    assert out.startswith("table.csv: 4 rows, 0 bad rows\n")
    assert "classes: A 2 (50.0%), B 1 (25.0%), tie 1 (25.0%)\n" in out


def test_unlabelled_rows_are_counted_beside_the_classes(check, write_table):
    _, out, _ = check(write_table({}, winner("", "", "")))
    assert "A 1 (100.0%), B 0 (0.0%), tie 0 (0.0%); unlabelled 1 (training refuses these; --on-bad-row skip " in out
    assert "no ties" in out


def test_a_table_without_labels_says_so(check, write_table):
    code, out, _ = check(write_table({}, columns=("id", "prompt", "response_a", "response_b")))
    assert code == 0 and "no labels: none of the columns winner, " in out and "classes" not in out
    assert "winner_tie; other columns: none\n" in out
    _, out, _ = check(write_table(winner("", "", "")))
    assert "no labels: the winner columns are empty (training refuses these; " in out


def test_a_misnamed_label_column_is_named(check, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,prompt,response_a,response_b,verdict\n1,p,a,b,A\n")
    code, out, _ = check(path)
    assert code == 0 and out.startswith("mine.csv: 1 row, 0 bad rows\nno labels: none of the columns winner, label, ")
    assert "; other columns: verdict\n" in out


def test_turns_and_lengths(check, write_table):
    two = {"prompt": '["12345","12345"]', "response_a": '["12345","1"]', "response_b": '["1",null]'}
    _, out, _ = check(write_table({"prompt": '["1234"]', "response_a": '["12"]', "response_b": '["1"]'}, two))
    assert "turns: 1 row with several (50.0%), at most 2" in out
    sizes = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert (sizes["prompt"][0], sizes["prompt"][-1]) == ("7", "10")
    assert sizes["answers"][-1] == "6" and sizes["row"][-1] == "17"


def test_oddities_are_listed(check, write_table):
    odd = {"response_a": '["\\ud83d"]', "response_b": "[]"}
    _, out, _ = check(write_table(odd, {"response_a": "[null]"}))
    assert "unusual encodings that were handled: empty arrays 1, lone surrogates 1, null turns 1" in out


def test_every_problem_is_reported_by_row_and_fails(check, write_table):
    bad = [{"prompt": "broken"}, {"response_b": '["a","b"]'}, winner(1, 1, 0), {"id": 1}, {"id": ""}]
    code, out, err = check(write_table({}, *bad * 3, {}))
    assert code == 2
    assert out.startswith("table.csv: 2 rows, 15 bad rows\n")
    lines = [line for line in out.splitlines() if line.startswith("bad row: ")]
    reasons = ["not a JSON array", "2 turns", "1, 1, 0", "this file, row 1", "no id"] * 3
    for row, (line, reason) in enumerate(zip(lines, reasons, strict=True), 2):
        assert line.startswith(f"bad row: table.csv, row {row}") and reason in line
    assert "15 bad rows" in err and "--on-bad-row=skip" in err


def test_many_bad_rows_of_one_reason_share_a_line_that_has_their_numbers(check, tmp_path):
    path = tmp_path / "mine.csv"
    winners = ["draw", "A", "draw", "draw", "draw", "B", "none", "tie", "draw"]
    rows = (f"{row},p{row},a,b,{winner}\n" for row, winner in enumerate(winners, 1))
    path.write_text("id,prompt,response_a,response_b,winner\n" + "".join(rows))
    code, out, _ = check(path)
    assert code == 2 and "\n6 bad rows with nothing wrong but the label: " in out
    told = [line for line in out.splitlines() if "not one of" in line]
    assert len(told) == 2 and told[1].startswith("bad row: mine.csv, row 7 (id 7): winner is 'none', not one of ")
    assert told[0].startswith("5 bad rows: mine.csv, rows 1, 3-5, 9: winner is 'draw', not one of model_a, ")


@pytest.mark.parametrize(
    ("name", "values", "said"), [("winner", "0 1 2", True), ("label", "1.0  0.0", True), ("winner", "A 1 2", False)]
)
def test_it_says_how_labels_that_are_numbers_are_read(check, tmp_path, name, values, said):
    path = tmp_path / "mine.csv"
    rows = (f"{row},p{row},a,b,{value}\n" for row, value in enumerate(values.split(" ")))
    path.write_text(f"id,prompt,response_a,response_b,{name}\n" + "".join(rows))
    code, out, _ = check(path)
    assert code == 0 and ("\nthe labels are numbers, read as 0 = A, 1 = B, 2 = tie\n" in out) == said


def test_a_table_of_bad_rows_alone_is_described(check, write_table):
    code, out, _ = check(write_table({"prompt": "[broken]"}))
    assert code == 2 and out.startswith("table.csv: 0 rows, 1 bad row")


@pytest.mark.parametrize(
    "place",
    [
        b"question 2",
        pytest.param(b"1,0,0\n2"),
    ],
    ids=["text", "winner"],
)
def test_a_row_that_is_not_utf8_is_reported(check, write_table, place):
    path = write_table({}, {})
    path.write_bytes(path.read_bytes().replace(place, b"\xff" + place[1:]))
    code, out, _ = check(path)
    assert code == 2 and "bad row: table.csv, row" in out


def test_an_unusable_file_is_one_message(check, tmp_path):
    code, out, err = check(tmp_path / "none.csv")
    assert (code, out) == (2, "")
    assert err == f"tiebreak: error: {tmp_path / 'none.csv'}: no such file\n"


def test_identical_answers_with_a_winner_are_named(check, write_table):
    same = {"response_a": '["same"]', "response_b": '["same"]'}
    code, out, _ = check(write_table({}, same, same | winner(0, 0, 1), {"response_a": "[null]", "response_b": '[""]'}))
    assert code == 0, "odd, but usable"
    assert "identical answers with a winner: 1 row\n  table.csv, row 2 (id 2)\n" in out
    assert "both answers empty: 1 row" in out


def test_duplicates_and_repeated_prompts_are_counted(check, write_table):
    prompts = [{"prompt": f'["{text}"]'} for text in ("What is it?", "What is it?", "WHAT  is it?", "Another?")]
    _, out, _ = check(write_table(*prompts))
    assert "exact duplicates: 1 row" in out
    assert "prompts that occur more than once (case and spacing folded): 1, in 3 rows" in out


def test_the_longer_answers_wins_are_counted(check, write_table):
    rows = [winner(1, 0, 0), winner(1, 0, 0), winner(0, 1, 0), winner(0, 0, 1)]
    _, out, _ = check(write_table(*({"response_a": '["long one"]', "response_b": '["b"]'} | row for row in rows)))
    assert "the longer answer wins 66.7% of decided rows" in out


def test_several_files_are_counted_together(check, write_table):
    code, out, _ = check(write_table({}, name="one.csv"), write_table({}, {"id": 7}, name="two.csv"))
    assert code == 0
    assert out.startswith("one.csv, two.csv: 3 rows, 0 bad rows\n")
    assert "ids of an earlier file (renamed in training) 1" in out
    assert "prompts in more than one of these files: 1" in out


def test_prompts_shared_with_a_test_table_are_reported(check, write_table):
    train = write_table({"prompt": '["What is it?"]'}, {"prompt": '["Mine"]'}, name="train.csv")
    shared = [{"prompt": '["what is  IT?"]'}, {"prompt": '["what is it?"]'}, {"prompt": '["Yours"]'}]
    code, out, _ = check(train, "--test", write_table(*shared, name="test.csv"))
    assert code == 0
    assert "test.csv: 3 rows, 0 bad rows" in out
    assert "prompts in both train.csv and test.csv: 1, in 2 rows of the second\n" in out


def test_a_bad_row_of_the_test_table_fails_too(check, write_table):
    code, out, _ = check(write_table({}, name="train.csv"), "--test", write_table({"id": ""}, name="test.csv"))
    assert code == 2 and "bad row: test.csv, row 1: no id" in out


CHECK = """
import sys, time
from tiebreak.cli import main
started = time.process_time()
code = main(["check", sys.argv[1]])
# Not ru_maxrss: a child begins with its parent's.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(code, time.process_time() - started, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.slow
def test_a_table_of_kaggles_size_takes_seconds(tmp_path):
    """57,477 rows of the real lengths, 180 MB; CPU time, which other processes on the machine do not lengthen."""
    write_sample(tmp_path / "arena.csv", 57_477)
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path / "arena.csv")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("arena.csv: 57,477 rows, 0 bad rows\n")
    code, seconds, kibibytes = map(float, done.stdout.splitlines()[-1].split())
    assert code == 0
    assert seconds < 20
    assert kibibytes < 1.5 * 2**20


@pytest.mark.parametrize(
    ("labels", "told"),
    [([0, 1, 2], None), ([0, 1], "no ties"), ([0], "no rows that B wins, no ties"), ([1, 2], "no rows that A wins")],
)
def test_absent_classes_are_told(labels, told):
    said = describe_absent([*labels, None, NO_LABEL])
    assert said is None if told is None else said.startswith(f"{told}: a judge trained on this table alone")
