"""Small models that are no demo twins as they are: as local folders with the demo tokenizers, or in memory."""

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


def wide_llama(folder: Path, dtype: torch.dtype = torch.float32, **sizes: int) -> Path:
    """A random Llama-2 of these sizes with the demo's tokenizer, saved: wide enough for its memory to be weighed."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    demo = demo_folder("demo-llama2")
    config = AutoConfig.from_pretrained(demo)
    for name, value in sizes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config, dtype=dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo).save_pretrained(folder)
    return folder


def demo_judge(name: str, method: str, precision: torch.dtype, *changes: str, spread: float):
    """A demo judge on the CPU whose adapters do something: its second matrices are drawn; with recipe and tokenizer."""
    from tiebreak.config import load_recipe
    from tiebreak.models.loading import build_model
    from tiebreak.models.tokenizer import load_tokenizer

    recipe = load_recipe(name, [f"model.method={method}", *changes])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, torch.device("cpu"), precision).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter_name, parameter in judge.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, spread)
    return judge, recipe, tokenizer
