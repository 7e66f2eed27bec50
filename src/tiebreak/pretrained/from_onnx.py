"""A DeBERTa-v3 classifier in ONNX, dynamically quantised to int8 -> a plain model folder.

The export names biases, norms and embeddings as PyTorch did, but the matrices of linear layers only by
number. Each is found from its layer's bias: the bias is added to a matrix product, and the product's second
operand is the matrix, transposed. onnxruntime quantises a matrix to `(q - zero_point) * scale`, with one
scale for all of it.
"""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiebreak.errors import UserError

if TYPE_CHECKING:
    from transformers import DebertaV2Config

HEAD_SIZE = 64
"""Width of an attention head of every DeBERTa-v3; the weights do not show it."""
DEBERTA_V3: dict[str, Any] = {
    "relative_attention": True,
    "max_relative_positions": -1,
    "max_position_embeddings": 512,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_act": "gelu",
    "pooler_dropout": 0.0,
}
"""What sets version 3 apart from `DebertaV2Config`'s defaults, at every size."""
PRODUCTS = ("MatMul", "MatMulInteger")
PASSED = ("Mul", "Cast", "Identity")
"""Operations between a product of integers and the sum with the bias."""
SUFFIX = "_quantized"


def convert(parts: Path, folder: Path) -> None:
    """Write fp32 weights, configuration and tokenizer from `parts/model.onnx` and the tokenizer beside it.

    The classification layer is left out: its classes are those of another task. The pooler is kept.

    Args:
        parts: folder with the ONNX file and the tokenizer's files.
        folder: to write to; it exists and is empty.

    Raises:
        UserError: a weight that a DeBERTa-v3 has is not in the file.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import DebertaV2ForSequenceClassification

    tensors = read_tensors(parts / "model.onnx")
    config = _config(tensors)
    with torch.device("meta"):
        expected = DebertaV2ForSequenceClassification(config).state_dict()
    kept = {name: tensor for name, tensor in expected.items() if not name.startswith("classifier.")}
    wrong = [name for name, like in kept.items() if name not in tensors or tensors[name].shape != tuple(like.shape)]
    if wrong:
        raise UserError(f"{parts / 'model.onnx'}: not a DeBERTa-v3: {', '.join(wrong[:3])} missing or misshapen")
    state = {name: torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in kept}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["DebertaV2ForSequenceClassification"]
    config.save_pretrained(folder)
    for path in parts.iterdir():
        if path.name not in ("model.onnx", "LICENSE"):
            shutil.copy(path, folder)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All named weights by their PyTorch names, float32, dequantised; matrices (out, in)."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    prefix = next((name.partition("deberta.")[0] for name in stored if "deberta." in name), "")

    def value(name: str) -> np.ndarray:
        base = name.removesuffix(SUFFIX)
        if base == name:
            array: np.ndarray = numpy_helper.to_array(stored[name]).astype(np.float32)
            return array
        integers, scale, zero = (
            numpy_helper.to_array(stored[part]) for part in (name, f"{base}_scale", f"{base}_zero_point")
        )
        dequantised: np.ndarray = (integers.astype(np.float32) - zero.astype(np.float32)) * scale
        return dequantised

    tensors = {}
    for name in stored:
        plain = name.removesuffix(SUFFIX).removeprefix(prefix)
        if plain.endswith((".weight", ".bias")):
            tensors[plain] = value(name)
    for bias, matrices in _matrices(graph, stored, maker).items():
        # The layers that also project relative positions keep an unrounded copy for that.
        best = min(matrices, key=lambda name: name.endswith(SUFFIX))
        tensors[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = value(best).T
    return tensors


def _matrices(graph: Any, stored: dict[str, Any], maker: dict[str, Any]) -> dict[str, set[str]]:
    """The stored matrices whose product each bias is added to."""
    matrices = defaultdict(set)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, other in (tuple(node.input), tuple(node.input)[::-1]):
            product = maker.get(other)
            while bias in stored and product is not None and product.op_type in PASSED:
                product = maker.get(product.input[0])
            if bias in stored and product is not None and product.op_type in PRODUCTS:
                matrix = product.input[1]
                while matrix in maker and maker[matrix].op_type == "Identity":
                    matrix = maker[matrix].input[0]
                if matrix in stored:
                    matrices[bias].add(matrix)
    return matrices


def _config(tensors: dict[str, np.ndarray]) -> "DebertaV2Config":
    """The configuration of a DeBERTa-v3 whose sizes are those of the weights."""
    from transformers import DebertaV2Config

    try:
        vocabulary, hidden = tensors["deberta.embeddings.word_embeddings.weight"].shape
        buckets = len(tensors["deberta.encoder.rel_embeddings.weight"]) // 2
        wide = tensors["deberta.encoder.layer.0.intermediate.dense.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"model.onnx: not a DeBERTa-v3: {error.args[0]} is missing") from None
    layers = {name.split(".")[3] for name in tensors if name.startswith("deberta.encoder.layer.")}
    return DebertaV2Config(  # type: ignore[call-arg]  # fields its signature leaves to **kwargs
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=len(layers),
        num_attention_heads=hidden // HEAD_SIZE,
        position_buckets=buckets,
        layer_norm_eps=1e-7,
        pad_token_id=0,
        pooler_hidden_size=hidden,
        **DEBERTA_V3,
    )
