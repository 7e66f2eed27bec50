"""Every row of the table applies to the case it is for, and to no usual run; all are told before weights load."""

from pathlib import Path

import pytest

from tiebreak.cli import main
from tiebreak.compatibility import TABLE, Setting, check_compatibility
from tiebreak.errors import UserError

DOCS = Path(__file__).parent.parent / "docs" / "engines.md"
CASES = {
    "8-bit base under ZeRO-3": Setting("llama", "qlora", bits=8, engine="zero3"),
    "8-bit base under FSDP2": Setting("llama", "qlora", bits=8, engine="fsdp"),
    "8-bit base on a GPU": Setting("llama", "qlora", bits=8, device="cuda"),
    "4-bit base under ZeRO-3": Setting("gemma2", "qlora", engine="zero3"),
    "adapters under FSDP2": Setting("gemma2", "lora", engine="fsdp"),
    "8-bit optimizer under FSDP2": Setting("llama", engine="fsdp", optimizer="adamw-8bit"),
    "8-bit optimizer under ZeRO": Setting("llama", engine="zero2", optimizer="paged-adamw-8bit"),
    "fp16 in training": Setting("deberta-v2", precision="fp16"),
    "SDPA for Gemma-2 or DeBERTa": Setting("gemma2", attention="sdpa"),
    "flash-attn for DeBERTa": Setting("deberta-v2", attention="flash", device="cuda"),
    "bf16 on a CPU": Setting("llama", precision="bf16"),
    "frozen cache without frozen layers": Setting("llama", "lora", frozen_cache=True),
    "frozen cache with changing rows": Setting("deberta-v2", freeze=6, frozen_cache=True, augmented=True),
    "frozen cache under ZeRO-3 or FSDP2": Setting("deberta-v2", freeze=6, frozen_cache=True, engine="fsdp"),
    "LoRA dropout": Setting("llama", "lora", lora_dropout=0.05),
}
USUAL = [
    Setting("gemma2", "qlora", engine="zero2", precision="bf16", device="cuda", attention="flash"),
    Setting("llama", "qlora", bits=8, engine="ddp", optimizer="paged-adamw-8bit"),
    Setting("llama", "full", engine="fsdp", attention="sdpa"),
    Setting("deberta-v2", "full", engine="zero3", lora_dropout=0.1),
    Setting("gemma2", "qlora", precision="fp16", device="cuda", predicting=True),
    Setting("deberta-v2", freeze="backbone", frozen_cache=True, engine="zero2"),
    Setting("deberta-v2", freeze=6, engine="fsdp", augmented=True),
]


def test_every_row_has_a_case():
    assert [row.condition for row in TABLE] == list(CASES)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.condition)
def test_a_row_holds_in_its_case_and_in_no_usual_run(row):
    assert row.holds(CASES[row.condition])
    assert not any(row.holds(setting) for setting in USUAL)
    if row.refuse:
        with pytest.raises(UserError, match=row.condition):
            check_compatibility(CASES[row.condition])
    else:
        assert any(
            row.why in warning and row.thread in warning for warning in check_compatibility(CASES[row.condition])
        )


def test_all_refusals_are_reported_at_once():
    with pytest.raises(UserError) as error:
        check_compatibility(Setting("gemma2", attention="sdpa", precision="fp16"))
    assert "DeBERTa#77" in str(error.value) and "transformers#32390" in str(error.value)


def test_the_docs_have_the_table():
    lines = [
        f"| {row.condition} | {'refused' if row.refuse else 'warning'} | {row.why} | {row.thread} |" for row in TABLE
    ]
    assert "\n".join(lines) in DOCS.read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "model.attention=sdpa"], "no soft-capping"),
        (["--engine", "fsdp", "--set", "model.bits=8"], "int8 weights cannot be cut"),
        (["--set", "train.precision=fp16"], "overflow in fp16"),
    ],
)
def test_refused_before_anything_is_read_or_loaded(options, sentence, tmp_path, capsys, monkeypatch):
    from tiebreak.training import run

    monkeypatch.setattr(run, "read_split", lambda *arguments, **settings: pytest.fail("the table was read first"))
    assert main(["train", "--out", str(tmp_path / "run"), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
