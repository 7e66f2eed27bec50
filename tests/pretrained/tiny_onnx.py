"""A DeBERTa-v3 classifier as onnxruntime's dynamic quantisation leaves it: names, nodes and integers.

Only the nodes around each matrix are written; the file is to be read, not run.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def write_onnx(path: Path, state: dict[str, np.ndarray]) -> None:
    """Write a state dict whose linear layers are named as in `DebertaV2ForSequenceClassification`."""
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []

    def keep(name: str, array: np.ndarray) -> None:
        stored.append(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def quantise(name: str, array: np.ndarray, unsigned: bool) -> None:
        scale = np.float32(np.abs(array).max() / 127)
        zero = 128 if unsigned else 0
        kind = np.uint8 if unsigned else np.int8
        keep(f"{name}_scale", np.array(scale))
        keep(f"{name}_zero_point", np.array(zero, dtype=kind))
        keep(f"{name}_quantized", (np.rint(array / scale) + zero).astype(kind))

    number = 100
    for name, array in state.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.bias" not in state or array.ndim != 2 or not name.endswith(".weight"):
            if name.endswith("word_embeddings.weight"):
                quantise(f"m.{name}", array, unsigned=True)
            else:
                keep(f"m.{name}", array)
            continue
        number += 1
        # Layers at the end of the graph keep their name through the export, the others get a number.
        matrix = f"m.{name}" if layer in ("pooler.dense", "classifier") else f"onnx::MatMul_{number}"
        quantise(matrix, array.T, unsigned=False)
        product = [f"{layer}/input", f"{matrix}_quantized", f"{layer}/zero", f"{matrix}_zero_point"]
        nodes.append(helper.make_node("MatMulInteger", product, [f"{layer}/product"]))
        nodes.append(helper.make_node("Cast", [f"{layer}/product"], [f"{layer}/cast"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{layer}/cast", f"{layer}/scales"], [f"{layer}/scaled"]))
        # The order of a sum's operands differs from layer to layer.
        operands = [f"m.{layer}.bias", f"{layer}/scaled"]
        nodes.append(helper.make_node("Add", operands[:: 1 if number % 2 else -1], [f"{layer}/output"]))
        if layer.endswith(("query_proj", "key_proj")):
            keep(matrix, array.T)
            nodes.append(helper.make_node("Identity", [matrix], [f"{matrix}_alias"]))
            nodes.append(helper.make_node("MatMul", ["positions", f"{matrix}_alias"], [f"{layer}/relative"]))
            nodes.append(
                helper.make_node("Add", [f"{layer}/relative", f"m.{layer}.bias"], [f"{layer}/relative_output"])
            )
    graph = helper.make_graph(nodes, "deberta", [], [], stored)
    onnx.save(helper.make_model(graph), path)
