"""Tiny GGUF files of the two architectures that `tiebreak weights` knows, with random weights in 8-bit blocks."""

from pathlib import Path

import numpy as np

HIDDEN, WIDE, HEADS, LAYERS, HEAD = 64, 96, 2, 2, 32
CHARACTERS = [chr(k) for k in range(ord("a"), ord("z") + 1)]

EXPECTED = {
    "llama": {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    },
    "gemma3": {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
        "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
        "blk.1.attn_k.weight": "model.layers.1.self_attn.k_proj.weight",
    },
}
"""GGUF names and transformers' names of tensors that are stored the same way in both."""


def write_gguf(path: Path, family: str) -> dict[str, np.ndarray]:
    """Write the file; returns its tensors as float32, matrices as they are dequantised."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    gemma = family == "gemma3"
    writer = GGUFWriter(path, family)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    if gemma:
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
        writer.add_sliding_window(16)
    else:
        writer.add_rope_dimension_count(HEAD)
    vocabulary = _add_tokenizer(writer, gemma)

    generator = np.random.default_rng(0)
    shapes = {"token_embd.weight": (vocabulary, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        block = {f"attn_{part}": (HEADS * HEAD, HIDDEN) for part in "qkv"}
        block |= {"attn_output": (HIDDEN, HEADS * HEAD), "ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN)}
        block |= {"ffn_down": (HIDDEN, WIDE), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        if gemma:
            block |= {"attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,)}
            block |= {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    written = {}
    for name, shape in shapes.items():
        tensor = generator.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, tensor)
            written[name] = tensor
        else:
            packed = quants.quantize(tensor, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            written[name] = quants.dequantize(packed, GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _add_tokenizer(writer, gemma: bool) -> int:
    """SentencePiece-like with byte fallback for Gemma, byte-level BPE for Llama; returns the vocabulary's size."""
    if gemma:
        special = ["<pad>", "<eos>", "<bos>", "<unk>"]
        tokens = special + [f"<0x{k:02X}>" for k in range(256)] + ["▁", *CHARACTERS]
        types = [3] * len(special) + [6] * 256 + [1] * (len(CHARACTERS) + 1)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(3)
        writer.add_pad_token_id(0)
        writer.add_add_bos_token(True)
    else:
        from tokenizers.pre_tokenizers import ByteLevel

        special = ["<unk>", "<s>", "</s>"]
        tokens = special + sorted(ByteLevel.alphabet())
        types = [3] * len(special) + [1] * 256
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges(["Ċ Ċ"])
        tokens.append("ĊĊ")
        types.append(1)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
        writer.add_add_bos_token(False)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_vocab_size(len(tokens))
    return len(tokens)
