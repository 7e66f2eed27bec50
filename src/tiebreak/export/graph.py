"""ONNX graphs, written operation by operation.

No tracing: a traced graph holds the lengths it was traced at, and whatever else the example decided.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 20, 10
"""Opset 20 has Gelu; onnxruntime since 1.17 reads both."""
LARGEST = 1_800_000_000
"""Bytes of weights that still fit into one file: protobuf's limit is 2 GiB."""


class Graph:
    """A graph under construction: every method adds an operation and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def constant(self, value: Any, name: str = "") -> str:
        """An array, stored with the weights; equal small ones once."""
        array = np.asarray(value)
        name = name or f"c_{array.dtype}_{'_'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Any operation with one output."""
        return self.split(kind, *inputs, outputs=1, **attributes)[0]

    def split(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Any operation with several outputs."""
        self._count += 1
        names = [f"{kind}_{self._count}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, f"{kind}_{self._count}", **attributes))
        return names

    def linear(self, inputs: str, weight: np.ndarray, bias: np.ndarray | None, name: str) -> str:
        """x W' + b of a PyTorch layer's weight (out, in) and bias (out,)."""
        product = self.op("MatMul", inputs, self.constant(weight.T, f"{name}.weight"))
        return product if bias is None else self.op("Add", product, self.constant(bias, f"{name}.bias"))

    def norm(self, inputs: str, weight: np.ndarray, bias: np.ndarray, epsilon: float, name: str) -> str:
        """Layer normalisation over the last axis."""
        scale, shift = self.constant(weight, f"{name}.weight"), self.constant(bias, f"{name}.bias")
        return self.op("LayerNormalization", inputs, scale, shift, axis=-1, epsilon=epsilon)

    def reshape(self, inputs: str, *shape: int) -> str:
        """Give another shape; 0 keeps an axis, -1 takes the rest."""
        return self.op("Reshape", inputs, self.constant(np.array(shape, np.int64)))

    def model(self, inputs: dict[str, tuple[int, list[Any]]], output: str) -> onnx.ModelProto:
        """The whole, with these inputs by name, each its element type and shape, and logits (rows, 3)."""
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], "logits"))
        graph = helper.make_graph(
            self.nodes,
            "tiebreak",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
            list(self.weights.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tiebreak")


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; the weights of a very large one into `<name>.data` beside it."""
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data")
