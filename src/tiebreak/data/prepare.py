"""The token cache: the tokens of a table are made once, and every rank reads them.

The cache folder's name is a hash of everything the tokens depend on. The first process builds it under a lease, in a
temporary folder that is then renamed; the others wait for the rename, outside any collective, so that no watchdog
counts the time.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.config import DataSettings, cache_folder
from tiebreak.data.encode import encode_batches, fit_template, token_manifest
from tiebreak.data.templates import Template
from tiebreak.data.tokens import MANIFEST, SKIPPED, TokenManifest, Tokens, token_schema
from tiebreak.errors import UserError
from tiebreak.files import TEMPORARY, new_folder, sha256
from tiebreak.leases import held
from tiebreak.manifests import read_manifest, write_manifest
from tiebreak.storage import make_folder
from tiebreak.tables.containers import check_path
from tiebreak.tables.table import OnBadRow, Table, read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 3
LOCK_STALE_S = 120
POLL_S = 0.2

log = logging.getLogger(__name__)


def prepare(
    files: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    settings: DataSettings,
    *,
    on_bad_row: OnBadRow = "fail",
    need_labels: bool = False,
    keep_ids: bool = False,
) -> Tokens:
    """Tokens of one or more tables, from the cache or made now.

    Args:
        files: tables, read as one in this order.
        tokenizer: of the model, with the template's added tokens.
        template: the fixed pieces around the texts.
        settings: `max_tokens`, `truncation`, `prompt_cap` and `features` are used.
        on_bad_row: as in `read_table`, and so are `need_labels` and `keep_ids`.
        need_labels: a row without a label is a bad row.
        keep_ids: an id that occurs in two files is an error.

    Raises:
        UserError: a table that cannot be used, or a limit that leaves no room for the text.
    """
    rules = (on_bad_row, need_labels, keep_ids)
    folder = cache_folder() / "tokens" / cache_key(files, tokenizer, template, settings, *rules)
    while (tokens := _open_whole(folder)) is None:
        make_folder(folder.parent)
        with held(folder.with_suffix(".lock"), LOCK_STALE_S) as is_held:
            if not is_held:
                time.sleep(POLL_S)
            elif (tokens := _open_whole(folder)) is None:
                table = read_table(files, *rules)
                if cache_key(files, tokenizer, template, settings, *rules) != folder.name:
                    names = ", ".join(map(str, files))
                    raise UserError(f"{names}: changed while it was read; run the same command again")
                _write_tokens(folder, table, tokenizer, template, settings)
    return tokens


def _open_whole(folder: Path) -> Tokens | None:
    """The entry of the cache, its files checked by their hashes; None if it is absent or damaged, and to be made."""
    if not folder.is_dir():
        return None
    try:
        for name, digest in read_manifest(folder / MANIFEST, TokenManifest).files.items():
            if sha256(folder / name) != digest:
                raise ValueError(f"{name} has changed")
        tokens = Tokens.read(folder)
        _ = tokens.problems
        return tokens
    except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.info(f"note: {folder} is not whole ({error}): these tokens are made anew")
        return None


def cache_key(
    files: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    settings: DataSettings,
    on_bad_row: OnBadRow,
    need_labels: bool,
    keep_ids: bool,
) -> str:
    """Hash of the files' names and contents, the tokenizer and the rules; the arguments are those of `prepare`.

    Names of unfinished predictions and runs hold it: a changed key means that they cannot be resumed.
    """
    rules = [FORMAT, asdict(template), settings.max_tokens, settings.truncation, settings.prompt_cap]
    rules += [settings.features, on_bad_row, need_labels, keep_ids]
    digest = hashlib.sha256(json.dumps(rules).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for path in map(Path, files):
        check_path(path)
        digest.update(f"\n{path.name} {sha256(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:24]


def _write_tokens(
    folder: Path, table: Table, tokenizer: "PreTrainedTokenizerBase", template: Template, settings: DataSettings
) -> None:
    """Tokenise a table into a `datasets` folder with its side files, whole or not at all."""
    import datasets
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    datasets.disable_progress_bars()
    started, truncated = time.monotonic(), 0
    frame = fit_template(tokenizer, template, settings)
    for litter in folder.parent.glob(f"{TEMPORARY}{folder.name}-*"):  # of a builder that was killed
        shutil.rmtree(litter, ignore_errors=True)
    if folder.is_dir():  # damaged, or of an earlier version, which has another manifest
        shutil.rmtree(folder)
    with new_folder(folder, existing="keep") as temporary:
        building = temporary / "building"  # `datasets` refuses to save a table beside the file it is read from
        building.mkdir()
        arrow = str(building / "data.arrow")
        with ArrowWriter(path=arrow, features=datasets.Features.from_arrow_schema(token_schema())) as writer:
            for batch in encode_batches(table.pairs, tokenizer, frame, settings):
                truncated += batch["truncated"].true_count
                writer.write_table(pa.Table.from_batches([batch]))
            writer.finalize()
        datasets.Dataset.from_file(arrow).save_to_disk(str(temporary))
        shutil.rmtree(building)
        with open(temporary / SKIPPED, "w", encoding="utf-8", errors="backslashreplace") as lines:
            for problem in table.problems:
                lines.write(json.dumps(asdict(problem), default=str) + "\n")
        hashes = {path.name: sha256(path) for path in temporary.iterdir()}
        manifest = token_manifest(frame, settings, table.counts).model_copy(update={"files": hashes})
        write_manifest(temporary / MANIFEST, manifest)
    rows, seconds = len(table.pairs), time.monotonic() - started
    log.info("%s rows tokenised in %.1f s, %.1f%% of them truncated", f"{rows:,}", seconds, 100 * truncated / rows)
