"""The model card: as the hub reads it, true to the run, and updated by a report."""

import json
import re
import sys

import pytest
from huggingface_hub import ModelCard

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.evaluation.schema import Report
from tiebreak.labels import CLASSES
from tiebreak.process import configure_logging
from tiebreak.report.card import BEGIN, END, leave_card, open_card, render_card, render_usage, write_card

pytestmark = pytest.mark.slow


def test_the_hub_reads_the_card_of_a_run(judged):
    card = ModelCard.load(judged.run / "model" / "README.md")
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "text-classification"
    assert card.data.base_model is None, "a built-in demo model is not on the hub"
    metrics = json.loads((judged.run / "metrics.json").read_text())["validation"]["model"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        name: metrics[name] for name in ("log_loss", "accuracy", "macro_f1")
    }
    for part in ("## Data", "## Scores", "## Bias", "## Limits", "## Recipe", "Held out: fold 0/10", "sample.csv"):
        assert part in card.text
    assert f"| this model | {metrics['log_loss']:.4f}" in card.text
    assert "[More Information Needed]" not in card.text


def test_a_base_from_the_hub_and_a_run_without_held_out_rows():
    recipe = {"name": "g", "model": {"base": "google/gemma-2-9b-it", "method": "full"}, "data": {}, "train": {}}
    environment = {"data": ["/x/train.csv"], "rows_trained": 9, "rows_held_out": 0, "valid": "none", "fold": None}
    metrics = {"steps": 3, "best_step": 3, "validation": {}}
    card = ModelCard(render_card(recipe, environment | {"versions": {"torch": "2", "deepspeed": None}}, metrics))
    assert card.data.base_model == "google/gemma-2-9b-it" and card.data.library_name == "transformers"
    assert "No rows were held out" in card.text and "`train.csv`" in card.text and "/x/" not in card.text


def test_a_report_fills_in_the_bias_table_again_and_again(judged, tmp_path, capsys):
    path = write_card(judged.run)
    before = path.read_text(encoding="utf-8")
    command = ["report", str(judged.swapped), "--labels", str(judged.table), "--out", str(tmp_path)]
    command += ["--attacked", str(judged.attacked), "--model", str(judged.run), "--resamples", "100"]
    texts = []
    for _ in range(2):
        assert main(command) == 0
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    judge = Report.model_validate_json((tmp_path / "metrics.json").read_text()).judges[0]
    inside = texts[0].partition(BEGIN)[2].partition(END)[0]
    for part in ("shown first", "swapped", "longer answer", "saying everything twice", "150 rows of `table.csv`"):
        assert part in inside
    assert f"{judge.scores.log_loss.value:.4f}" in inside
    assert texts[0].replace(inside, "") == before.replace(before.partition(BEGIN)[2].partition(END)[0], "")
    ModelCard.load(path)
    path.write_text("nothing of ours", encoding="utf-8")
    assert main(command) == 2
    assert "put them back" in capsys.readouterr().err
    write_card(judged.run)


def test_a_run_never_fails_for_want_of_its_card(tmp_path, capsys):
    configure_logging()
    leave_card(tmp_path)
    assert "no model card" in capsys.readouterr().out


def test_the_usage_of_the_card_runs_and_answers_with_the_names_of_the_classes(judged, run):
    """The lines for transformers and peft alone, as they stand in the card of a model with adapters."""
    text = (judged.run / "model" / "README.md").read_text(encoding="utf-8")
    own, plain = re.findall(r"```python\n(.*?)```", text, re.S)
    assert "Judge.load" in own
    printed = run(sys.executable, "-c", f"import os\nos.chdir({str(judged.run / 'model')!r})\n{plain}").stdout
    assert all(f"'label': '{name}'" in printed for name in CLASSES)


def test_a_head_that_only_this_package_loads_is_said_so():
    assert "Judge.load" in render_usage(None) and render_usage(None).count("```python") == 1


@pytest.mark.parametrize("name", ["README.md", "tiebreak.json"])
def test_the_card_stands_in_the_model_folder(judged, name):
    assert (judged.run / "model" / name).is_file()


def test_a_card_that_is_published_names_no_place_and_holds_no_markup():
    from tiebreak.report.markdown import as_code, as_text, without_place, without_places

    assert without_places("fold (/root/runs/oof) saw rows of /work/a/t.csv; see https://a/b, a/b") == (
        "fold (oof) saw rows of t.csv; see https://a/b, a/b"
    )
    assert without_place("/work/models/gemma") == "gemma" and without_place("google/gemma-2-9b") == "google/gemma-2-9b"
    assert as_text("<b>x</b> [y](z)\n# q") == "&lt;b&gt;x&lt;/b&gt; \\[y\\](z)\\\\n\\# q"
    assert as_code("a`<b>\nc") == "`a'<b>\\nc`"


@pytest.mark.parametrize("content", [bytes(range(256)), b"# card", b"a" * (5 << 20)], ids=["binary", "plain", "large"])
def test_a_card_that_cannot_take_a_report_is_told(tmp_path, content):
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(UserError, match=r"README\.md"):
        open_card(tmp_path)
