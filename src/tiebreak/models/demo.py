"""Demo models: the real classes at a tiny size, with tokenizers trained on the embedded sample.

Each is written once as a local folder, random start, and from then on loaded like any other model.
"""

import math
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.config import cache_folder
from tiebreak.data.templates import TEMPLATES
from tiebreak.files import new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 3
SEED = 0
VOCABULARY = 1_024
CORPUS_ROWS = 2_000

SPECIAL = re.compile(r"<[a-z_/]+>|\[[A-Z_]+\]")

SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
START = {"initializer_range": 0.1}
"""About 1 / sqrt(width). The families' own 0.02 suits widths of thousands: at 64 attention starts even over all tokens,
and it takes hundreds of steps until it tells one answer from the other. Gemma-2 norms every block's output to size one,
so its embeddings (times 8) must start as large too."""
FAMILIES = {f"demo-{family}": family for family in ("gemma2", "llama2", "llama3", "qwen2", "deberta")}
CORPUS_TEMPLATES = ("gemma2", "llama2", "deberta", "plain")
"""Templates whose words the tokenizers learn; further templates do not change the demo models."""


def demo_folder(name: str) -> Path:
    """The local folder of a demo model, built if it is not there yet."""
    folder = cache_folder() / "models" / f"{name}-v{VERSION}"
    if not (folder / "config.json").is_file():
        with new_folder(folder, existing="keep") as temporary:  # another process may be first; both are the same
            _build(FAMILIES[name], temporary)
    return folder


def _build(family: str, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import set_seed

    tokenizer = _deberta_tokenizer() if family == "deberta" else _bpe_tokenizer(family)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        set_seed(SEED)
        model = _model(family, len(tokenizer), tokenizer)
    # Not save_pretrained: in a job of several ranks it writes on the first alone.
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _model(family: str, vocabulary: int, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        Gemma2Config,
        Gemma2ForSequenceClassification,
        LlamaConfig,
        LlamaForSequenceClassification,
        Qwen2Config,
        Qwen2ForSequenceClassification,
    )

    common = SIZE | START | {"vocab_size": vocabulary, "pad_token_id": tokenizer.pad_token_id, "num_labels": 3}
    if family == "deberta":
        config: Any = DebertaV2Config(  # type: ignore[call-arg]  # fields its signature leaves to **kwargs
            **common,
            relative_attention=True,
            position_buckets=32,
            max_relative_positions=-1,
            max_position_embeddings=512,
            pos_att_type=["p2c", "c2p"],
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
            type_vocab_size=0,
            pooler_hidden_act="gelu",
            pooler_dropout=0.0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return DebertaV2ForSequenceClassification(config)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    decoder = common | ends | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048}
    make: Any = LlamaForSequenceClassification
    if family == "gemma2":
        config = Gemma2Config(**decoder, query_pre_attn_scalar=16, sliding_window=128)
        make = Gemma2ForSequenceClassification
    elif family == "qwen2":
        config, make = Qwen2Config(**decoder), Qwen2ForSequenceClassification
    else:
        config = LlamaConfig(**decoder)
    model: PreTrainedModel = make(config)
    return model


def _corpus() -> list[str]:
    from tiebreak.data.table import read_table
    from tiebreak.sample.generator import write_sample

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.csv"
        write_sample(path, CORPUS_ROWS, seed=SEED, profile="short")
        pairs = read_table([path]).pairs
    texts = [turn for pair in pairs for part in (pair.prompt, pair.response_a, pair.response_b) for turn in part]
    fixed = [
        SPECIAL.sub("", piece)  # a learnt piece must never spell a special token
        for template in map(TEMPLATES.__getitem__, CORPUS_TEMPLATES)
        for piece in (template.head, template.before_first, template.before_second, template.tail, template.turn)
    ]
    return texts + fixed * 20


def _bpe_tokenizer(family: str) -> "PreTrainedTokenizerBase":
    """SentencePiece-like BPE with byte fallback, in the family's own tokenizer class."""
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import GemmaTokenizer, LlamaTokenizer

    special = {
        "gemma2": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
        "llama2": ["<unk>", "<s>", "</s>", "<pad>"],
    }["gemma2" if family == "gemma2" else "llama2"]
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special + bytes_, show_progress=False)
    trained.train_from_iterator(_split_words(_corpus()), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    if family == "gemma2":
        tokenizer: Any = GemmaTokenizer(vocab=model["vocab"], merges=merges)  # type: ignore[arg-type]
        tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    else:
        tokenizer = LlamaTokenizer(vocab=model["vocab"], merges=merges, pad_token="<pad>")
    tokenizer.padding_side = "right"
    made: PreTrainedTokenizerBase = tokenizer
    return made


def _split_words(texts: list[str]) -> list[str]:
    """Words with their leading space, so that no learnt piece spans two words."""
    return [piece for text in texts for piece in text.replace(" ", "\n ").split("\n")]


def _deberta_tokenizer() -> "PreTrainedTokenizerBase":
    """The corpus's commonest words and all its characters as unigram pieces, in DeBERTa-v3's class."""
    from transformers import DebertaV2Tokenizer

    words = Counter("▁" + word for text in _corpus() for word in text.split())
    letters = sorted({letter for word in words for letter in word})
    total = sum(words.values())
    special = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")]
    least = math.log(1 / total) * 2  # a word spelt out letter by letter is never the better path
    spelt = [(letter, least) for letter in letters]
    common = words.most_common(VOCABULARY - len(special) - len(spelt))
    learnt = [(word, math.log(count / total)) for word, count in common if len(word) > 1]
    tokenizer = DebertaV2Tokenizer(vocab=special + spelt + learnt)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TEMPLATES["deberta"].added)})
    tokenizer.padding_side = "right"
    return tokenizer
