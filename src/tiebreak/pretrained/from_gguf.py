"""A GGUF file (llama.cpp's format) -> a plain model folder: fp32 weights and a fast tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def convert(parts: Path, folder: Path) -> None:
    """Dequantise `parts/model.gguf` into a causal language model's folder.

    transformers reads the file, but refuses to save the model, since the quantised form cannot be written. The weights
    in memory are plain fp32, so the note that they were quantised is removed.

    Args:
        parts: folder with the GGUF file.
        folder: to write to; it exists and is empty.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tiebreak.process import quieten_transformers

    quieten_transformers()
    tokenizer = AutoTokenizer.from_pretrained(parts, gguf_file="model.gguf")
    _split_digits(tokenizer, parts / "model.gguf")
    model = AutoModelForCausalLM.from_pretrained(parts, gguf_file="model.gguf", dtype=torch.float32)
    del model.config.quantization_config
    model.hf_quantizer = None  # type: ignore[assignment]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _split_digits(tokenizer: "PreTrainedTokenizerBase", path: Path) -> None:
    """Apply the file's `smollm` rule, which transformers ignores: split a text at its digits first.

    Without it "\\n\\n1" is cut into other pieces than in training, in a fifth of real answers.
    """
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    rule = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    if rule is not None and rule.contents() == "smollm":
        split = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
        tokenizer.backend_tokenizer.pre_tokenizer = split
