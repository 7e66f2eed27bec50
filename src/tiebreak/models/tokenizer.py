"""Tokenizers of bases and judges: loaded here alone, and checked before a text is encoded.

transformers makes a tokenizer of a few special tokens where a folder holds none, and lets ids pass for which a model
has no embedding: every text then becomes the same, or noise. So a text must come back as it was, each id must have an
embedding, and each special token that a template names must be one id.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tiebreak.data.templates import TEMPLATES, Template, special_tokens
from tiebreak.errors import UserError
from tiebreak.manifests import read_manifest
from tiebreak.models.bases import resolve_base
from tiebreak.models.folder import MANIFEST_FILE, ModelManifest, hash_tokenizer, load_or_refuse
from tiebreak.plurals import plural
from tiebreak.pretrained.base_files import CONFIG, read_config
from tiebreak.process import quieten_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

TEXT = "which answer would people prefer, or is it a tie?"
MARKS = ("▁", "##", "Ġ", " ")
"""What a tokenizer without a decoder of its own leaves of spaces."""
FILES = (
    *("tokenizer.json", "spm.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json"),
    *("tekken.json", "tiktoken.model"),
)
"""One of these holds the vocabulary."""


def load_tokenizer(base: str, template: str) -> "PreTrainedTokenizerBase":
    """The base's fast tokenizer, with a padding token and the template's special tokens.

    Args:
        base: as in a recipe.
        template: name of the template to train with.

    Raises:
        UserError: it cannot be loaded, is a slow one, is not this base's, or does not know the template's tokens.
    """
    where, fixed = resolve_base(base), TEMPLATES[template]
    tokenizer = _load(where, base)
    rows = read_config(Path(where)).get("vocab_size") if (Path(where) / CONFIG).is_file() else None
    for warning in check_ids(_backend(tokenizer), base, rows):
        log.info(warning)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    added = tokens_to_add(_backend(tokenizer), fixed)
    if added:
        tokenizer.add_special_tokens({"additional_special_tokens": added})
        log.info(new_tokens_line(base, template, added))
    check_template(_backend(tokenizer), fixed, template, base)
    return tokenizer


def load_saved_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder, which must be the one that was saved with the model.

    Raises:
        UserError: it cannot be loaded, or is not this model's.
    """
    path = folder / MANIFEST_FILE
    saved = read_manifest(path, ModelManifest).tokenizer if path.is_file() else None
    tokenizer = _load(str(folder), str(folder))
    if saved is not None and saved != hash_tokenizer(folder):
        raise UserError(f"{folder}: its tokenizer is not the one that was saved with this model: put that one back")
    rows = read_config(folder).get("vocab_size") if (folder / CONFIG).is_file() else None
    for warning in check_ids(_backend(tokenizer), str(folder), rows):
        log.info(warning)
    return tokenizer


def check_judge_template(tokenizer: "PreTrainedTokenizerBase", template: Template, name: str, own: bool) -> None:
    """Check the template that a judge is used with.

    Args:
        tokenizer: of the judge.
        template: that its rows are written in.
        name: of the template.
        own: whether the judge was trained with it; then a token that it does not know is only told.

    Raises:
        UserError: another template, of which the tokenizer does not know a special token.
    """
    try:
        check_template(_backend(tokenizer), template, name, "this judge")
    except UserError as error:
        if not own:
            raise
        log.info(f"warning: {str(error).partition(': take')[0]}; it was trained so")


def check_ids(tokenizer: "Tokenizer", where: str, rows: int | None) -> list[str]:
    """Check that a text comes back as it was, and that every id has an embedding.

    Args:
        tokenizer: of the base or judge itself, before a template's tokens are added.
        where: the base or folder, for the messages.
        rows: of the embeddings; None where they are not known.

    Returns:
        Warnings of special tokens without an embedding, which no user's text holds.

    Raises:
        UserError: a text that does not come back, or tokens of the vocabulary without an embedding.
    """
    back = tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False).ids)
    if _bare(back) != _bare(TEXT):
        raise UserError(
            f"{where}: the text {TEXT!r}, tokenised, comes back as {back!r}: take this model's own tokenizer"
        )
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values())
    if rows is None or largest < rows:
        return []
    beyond = sorted((token for token, index in vocabulary.items() if index >= rows), key=vocabulary.__getitem__)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    if not special.issuperset(beyond):
        raise UserError(
            f"{where}: its tokenizer has ids up to {largest}, but the model has {rows} embeddings ({len(beyond)} "
            f"tokens have none, such as {beyond[0]!r}), so they belong to two models: take this model's own tokenizer"
        )
    names = ", ".join(beyond[:3])
    return [f"warning: {where}: {plural(len(beyond), 'special token')} of its tokenizer without an embedding ({names})"]


def tokens_to_add(tokenizer: "Tokenizer", template: Template) -> list[str]:
    """The template's special tokens that a tokenizer has to learn.

    Those are the ones that the template brings. One of two sides belongs to no family, so it brings all.
    """
    brought = special_tokens(template) if template.sides else template.added
    return [token for token in brought if tokenizer.token_to_id(token) is None]


def new_tokens_line(base: str, template: str, added: list[str]) -> str:
    """Say which tokens the tokenizer learns."""
    return (
        f"{base}: {plural(len(added), 'special token')} of the template {template} new to its tokenizer "
        f"({', '.join(added)}): random embeddings at the start"
    )


def check_template(tokenizer: "Tokenizer", template: Template, name: str, where: str) -> None:
    """Check that each special token that a template names is one id wherever the template has it.

    Args:
        tokenizer: with the tokens that the template brings.
        template: the fixed pieces.
        name: of the template.
        where: the base, for the message.

    Raises:
        UserError: one is cut into pieces; names the templates that fit.
    """
    cut = _tokens_cut(tokenizer, template)
    if not cut:
        return
    fitting = [other for other, fixed in TEMPLATES.items() if not fixed.sides and special_tokens(fixed)]
    fitting = [other for other in fitting if not _tokens_cut(tokenizer, TEMPLATES[other])] or ["plain"]
    raise UserError(
        f"the template {name} names {', '.join(cut)}, which {where} does not know as single tokens and would cut into "
        f"pieces: take the template of its family, --set model.template={' or '.join(fitting)}"
    )


def _tokens_cut(tokenizer: "Tokenizer", template: Template) -> list[str]:
    pieces = [template.head, template.before_first, template.before_second, template.tail, template.turn]
    encoded = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in pieces]
    cut = []
    for token in special_tokens(template):
        index = tokenizer.token_to_id(token)
        counts = zip(encoded, pieces, strict=True)
        if index is None or any(ids.count(index) != piece.count(token) for ids, piece in counts):
            cut.append(token)
    return cut


def _load(where: str, name: str) -> "PreTrainedTokenizerBase":
    """Load a fast tokenizer of a folder or hub name."""
    from transformers import AutoTokenizer

    refuse_absent(Path(where))
    quieten_transformers()
    tokenizer: PreTrainedTokenizerBase = load_or_refuse(
        name, lambda: AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    )
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer is not a fast one; put a tokenizer.json into the folder")
    return tokenizer


def refuse_absent(folder: Path) -> None:
    """Raise UserError if a local folder holds no tokenizer."""
    if folder.is_dir() and not any((folder / name).is_file() for name in FILES):
        raise UserError(
            f"{folder}: no tokenizer.json, nor another tokenizer's file: fetch it again, or copy the tokenizer of the "
            "model that was trained (a Trainer saves it only where it was given one)"
        )


def _backend(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    return cast("Tokenizer", tokenizer.backend_tokenizer)


def _bare(text: str) -> str:
    for mark in MARKS:
        text = text.replace(mark, "")
    return text.casefold()
