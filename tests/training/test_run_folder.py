"""What a run folder answers to a run that is not the one begun in it."""

import pytest

import tiebreak
from tiebreak.cluster.ranks import Ranks
from tiebreak.config import load_recipe
from tiebreak.data.split import RowsManifest
from tiebreak.errors import UserError
from tiebreak.sample.generator import write_sample
from tiebreak.training.run_folder import open_folder

ROWS = RowsManifest(data=["t.csv"], tokens="x", valid="none", rows_trained=3, rows_held_out=0)


def begin(folder, changes=(), recipe="demo-deberta"):
    return open_folder(folder, load_recipe(recipe, changes), ROWS, True, Ranks())


@pytest.mark.parametrize(
    ("recipe", "way"), [("demo-deberta", "--model {0}/model"), ("demo-llama2", "merge-adapters {0}")]
)
def test_more_epochs_of_a_run_that_is_done_are_told_how_to_come_by(tmp_path, recipe, way):
    folder = tmp_path / "run"
    begin(folder, ["train.epochs=1"], recipe)
    with pytest.raises(UserError, match=r"train\.epochs: 1\.0 then, 3\.0 now") as unfinished:
        begin(folder, ["train.epochs=3"], recipe)
    assert "anew" not in str(unfinished.value)
    (folder / "model").mkdir()
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"train\.epochs: 1\.0 then, 3\.0 now") as finished:
        begin(folder, ["train.epochs=3"], recipe)
    assert "start anew" in str(finished.value) and way.format(folder) in str(finished.value)


@pytest.mark.parametrize("content", ["", "- 1\n", "model: 3\n", "model: {}\nmodel: {}\n", "model: [\n", "\x07"])
def test_a_damaged_recipe_is_named(tmp_path, content):
    begin(tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text(content)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        begin(tmp_path / "run")


def test_checkpoints_of_a_run_that_nothing_tells_of_are_not_gone_on_with(tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000003").mkdir(parents=True)
    with pytest.raises(UserError, match="checkpoints"):
        begin(tmp_path / "run")


def test_a_folder_that_is_removed_under_its_run_is_told(tmp_path):
    claim, _, _ = begin(tmp_path / "run")
    (tmp_path / "run" / "claim.json").unlink()
    with pytest.raises(UserError, match="removed"):
        claim.check()


def test_a_run_whose_rows_are_gone_at_its_end_is_not_called_done(tmp_path):
    """Such a folder would look whole, and could not be gone on with."""
    folder, table = tmp_path / "run", tmp_path / "table.csv"
    write_sample(table, 40, profile="short")
    settings = {"train.max_steps": 1, "data.max_tokens": 64, "train.batch_size": 4}
    with pytest.raises(UserError, match=r"rows\.json is gone"):
        tiebreak.train(
            "demo-deberta", data=table, out=folder, on_step=lambda _: (folder / "rows.json").unlink(), **settings
        )
    assert not (folder / "metrics.json").exists() and not (folder / "model").exists()


def test_what_changes_speed_and_memory_alone_may_be_another_in_a_resumed_run(tmp_path):
    """As the message of a GPU without memory advises."""
    begin(tmp_path / "run", ["train.gradient_checkpointing=auto"])
    begin(tmp_path / "run", ["train.gradient_checkpointing=true", "train.tokens_per_micro_batch=4096"])
