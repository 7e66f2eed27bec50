"""Cells: every oddity of the real tables, one by one."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.tables.cells import (
    CellError,
    decode_json_cell,
    decode_plain_cell,
    encode_json_cell,
    normalise_prompt,
    replace_lone_surrogates,
)

FUZZ = settings(deadline=None, max_examples=300, derandomize=True)
TEXT = st.text(max_size=30)
ANY_CHARACTER = st.characters(exclude_categories=())  # st.text() alone leaves out surrogates


@pytest.mark.parametrize(
    ("cell", "turns"),
    [
        pytest.param('["one"]', ["one"], id="one-turn"),
        pytest.param('["one","two"]', ["one", "two"], id="two-turns"),
        pytest.param("[null]", [None], id="null"),
        pytest.param('["one",null,"three"]', ["one", None, "three"], id="null-turn-inside"),
        pytest.param("[]", [], id="empty-array"),
        pytest.param('[""]', [""], id="empty-string"),
        pytest.param('["a\\/b <\\/s>"]', ["a/b </s>"], id="escaped-slash"),
        pytest.param('["\\\\/"]', ["\\/"], id="backslash-before-slash"),
        pytest.param('["\\ud83d\\ude0a"]', ["😊"], id="emoji-as-surrogate-pair"),
        pytest.param('["\\u00e9\\u4e2d"]', ["é中"], id="escaped-letters"),
        pytest.param('["é中😊"]', ["é中😊"], id="unescaped-letters"),
        pytest.param('["a\\nb\\t\\"c\\""]', ['a\nb\t"c"'], id="escapes"),
        pytest.param(' ["one"]\n', ["one"], id="space-around"),
        pytest.param('["null","True","[]"]', ["null", "True", "[]"], id="quoted-literals"),
    ],
)
def test_a_cell_is_decoded_into_its_turns(cell, turns):
    assert decode_json_cell(cell) == turns


@pytest.mark.parametrize("literal", "True true False 1 -1.5 1e9 1_000 null None nan NaN".split())
def test_a_bare_literal_is_an_answer_with_that_text(literal):
    assert decode_json_cell(literal) == [literal]


@pytest.mark.parametrize(
    ("cell", "turns"),
    [
        ("[true]", ["true"]),
        ("[false,null]", ["false", None]),
        ("[1]", ["1"]),
        ("[1.50]", ["1.50"]),
        ("[1e400]", ["1e400"]),
        ("[NaN,-Infinity]", ["NaN", "-Infinity"]),
        ("[" + "9" * 5_000 + "]", ["9" * 5_000]),
    ],
)
def test_a_literal_inside_the_array_keeps_its_text(cell, turns):
    assert decode_json_cell(cell) == turns


@pytest.mark.parametrize("escape", ["\\ud83d", "\\ude0a", "\\ude0a\\ud83d"])
def test_lone_surrogates_are_replaced_and_counted(escape):
    counts = Counter()
    (turn,) = decode_json_cell(f'["x{escape}y"]', counts)
    number = escape.count("\\u")
    assert turn == "x" + "\ufffd" * number + "y"
    assert counts == {"lone surrogates": number}


def test_a_surrogate_pair_is_no_lone_surrogate():
    counts = Counter()
    decode_json_cell('["\\ud83d\\ude0a"]', counts)
    assert not counts
    assert replace_lone_surrogates("😊", counts) == "😊"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "empty cell"),
        ("  ", "empty cell"),
        ("some text", "not a JSON array of turns"),
        ('{"a":"b"}', "not a JSON array of turns"),
        ('"text"', "not a JSON array of turns"),
        ('["one"', "at character"),
        ('["one"] and more', "Extra data at character"),
        ("['one']", "at character 1"),
        ('["a\nb"]', "at character"),
        ('[["one"]]', "a turn is a JSON array"),
        ('[{"a":1}]', "a turn is a JSON object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_cell_that_is_no_array_of_strings_is_reported(cell, message):
    with pytest.raises(CellError, match=message):
        decode_json_cell(cell)


def test_encoding_writes_the_bytes_of_kaggle():
    turns = ['a/b "c" \\d', None, "é😊\n", ""]
    cell = '["a\\/b \\"c\\" \\\\d",null,"\\u00e9\\ud83d\\ude0a\\n",""]'
    assert encode_json_cell(turns) == cell
    assert decode_json_cell(cell) == turns


@pytest.mark.slow
@FUZZ
@given(st.lists(st.none() | TEXT, max_size=5))
def test_encoded_turns_decode_to_themselves(turns):
    assert decode_json_cell(encode_json_cell(turns)) == turns


@st.composite
def mutated_cells(draw):
    """A real-looking cell with a slice cut out and something put in its place."""
    turns = draw(st.lists(st.none() | TEXT, max_size=3))
    cell = draw(st.sampled_from([encode_json_cell(turns), json.dumps(turns, ensure_ascii=False), repr(turns)]))
    start = draw(st.integers(0, len(cell)))
    stop = draw(st.integers(start, min(len(cell), start + 4)))
    inserted = st.sampled_from(["[", "]", '"', "\\", "\\u", "\\ud83d", ",", "null", "1", "{", "NaN", "\x00", ""])
    return cell[:start] + draw(inserted) + cell[stop:]


@FUZZ
@given(st.text(ANY_CHARACTER) | st.text(ANY_CHARACTER).map(lambda text: f"[{text}]") | mutated_cells())
def test_any_text_decodes_or_is_a_cell_error(cell):
    try:
        turns = decode_json_cell(cell, Counter())
    except CellError:
        return
    assert all(turn is None or isinstance(turn, str) for turn in turns)
    "".join(turn or "" for turn in turns).encode("utf-8")  # no surrogate is left to fail a writer


@pytest.mark.parametrize(
    ("cell", "turns"),
    [
        (None, [None]),
        ("text", ["text"]),
        ('["text"]', ['["text"]']),
        ("", [""]),
        (["one", None], ["one", None]),
        ([], []),
        ([True, 1, 1.5], ["True", "1", "1.5"]),
        (True, ["true"]),
        (1, ["1"]),
        ("\ud83d", ["\ufffd"]),
    ],
)
def test_plain_cells_are_taken_as_they_stand(cell, turns):
    assert decode_plain_cell(cell) == turns


@pytest.mark.parametrize("cell", [{"a": 1}, [["one"]], [{"a": 1}]])
def test_a_plain_cell_of_something_else_is_reported(cell):
    with pytest.raises(CellError, match=r"object|array"):
        decode_plain_cell(cell)


@pytest.mark.parametrize(
    "turns",
    [
        ["What is LOVE?"],
        ["what  is\tlove?\n"],
        [" what is", "love? "],
        ["WHAT IS", "", "LOVE?"],
        ["what\u00a0is love?"],
    ],
)
def test_prompts_that_differ_in_case_and_spacing_are_the_same(turns):
    assert normalise_prompt(turns) == "what is love?"


def test_prompts_that_differ_in_more_than_case_and_spacing_are_not():
    assert normalise_prompt(["what is love"]) != normalise_prompt(["what is love?"])
    assert normalise_prompt(["STRASSE"]) == normalise_prompt(["straße"])
