"""Tiny models of families that have no demo twin, as local folders with the demo tokenizers."""

from pathlib import Path

import torch

from tiebreak.models.demo import demo_folder

WINDOW = 24


def tiny_folder(family: str, folder: Path) -> Path:
    """A random `bert` or `gemma3_text`; three of four layers of the latter see a window of 24 tokens."""
    from transformers import AutoTokenizer, BertConfig, BertModel, Gemma3ForCausalLM, Gemma3TextConfig

    twin = "demo-deberta" if family == "bert" else "demo-gemma2"
    tokenizer = AutoTokenizer.from_pretrained(demo_folder(twin))
    common = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    common |= {"pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.2}
    torch.manual_seed(7)
    if family == "bert":
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = BertModel(BertConfig(**common, **dropout, num_hidden_layers=2, max_position_embeddings=256))
    else:
        config = Gemma3TextConfig(
            **common,
            num_hidden_layers=4,
            num_key_value_heads=1,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = Gemma3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
