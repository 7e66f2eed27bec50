"""YAML and JSON as users write them: faults are told by file and line."""

import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.pipeline.ablation import run_ablation
from tiebreak.pipeline.recipe import load_pipeline
from tiebreak.structured import parse_yaml, read_json, read_yaml

DOUBLED = """\
model: {base: demo-llama2}
train: {max_steps: 2}
data:
  swap: none
  share: 0.5
train: {batch_size: 8}
"""


def test_a_section_that_stands_twice_is_told_with_both_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(DOUBLED)
    for load in (lambda: load_recipe(str(path)), lambda: load_pipeline(str(path)), lambda: read_yaml(path)):
        with pytest.raises(UserError, match=r"mine\.yaml.*'train' stands twice, in line 2 and in line 6"):
            load()
    with pytest.raises(UserError, match="'train' stands twice"):
        run_ablation(str(path), tmp_path / "out")


def test_a_key_that_stands_twice_is_found_at_any_depth_and_in_a_change():
    with pytest.raises(ValueError, match="'b' stands twice, in line 3 and in line 4"):
        parse_yaml("a:\n  - c: 1\n    b: 2\n    'b': 3\n")
    with pytest.raises(UserError, match="'r' stands twice"):
        load_recipe("demo-gemma2", ["model.lora={r: 8, r: 16}"])


def test_merged_mappings_may_be_overridden():
    text = "base: &b {x: 1, y: 1}\nmore: &m {<<: *b, x: 2}\nlast: {<<: *m, y: 3}\n"
    assert parse_yaml(text)["last"] == {"x": 2, "y": 3}


def test_a_date_is_text():
    assert parse_yaml("name: 2026-11-25") == {"name": "2026-11-25"}
    assert load_recipe("demo-gemma2", ["name=2026-11-25"]).name == "2026-11-25"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "2024-13-45",
            "2024-02-31",
            "0x_",
            "0b_",
            "!!int x",
            "!!int ''",
            "!!bool maybe",
            "!!float x",
            "!!timestamp x",
        ),
        *(
            "!!python/object/apply:os.getcwd []",
            "!mine 3",
            "*absent",
            "&a [*a]",
            "9" * 5000,
            "0x" + "f" * 5000,
            "[" * 5000,
            "{[1]: 2}",
        ),
        *("\x07", "!!binary é", "? [a]\n: 1"),
    ],
    ids=lambda value: value[:20],
)
def test_any_value_that_is_no_number_is_one_message(value, capsys):
    assert main(["recipes", "demo-gemma2", "--set", f"train.lr={value}"]) == 2
    told = capsys.readouterr().err
    assert "train.lr" in told and len(told) < 1000


def test_aliases_that_expand_without_end_are_told_shortly(tmp_path, capsys):
    lists = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    path = tmp_path / "laughs.yaml"
    path.write_text("\n".join([*lists, "model: {base: demo-llama2}", "train: {lr: *a39}", ""]))
    assert main(["recipes", str(path)]) == 2
    told = capsys.readouterr().err
    assert "train.lr" in told and len(told) < 10_000
    merged = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    path.write_text("\n".join([*merged, ""]))
    with pytest.raises(UserError, match="keys are merged into one mapping"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "holds list"),
        ("{", "not readable as JSON"),
        ("\xff", "not readable as JSON"),
    ],
    ids=lambda value: value[:12],
)
def test_json_that_is_no_plain_object(tmp_path, content, fact):
    path = tmp_path / "ds.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=fact) as error:
        read_json(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 500


def test_a_file_of_too_many_values_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("tiebreak.structured.MAX_NODES", 100)
    assert len(parse_yaml("".join(f"f{n}: 1\n" for n in range(40)))) == 40
    with pytest.raises(ValueError, match="line 50: more than 100 keys and values"):
        parse_yaml("".join(f"f{n}: 1\n" for n in range(60)) + "what follows: [is not looked at")
