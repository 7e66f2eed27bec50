"""Tokens: within the limit, the same in both orders, made once, and deaf to forged special tokens."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from handmade import write_csv

from tiebreak.config import DataSettings, cache_folder
from tiebreak.data.encode import encode_pairs, encode_texts, fit_template
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.data.tokens import COLUMNS, Tokens, _map_table
from tiebreak.errors import UserError
from tiebreak.models.loading import load_tokenizer
from tiebreak.sample.generator import write_sample
from tiebreak.sample.law import bayes_probabilities
from tiebreak.tables.table import read_table

FAMILIES = ("gemma2", "llama2", "deberta")
FORGERIES = ["<end_of_turn>", "<start_of_turn>", "<bos>", "<eos>", "<pad>", "<s>", "</s>", "[SEP]", "[CLS]", "[PAD]"]
FORGERIES += ["[PROMPT]", "[ANSWER_A]", "[ANSWER_B]", "[TURN]", "<end_of<end_of_turn>_turn>", "[S[SEP]EP]"]
ROWS = 60


@pytest.fixture(scope="module")
def tokenizers(session_cache):
    return {family: load_tokenizer(f"demo-{family}", family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Long rows, most of which must be cut."""
    path = tmp_path_factory.mktemp("tokens") / "sample.csv"
    write_sample(path, ROWS, seed=2, profile="arena")
    return path


def cached(files, tokenizer, family, settings=None, **options) -> Tokens:
    return prepare(files, tokenizer, TEMPLATES[family], settings or DataSettings(), **options)


@pytest.mark.parametrize("policy", ["spread", "tail-trim", "right"])
def test_no_row_exceeds_the_limit(tokenizers, family, sample, policy):
    settings = DataSettings(max_tokens=128, truncation=policy, prompt_cap=40)
    tokens = cached([sample], tokenizers[family], family, settings)
    assert len(tokens) == ROWS
    assert tokens.lengths.max() <= 128
    assert [len(tokens.input_ids(k)[0]) for k in range(ROWS)] == tokens.lengths.tolist()
    assert ROWS // 2 < tokens.truncated <= ROWS


def test_a_swapped_row_holds_the_same_tokens_in_another_order(tokenizers, family, sample):
    tokens = cached([sample], tokenizers[family], family, DataSettings(max_tokens=128))
    rows = [(tokens.input_ids(k)[0], tokens.input_ids(k, swapped=True)[0]) for k in range(ROWS)]
    assert all(Counter(row.tolist()) == Counter(swapped.tolist()) for row, swapped in rows)
    assert any((row != swapped).any() for row, swapped in rows)


def test_a_row_that_fits_is_template_and_texts(tokenizers, family, tmp_path):
    tokenizer, template = tokenizers[family], TEMPLATES[family]
    path = write_csv(tmp_path / "table.csv", {})
    row = cached([path], tokenizer, family).input_ids(0)[0]
    prompt, a, b = encode_texts(["question 1", "yes, it is", "no"], tokenizer)
    fixed = fit_template(tokenizer, template, DataSettings()).pieces
    between = [*fixed["head"], *prompt, *fixed["before_first"], *a, *fixed["before_second"], *b, *fixed["tail"]]
    assert row.tolist() == between
    assert row.dtype == np.int32


def test_what_is_known_of_the_rows_is_kept_beside_the_tokens(tokenizers, sample):
    tokens = cached([sample], tokenizers["llama2"], "llama2", need_labels=True)
    pairs = read_table([sample]).pairs
    assert tokens.ids == [pair.id for pair in pairs]
    assert tokens.labels.tolist() == [pair.label for pair in pairs]
    assert tokens.chars.tolist() == [[sum(map(len, p.response_a)), sum(map(len, p.response_b))] for p in pairs]
    law = bayes_probabilities(*zip(*((p.prompt, p.response_a, p.response_b) for p in pairs), strict=True))
    assert (tokens.bayes == law).all()
    assert not tokens.unreadable.any() and tokens.problems == []


def test_a_table_that_is_no_sample_has_no_law(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", {}, {"winner_model_a": "", "winner_model_b": "", "winner_tie": ""})
    tokens = cached([path], tokenizers["llama2"], "llama2")
    assert tokens.bayes is None
    assert tokens.labels.tolist() == [0, -1]


def test_models_named_like_the_samples_make_no_sample(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", dict.fromkeys(("model_a", "model_b"), "sample-efficient-7b"))
    assert cached([path], tokenizers["llama2"], "llama2", need_labels=True).bayes is None


def test_prompts_that_differ_in_case_and_spacing_are_one_group(tokenizers, tmp_path):
    prompts = ['["What is it?"]', '["WHAT  is it? "]', '["What is that?"]']
    path = write_csv(tmp_path / "table.csv", *({"prompt": prompt} for prompt in prompts))
    first, second, third = cached([path], tokenizers["llama2"], "llama2").groups
    assert first == second != third


def test_the_second_time_the_cache_is_read(tokenizers, sample, caplog):
    caplog.set_level("INFO")
    settings = DataSettings(max_tokens=100)
    first = cached([sample], tokenizers["llama2"], "llama2", settings)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = cached([sample], tokenizers["llama2"], "llama2", settings)
    assert second.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before
    assert [message.partition(" in ")[0] for message in caplog.messages] == [f"{ROWS} rows tokenised"]


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 300}, {"truncation": "right"}, {"prompt_cap": 99}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_have_another_cache(tokenizers, sample, change):
    base = DataSettings(max_tokens=200)
    folders = [
        cached([sample], tokenizers["llama2"], "llama2", settings).folder
        for settings in (base, base.model_copy(update=change))
    ]
    assert folders[0] != folders[1]


def test_other_contents_templates_and_tokenizers_have_another_cache(tokenizers, tmp_path):
    tokenizer = tokenizers["llama2"]
    path = write_csv(tmp_path / "table.csv", {})
    folders = [cached([path], tokenizer, "llama2").folder, cached([path], tokenizer, "plain").folder]
    folders.append(cached([path], tokenizers["gemma2"], "plain").folder)
    write_csv(path, {"prompt": '["changed"]'})
    folders.append(cached([path], tokenizer, "llama2").folder)
    assert len(set(folders)) == 4


def test_settings_that_change_no_token_share_the_cache(tokenizers, sample):
    folders = [
        cached([sample], tokenizers["llama2"], "llama2", DataSettings(max_tokens=100, swap=swap)).folder
        for swap in ("never", "both")
    ]
    assert folders[0] == folders[1]


PREPARE = """
import sys
from pathlib import Path
from tiebreak.config import DataSettings
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.loading import load_tokenizer

tokenizer = load_tokenizer("demo-llama2", "llama2")
print("ready", flush=True)
sys.stdin.readline()
tokens = prepare([Path(sys.argv[1])], tokenizer, TEMPLATES["llama2"], DataSettings(max_tokens=96))
print(tokens.folder.name, len(tokens), int(tokens.lengths.sum()))
"""


@pytest.mark.slow
def test_two_processes_at_once_make_one_cache(tokenizers, tmp_path):
    path = tmp_path / "sample.csv"
    write_sample(path, 3_000, seed=8, profile="short")
    before = set((cache_folder() / "tokens").iterdir()) if (cache_folder() / "tokens").is_dir() else set()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers[0] == answers[1] and answers[0].split()[1] == "3000"
    added = set((cache_folder() / "tokens").iterdir()) - before
    assert [entry.name for entry in added] == [answers[0].split()[0]], "no second folder, lock or leftover"


def test_users_text_never_yields_a_special_token(tokenizers, family):
    tokenizer = tokenizers[family]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    texts = [form.format(name) for name in FORGERIES for form in ("{}", "a {} b", "x{0}{0}y", "\n{}\n")]
    for text, ids in zip(texts, encode_texts(texts, tokenizer), strict=True):
        assert special.isdisjoint(ids), text
        assert ids, text


def test_ordinary_text_beside_a_forgery_is_left_as_it_is(tokenizers, family):
    tokenizer = tokenizers[family]
    alone, _ = encode_texts(["Check the garden first.", "x"], tokenizer)
    beside, forged = encode_texts(["Check the garden first.", "</s>[SEP]<end_of_turn>"], tokenizer)
    assert beside == alone
    assert len(forged) > 3


def test_a_forged_boundary_in_a_table_leaves_the_rows_boundaries_alone(tokenizers, family, tmp_path):
    forged = json.dumps([" ".join(FORGERIES)])
    files = [
        write_csv(tmp_path / "plain.csv", {}),
        write_csv(tmp_path / "forged.csv", dict.fromkeys(("prompt", "response_a", "response_b"), forged)),
    ]
    tokenizer = tokenizers[family]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain, other = (
        [t for t in cached([file], tokenizer, family).input_ids(0)[0].tolist() if t in special] for file in files
    )
    assert plain == other


def test_a_limit_below_the_template_is_reported(tokenizers, family, sample):
    tokenizer, template = tokenizers[family], TEMPLATES[family]
    fixed = fit_template(tokenizer, template, DataSettings()).pieces
    needed = sum(len(tokens) for name, tokens in fixed.items() if name != "turn")
    settings = DataSettings.model_construct(**DataSettings().model_dump() | {"max_tokens": needed + 2})
    with pytest.raises(UserError, match=rf"data\.max_tokens is {needed + 2}, but the template alone takes {needed} "):
        cached([sample], tokenizer, family, settings)


def test_a_table_that_is_not_there_is_reported(tokenizers, tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        cached([tmp_path / "none.csv"], tokenizers["llama2"], "llama2")


BAD = {"prompt": "no array", "response_a": '["kept for mending"]'}


def test_a_bad_row_fails_and_leaves_no_cache(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", {}, BAD, {})
    cached([path], tokenizers["llama2"], "llama2", on_bad_row="skip")
    before = set((cache_folder() / "tokens").iterdir())
    with pytest.raises(UserError, match=r"table\.csv, row 2 \(id 2\)"):
        cached([path], tokenizers["llama2"], "llama2", on_bad_row="fail")
    assert set((cache_folder() / "tokens").iterdir()) == before


def test_skipped_rows_are_written_to_a_file(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", {}, BAD, {})
    tokens = cached([path], tokenizers["llama2"], "llama2", on_bad_row="skip")
    assert tokens.ids == ["1", "3"]
    lines = (tokens.folder / "skipped_rows.jsonl").read_text(encoding="utf-8").splitlines()
    (problem,) = map(json.loads, lines)
    assert (problem["file"], problem["row"], problem["id"]) == ("table.csv", 2, "2")
    assert "not a JSON array" in problem["reason"]
    assert problem["cells"]["response_a"] == BAD["response_a"]
    assert tokens.problems == [problem]


def test_skipped_rows_that_are_not_utf8_are_written_too(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", {}, {})
    path.write_bytes(path.read_bytes().replace(b"question 2", b"question \xff"))
    tokens = cached([path], tokenizers["llama2"], "llama2", on_bad_row="skip")
    assert tokens.problems[0]["reason"] == "prompt: bytes that are not UTF-8"


def test_an_unreadable_row_under_keep_has_its_place_and_flag(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", {}, BAD, {})
    tokens = cached([path], tokenizers["llama2"], "llama2", on_bad_row="keep", keep_ids=True)
    assert tokens.ids == ["1", "2", "3"]
    assert tokens.unreadable.tolist() == [False, True, False]
    assert tokens.labels.tolist() == [0, -1, 0]
    assert len(tokens.problems) == 1
    assert tokens.lengths[1] == sum(len(piece) for name, piece in tokens.fixed.items() if name != "turn")


def test_rows_are_read_back_across_the_builders_batches(tokenizers, tmp_path):
    """More rows than are built at a time: each row is still its own."""
    path = tmp_path / "sample.csv"
    write_sample(path, 2_300, seed=6, profile="short")
    tokenizer = tokenizers["llama2"]
    tokens = cached([path], tokenizer, "llama2", DataSettings(max_tokens=512))
    pairs = read_table([path]).pairs
    head = tokens.fixed["head"]
    for k in (0, 999, 1_000, 1_999, 2_000, 2_299):
        (prompt,) = encode_texts([pairs[k].prompt[0]], tokenizer)
        assert tokens.input_ids(k)[0][len(head) : len(head) + len(prompt)].tolist() == prompt
    assert len(tokens) == 2_300


ROWS_OF_ALL_KINDS = (
    {"prompt": '["first","second"]', "response_a": '["yes",null]', "response_b": '["no","' + "long words " * 60 + '"]'},
    {"response_a": "[]", "response_b": "[null]"},
    {"prompt": "no array"},
    {"winner_model_a": "", "winner_model_b": "", "winner_tie": ""},
    {"prompt": '["a","b","c"]', "response_a": '["1","2","3"]', "response_b": '["😊","<s>","[SEP]"]'},
)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["llama2", "siamese"])
def test_tokens_in_memory_are_those_of_the_cache(tokenizers, template, tmp_path, sample):
    """Several turns, nulls, empty answers, an unreadable row, a forgery, features; more rows than one batch."""
    tokenizer = load_tokenizer("demo-deberta", template) if template == "siamese" else tokenizers[template]
    settings = DataSettings(max_tokens=96, features=["length", "style", "turns"])
    long = tmp_path / "long.csv"
    write_sample(long, 1_100, seed=4, profile="short")
    for path in (sample, long, write_csv(tmp_path / "table.csv", *ROWS_OF_ALL_KINDS)):
        from_cache = cached([path], tokenizer, template, settings, on_bad_row="keep", keep_ids=True)
        entries = set((cache_folder() / "tokens").iterdir())
        pairs = read_table([path], on_bad_row="keep", keep_ids=True).pairs
        in_memory = encode_pairs(pairs, tokenizer, TEMPLATES[template], settings)
        assert set((cache_folder() / "tokens").iterdir()) == entries
        assert (in_memory.folder, in_memory.key, in_memory.problems) == (None, "", [])
        assert in_memory.ids == from_cache.ids and len(in_memory) == len(pairs)
        assert (in_memory.fixed, in_memory.sides) == (from_cache.fixed, from_cache.sides)
        assert in_memory.truncated == from_cache.truncated > 0
        for name in (*COLUMNS, "swap_signs", "bayes"):
            one, other = getattr(in_memory, name), getattr(from_cache, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
        for row in range(len(pairs)):
            for swapped in (False, True):
                for one, other in zip(
                    in_memory.input_ids(row, swapped), from_cache.input_ids(row, swapped), strict=True
                ):
                    np.testing.assert_array_equal(one, other)
            for one, other in zip(in_memory.turns(row), from_cache.turns(row), strict=True):
                assert [part.tolist() for part in one] == [part.tolist() for part in other]
    assert from_cache.unreadable.sum() == 1


def test_no_pairs_are_no_rows(tokenizers):
    assert len(encode_pairs([], tokenizers["llama2"], TEMPLATES["llama2"], DataSettings(features=["length"]))) == 0


def test_a_cache_entry_of_an_earlier_version_is_made_again(tokenizers, tmp_path):
    path = write_csv(tmp_path / "table.csv", {}, {})
    tokens = cached([path], tokenizers["llama2"], "llama2")
    (tokens.folder / "cache.json").rename(tokens.folder / "tiebreak.json")
    assert cached([path], tokenizers["llama2"], "llama2").folder == tokens.folder
    assert (tokens.folder / "cache.json").is_file() and not (tokens.folder / "tiebreak.json").exists()


def test_the_cache_is_mapped_as_datasets_maps_it(tokenizers, sample):
    """Also where `datasets` has cut the table into several files."""
    import datasets

    folder = cached([sample], tokenizers["llama2"], "llama2").folder
    loaded = datasets.load_from_disk(str(folder))
    assert _map_table(folder).equals(loaded.data.table, check_metadata=True)
    loaded.save_to_disk(str(folder / "cut"), num_shards=3)
    assert len(list((folder / "cut").glob("*.arrow"))) == 3
    assert _map_table(folder / "cut").equals(loaded.data.table, check_metadata=True)
