"""Dynamic quantisation to int8 by onnxruntime: matrices by column, the embedding whole, activations at each run."""

import logging
import tempfile
from pathlib import Path

import onnx

from tiebreak.export.graph import save_graph

KEPT = ("pooler", "head", "features", "embed_proj")
"""What stays in fp32 beside the attention's products: the judge's own layers are small, and decide."""


def quantise(model: onnx.ModelProto, path: Path) -> None:
    """Write the graph with int8 weights.

    Products of two activations, and those with the tables of positions, stay in fp32: they are a third of the work and
    most of the error.

    Args:
        model: as `tiebreak.export.deberta_graph` makes it.
        path: of the file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    stored = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    kept = [node.name for node in products if node.input[1] not in stored or node.input[1].startswith(KEPT)]
    gathers = [node for node in model.graph.node if node.op_type == "Gather"]
    kept += [node.name for node in gathers if node.input[0] != "embeddings.weight"]
    level = logging.root.level
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / "model.onnx"
        save_graph(model, whole)
        logging.root.setLevel(logging.ERROR)  # it advises a preparation that this graph does not need
        try:
            quantize_dynamic(
                whole,
                path,
                op_types_to_quantize=["MatMul", "Gather"],
                nodes_to_exclude=kept,
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=True,  # 7 bits: without VNNI, sums of 8-bit products overflow 16 bits and saturate
            )
        finally:
            logging.root.setLevel(level)
