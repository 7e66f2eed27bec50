"""Tokenizers and configurations of the demo bases: the families' own classes, the vocabulary of the sample."""

import json
import math
import re
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.data.templates import TEMPLATES
from tiebreak.models.demo import SEED, STEEP
from tiebreak.pretrained.from_onnx import DEBERTA_V3
from tiebreak.sample.generator import write_sample
from tiebreak.sample.language import RECAP_WORDS
from tiebreak.tables.table import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

VOCABULARY = 1_024
CORPUS_ROWS = 2_000
CORPUS_TEMPLATES = ("gemma2", "llama2", "deberta", "plain")
"""Templates whose words every tokenizer learns."""
SPECIAL = re.compile(r"<[a-z_/]+>|\[[A-Z_]+\]")
SPECIAL_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
MASK_ID = SPECIAL_PIECES.index("[MASK]")
TEACHER = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
STUDENT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}


def make_config(family: str, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedConfig":
    """The configuration of a family's demo model, teachers larger than DeBERTa, their student."""
    from transformers import DebertaV2Config, Gemma2Config, LlamaConfig, Qwen2Config

    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 3}
    sizes["dtype"] = "float32"  # to compute in: the shipped weights are fp16 to be small
    if family == "deberta":
        make: Any = DebertaV2Config
        config: PreTrainedConfig = make(
            **STUDENT | sizes,
            initializer_range=STEEP,
            architectures=["DebertaV2ForSequenceClassification"],
            position_buckets=32,
            **DEBERTA_V3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return config
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    decoder: dict[str, Any] = TEACHER | sizes | ends
    decoder |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048}
    if family == "gemma2":
        names = ["Gemma2ForSequenceClassification"]
        return Gemma2Config(**decoder, query_pre_attn_scalar=16, sliding_window=128, architectures=names)
    if family == "qwen2":
        return Qwen2Config(**decoder, architectures=["Qwen2ForSequenceClassification"])
    return LlamaConfig(**decoder, architectures=["LlamaForSequenceClassification"])


def make_tokenizer(family: str) -> "PreTrainedTokenizerBase":
    """A family's tokenizer, trained on the sample's language, with its template's special tokens."""
    makers = {"deberta": _deberta_tokenizer, "qwen2": _byte_level_tokenizer}
    tokenizer = makers[family]() if family in makers else _bpe_tokenizer(family)
    if added := [token for token in TEMPLATES[family].added if token not in tokenizer.get_vocab()]:
        tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.padding_side = "right"
    return tokenizer


@cache
def _corpus() -> list[str]:
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
    words = [f" {word}" for word in RECAP_WORDS]  # the space makes them words that stand inside a text
    return texts + fixed * 20 + words * 100


def _bpe_tokenizer(family: str) -> "PreTrainedTokenizerBase":
    """SentencePiece-like BPE with byte fallback, in the family's own tokenizer class."""
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
    made: PreTrainedTokenizerBase = tokenizer
    return made


def _byte_level_tokenizer() -> "PreTrainedTokenizerBase":
    """BPE over bytes, cut into words as Qwen2's class does; one token is end, padding and unknown, as with Qwen2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    end = "<|endoftext|>"
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(_corpus(), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokenizer: PreTrainedTokenizerBase = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)  # type: ignore[arg-type]
    # Its cut at punctuation would make two pieces of these words, which no row holds.
    tokenizer.add_tokens([f" {word}" for word in RECAP_WORDS if ":" in word])
    return tokenizer


def _split_words(texts: list[str]) -> list[str]:
    """Words with their leading space, so that no learnt piece spans two words."""
    return [piece for text in texts for piece in text.replace(" ", "\n ").split("\n")]


def _deberta_tokenizer() -> "PreTrainedTokenizerBase":
    """The corpus's commonest words and all its characters as unigram pieces, in DeBERTa-v3's class."""
    from transformers import DebertaV2Tokenizer

    words = Counter("▁" + word for text in _corpus() for word in text.split())
    letters = sorted({letter for word in words for letter in word})
    total = sum(words.values())
    special = [(name, 0.0) for name in SPECIAL_PIECES]
    least = math.log(1 / total) * 2  # a word spelt out letter by letter is never the better path
    spelt = [(letter, least) for letter in letters]
    common = words.most_common(VOCABULARY - len(special) - len(spelt))
    learnt = [(word, math.log(count / total)) for word, count in common if len(word) > 1]
    return DebertaV2Tokenizer(vocab=special + spelt + learnt)
