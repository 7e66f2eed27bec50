"""A DeBERTa judge as an ONNX graph: embeddings to logits, with head, features and temperature.

The attention is that of `tiebreak.attention.deberta`: He et al. 2021 (arXiv:2006.03654), equation 4, both position
terms by one table of distances. The tables' own projections are weights here, and are computed once, at export.
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from tiebreak.attention.deberta import can_pack
from tiebreak.errors import UserError
from tiebreak.export.graph import Graph
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.models.heads import MAX_SCALED, FeatureHead, SiameseHead
from tiebreak.models.preference import PreferenceModel

MASKED = -1e9
"""Added to the scores of padding: below all others, and finite in fp32."""
TABLES = ("key", "query")
"""The projections that embeddings of distances go through, too."""


def deberta_graph(judge: PreferenceModel, temperature: float = 1.0, half_tables: bool = False) -> onnx.ModelProto:
    """Write the judge's forward as a graph over padded texts.

    Inputs: `input_ids` (texts, length) int64, padded on the right with anything; `lengths` (texts,) int64; `features`
    (rows, k) float32, if the head sees any. Output: `logits` (rows, 3) float32. Under a siamese head a row is two
    texts, one after the other.

    Args:
        judge: without adapters, in fp32.
        temperature: that the logits are divided by.
        half_tables: store the tables of positions in fp16; they are used in fp32.

    Raises:
        UserError: another architecture, or a pooling that the graph does not have.
    """
    classifier = judge.classifier
    config = classifier.config
    if config.model_type != "deberta-v2" or not can_pack(config):
        raise UserError(f"--onnx takes judges over DeBERTa-v3; this one is {config.model_type}: take --merged")
    if config.pooler_hidden_act != "gelu" or config.hidden_act != "gelu":
        raise UserError(f"--onnx: DeBERTa with {config.hidden_act} in place of gelu: take --merged")
    if judge.pooling not in ("cls", "mean"):
        raise UserError(f"--onnx takes model.pooling cls or mean, not {judge.pooling}: take --merged")
    graph, state = Graph(), {name: tensor.numpy() for name, tensor in classifier.float().state_dict().items()}
    real = _real(graph)
    hidden = _embed(graph, classifier.deberta.embeddings)
    seen, unseen = graph.constant(np.float32(0)), graph.constant(np.float32(MASKED))
    mask = graph.op("Where", _axes(graph, real, 1, 2), seen, unseen)
    slots = _slots(graph, classifier.deberta.encoder.layer[0].attention.self)
    kept = np.float16 if half_tables else np.float32
    with torch.no_grad():
        relative = classifier.deberta.encoder.get_rel_embedding()
        for index, layer in enumerate(classifier.deberta.encoder.layer):
            tables = [_table(graph, f"layer.{index}", layer.attention.self, of, relative, kept) for of in TABLES]
            hidden = _layer(graph, f"layer.{index}", layer, hidden, mask, slots, tables)
    pooled = _pool(graph, hidden, real, judge.pooling)
    pooled = graph.linear(pooled, state["pooler.dense.weight"], state["pooler.dense.bias"], "pooler")
    logits = _head(graph, judge.head, graph.op("Gelu", pooled))
    if temperature != 1:
        logits = graph.op("Div", logits, graph.constant(np.float32(temperature)))
    inputs: dict[str, tuple[int, list[Any]]] = {
        "input_ids": (TensorProto.INT64, ["texts", "length"]),
        "lengths": (TensorProto.INT64, ["texts"]),
    }
    if isinstance(judge.head, FeatureHead):
        inputs["features"] = (TensorProto.FLOAT, ["rows", len(judge.head.swap_signs)])
    return graph.model(inputs, logits)


def _length(graph: Graph, of: str) -> str:
    """The second axis of a tensor, a scalar."""
    shape = graph.op("Shape", of, start=1, end=2)
    return graph.op("Squeeze", shape, graph.constant(np.array([0], np.int64)))


def _axes(graph: Graph, of: str, *axes: int) -> str:
    return graph.op("Unsqueeze", of, graph.constant(np.array(axes, np.int64)))


def _real(graph: Graph) -> str:
    """Which tokens (texts, length) are no padding."""
    zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    positions = graph.op("Range", zero, _length(graph, "input_ids"), one)
    return graph.op("Less", _axes(graph, positions, 0), _axes(graph, "lengths", 1))


def _embed(graph: Graph, embeddings: Any) -> str:
    """Word embeddings, normalised; DeBERTa-v3 adds no positions and no types."""
    if embeddings.position_embeddings is not None or embeddings.token_type_embeddings is not None:
        raise UserError(
            "--onnx takes DeBERTa-v3, which adds no absolute positions and no types; this base does: take --merged"
        )
    table = graph.constant(_of(embeddings.word_embeddings.weight), "embeddings.weight")
    hidden = graph.op("Gather", table, "input_ids")
    if embeddings.embed_proj is not None:
        hidden = graph.linear(hidden, _of(embeddings.embed_proj.weight), None, "embed_proj")
    return _norm(graph, "embeddings.norm", embeddings.LayerNorm, hidden)


def _slots(graph: Graph, attention: Any) -> str:
    """slot(i - j) (length, length) int64: the row of the tables of positions for each query i and key j.

    The slots of all distances up to where they no longer change are a weight; farther ones have the last.
    """
    span = attention.pos_ebd_size
    farthest = 2 * max(attention.max_relative_positions, span)
    distance = torch.arange(-farthest, farthest + 1)
    if attention.position_buckets > 0 and attention.max_relative_positions > 0:
        distance = make_log_bucket_position(distance, attention.position_buckets, attention.max_relative_positions)
    table = graph.constant((distance.long() + span).clamp(0, 2 * span - 1).numpy(), "slots")
    zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    place = graph.op("Range", zero, _length(graph, "input_ids"), one)
    apart = graph.op("Sub", _axes(graph, place, 1), _axes(graph, place, 0))
    apart = graph.op("Clip", apart, graph.constant(np.int64(-farthest)), graph.constant(np.int64(farthest)))
    return graph.op("Gather", table, graph.op("Add", apart, graph.constant(np.int64(farthest))))


def _layer(graph: Graph, name: str, layer: Any, hidden: str, mask: str, slots: str, tables: list[str]) -> str:
    attended = _attend(graph, name, layer.attention.self, hidden, mask, slots, tables)
    attended = _linear(graph, f"{name}.attended", layer.attention.output.dense, attended)
    hidden = graph.op("Add", attended, hidden)
    hidden = _norm(graph, f"{name}.attention.norm", layer.attention.output.LayerNorm, hidden)
    inner = graph.op("Gelu", _linear(graph, f"{name}.inner", layer.intermediate.dense, hidden))
    outer = graph.op("Add", _linear(graph, f"{name}.outer", layer.output.dense, inner), hidden)
    return _norm(graph, f"{name}.norm", layer.output.LayerNorm, outer)


def _table(graph: Graph, name: str, own: Any, of: str, relative: torch.Tensor, kept: type) -> str:
    """Projected embeddings of all distances: keys (heads, width, slots), or scaled queries (heads, slots, width)."""
    heads, width = own.num_attention_heads, own.attention_head_size
    projection = getattr(own, f"{of}_proj")
    table = _of(projection(relative[: 2 * own.pos_ebd_size])).reshape(-1, heads, width)
    table = table.transpose(1, 2, 0) if of == "key" else table.transpose(1, 0, 2) * np.float32((3 * width) ** -0.5)
    stored = graph.constant(table.astype(kept), f"{name}.position_{of}")
    return stored if kept is np.float32 else graph.op("Cast", stored, to=TensorProto.FLOAT)


def _attend(graph: Graph, name: str, own: Any, hidden: str, mask: str, slots: str, tables: list[str]) -> str:
    """Attention of each text within itself: (texts, length, width)."""
    heads, width = own.num_attention_heads, own.attention_head_size
    scale = (3 * width) ** -0.5
    projections = (own.query_proj, own.key_proj, own.value_proj)
    # Queries are scaled in their weights, and the three products are one.
    factors = (scale, 1.0, 1.0)
    weight = np.concatenate([_of(p.weight) * np.float32(f) for p, f in zip(projections, factors, strict=True)])
    bias = np.concatenate([_of(p.bias) * np.float32(f) for p, f in zip(projections, factors, strict=True)])
    both = graph.reshape(graph.linear(hidden, weight, bias, f"{name}.qkv"), 0, 0, 3 * heads, width)
    query, key, value = graph.split(
        "Split", graph.op("Transpose", both, perm=[0, 2, 1, 3]), outputs=3, axis=1, num_outputs=3
    )
    turned = graph.op("Transpose", key, perm=[0, 1, 3, 2])
    scores = graph.op("Add", graph.op("MatMul", query, turned), mask)
    shape = graph.op("Shape", scores)
    index = graph.op("Expand", slots, shape)
    by_query = graph.op("GatherElements", graph.op("MatMul", query, tables[0]), index, axis=3)
    by_key = graph.op("GatherElements", graph.op("MatMul", tables[1], turned), index, axis=2)
    scores = graph.op("Add", graph.op("Add", scores, by_query), by_key)
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)
    return graph.reshape(graph.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, heads * width)


def _pool(graph: Graph, hidden: str, real: str, how: str) -> str:
    """One vector (texts, width) for each text: its first token, or the mean of all."""
    if how == "cls":
        return graph.op("Gather", hidden, graph.constant(np.int64(0)), axis=1)
    kept = graph.op("Where", _axes(graph, real, 2), hidden, graph.constant(np.float32(0)))
    total = graph.op("ReduceSum", kept, graph.constant(np.array([1], np.int64)), keepdims=0)
    count = graph.op("Cast", _axes(graph, "lengths", 1), to=TensorProto.FLOAT)
    return graph.op("Div", total, count)


def _head(graph: Graph, head: nn.Module, pooled: str) -> str:
    """Logits (rows, 3), as `tiebreak.models.heads` computes them."""
    if isinstance(head, FeatureHead):
        signs, mean, scale = (_of(part) for part in (head.swap_signs, head.mean, head.scale))
        scaled = graph.op("Sub", "features", graph.constant(mean, "features.mean"))
        scaled = graph.op("Div", scaled, graph.constant(scale, "features.scale"))
        scaled = graph.op("Clip", scaled, *(graph.constant(np.float32(edge)) for edge in (-MAX_SCALED, MAX_SCALED)))
        # (linear(x) + linear(signs x) with A and B exchanged) / 2 is itself linear in x.
        weight, bias = _of(head.linear.weight), _of(head.linear.bias)
        weight = (weight + (weight * signs)[SWAPPED_CLASS]) / 2
        beside = graph.linear(scaled, weight, (bias + bias[SWAPPED_CLASS]) / 2, "features.linear")
        return graph.op("Add", _head(graph, head.head, pooled), beside)
    if isinstance(head, SiameseHead):
        first: Any = head.win[1]
        sides = graph.reshape(pooled, -1, 2, first.in_features // 2)
        one, other = (graph.op("Gather", sides, graph.constant(np.int64(index)), axis=1) for index in (0, 1))
        difference, total = graph.op("Sub", one, other), graph.op("Add", one, other)
        there = graph.op("Concat", difference, total, axis=-1)
        back = graph.op("Concat", graph.op("Neg", difference), total, axis=-1)
        tie = graph.op("Add", *(_layers(graph, "head.tie", head.tie, side) for side in (there, back)))
        wins = [_layers(graph, "head.win", head.win, side) for side in (there, back)]
        return graph.op("Concat", *wins, tie, axis=-1)
    return _layers(graph, "head", head, pooled)


def _layers(graph: Graph, name: str, module: nn.Module, inputs: str) -> str:
    """A linear layer, or the layers of an MLP without its dropout."""
    for index, layer in enumerate(module if isinstance(module, nn.Sequential) else [module]):
        if isinstance(layer, nn.Linear):
            inputs = _linear(graph, f"{name}.{index}", layer, inputs)
        elif isinstance(layer, nn.GELU):
            inputs = graph.op("Gelu", inputs)
    return inputs


def _linear(graph: Graph, name: str, layer: Any, inputs: str) -> str:
    return graph.linear(inputs, _of(layer.weight), None if layer.bias is None else _of(layer.bias), name)


def _norm(graph: Graph, name: str, layer: Any, inputs: str) -> str:
    return graph.norm(inputs, _of(layer.weight), _of(layer.bias), layer.eps, name)


def _of(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().float().cpu().numpy())
