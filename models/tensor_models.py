"""The small models of plain tensors that the tests serve: tables, text, and each type that a client can express."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
CLASSES = ["cat", "dog", "owl"]
# Scores of three classes from two features; exact in float32.
SCORES = [[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]

Value = onnx.ValueInfoProto


def value(name: str, kind: str, *shape: int | str) -> Value:
    """One input or output."""
    return helper.make_tensor_value_info(name, TYPES[kind], list(shape))


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    """One node; those of ONNX-ML are known by their names."""
    domain = "ai.onnx.ml" if operator in ("LabelEncoder", "ZipMap") else ""
    return helper.make_node(operator, inputs, outputs, domain=domain, **attributes)


def constant(name: str, content: object, dtype: type = np.float32) -> onnx.TensorProto:
    """One initialiser."""
    return numpy_helper.from_array(np.asarray(content, dtype), name)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    """The parts, joined."""
    return helper.make_graph(nodes, "model", inputs, outputs, constants)


def echo(kind: str, *shape: int | str) -> onnx.GraphProto:
    """Gives back what it gets."""
    return graph([node("Identity", ["x"], ["y"])], [value("x", kind, *shape)], [value("y", kind, *shape)])


def linear() -> onnx.GraphProto:
    """x . (1, 2, 3, 4) + 0.5."""
    return graph(
        [node("Gemm", ["x", "weights", "bias"], ["y"])],
        [value("x", "float32", "batch", 4)],
        [value("y", "float32", "batch", 1)],
        [constant("weights", [[1], [2], [3], [4]]), constant("bias", [0.5])],
    )


def columns() -> onnx.GraphProto:
    """A number and a string column: age plus 1,000 for Oslo, 2,000 for Rome, nothing for another city."""
    return graph(
        [
            node("LabelEncoder", ["city"], ["code"], keys_strings=["Oslo", "Rome"],
                 values_floats=[1000.0, 2000.0], default_float=0.0),
            node("Add", ["age", "code"], ["score"]),
        ],
        [value("age", "float32", "batch", 1), value("city", "string", "batch", 1)],
        [value("score", "float32", "batch", 1)],
    )  # fmt: skip


def classifier() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes of a softmax classifier, up to `index` int64[batch] and `probabilities`."""
    nodes = [
        node("MatMul", ["x", "scores"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
        node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
    ]
    return nodes, [constant("scores", SCORES)]


def classes() -> onnx.GraphProto:
    """A classifier with a label and probabilities, as XGBoost's export has them."""
    nodes, constants = classifier()
    nodes.append(node("Identity", ["index"], ["label"]))
    outputs = [value("label", "int64", "batch"), value("probabilities", "float32", "batch", 3)]
    return graph(nodes, [value("x", "float32", "batch", 2)], outputs, constants)


def zip_map(*, text: bool) -> onnx.GraphProto:
    """The same with a map of probabilities, as scikit-learn's export has them by default."""
    nodes, constants = classifier()
    if text:
        names = {"classlabels_strings": CLASSES}
        nodes.append(node("LabelEncoder", ["index"], ["label"], keys_int64s=[0, 1, 2],
                          values_strings=CLASSES, default_string=""))  # fmt: skip
    else:
        names = {"classlabels_int64s": [0, 1, 2]}
        nodes.append(node("Identity", ["index"], ["label"]))
    nodes.append(node("ZipMap", ["probabilities"], ["probability"], **names))
    key, kind = (TensorProto.STRING, "string") if text else (TensorProto.INT64, "int64")
    probability = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, probability))
    outputs = [value("label", kind, "batch"), helper.make_value_info("probability", maps)]
    return graph(nodes, [value("x", "float32", "batch", 2)], outputs, constants)


def variable() -> onnx.GraphProto:
    """The sum of a list of any length."""
    return graph(
        [node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0)],
        [value("x", "float32", "batch", "length")],
        [value("sum", "float32", "batch")],
        [constant("axis", [1], np.int64)],
    )


def not_finite() -> onnx.GraphProto:
    """x / 0: NaN for 0, an infinity for all else."""
    return graph(
        [node("Div", ["x", "zero"], ["y"])],
        [value("x", "float32", "batch", 1)],
        [value("y", "float32", "batch", 1)],
        [constant("zero", [0])],
    )


def text_bytes() -> onnx.GraphProto:
    """Strings in, the same strings out as bytes and as text."""
    return graph(
        [node("Identity", ["text"], ["copy_bytes"]), node("Identity", ["text"], ["copy"])],
        [value("text", "string", "batch")],
        [value("copy_bytes", "string", "batch"), value("copy", "string", "batch")],
    )


def no_batch() -> onnx.GraphProto:
    """A scalar input: there is no axis for the batch."""
    return graph([node("Identity", ["x"], ["y"])], [value("x", "float32")], [value("y", "float32")])


def no_zero() -> onnx.GraphProto:
    """Looks x up in a table that starts at 1: a zero, which no client would send, makes the run fail."""
    return graph(
        [node("Sub", ["x", "two"], ["index"]), node("Gather", ["table", "index"], ["y"], axis=0)],
        [value("x", "int64", "batch")],
        [value("y", "string", "batch")],
        [constant("two", 2, np.int64), helper.make_tensor("table", TensorProto.STRING, [1], [b"two"])],
    )


def as_large_as_told() -> onnx.GraphProto:
    """Gives the numbers back, but makes a tensor of so many zeros as they add up to."""
    return graph(
        [
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Reshape", ["total", "one"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
            node("Cast", ["nothing"], ["zero"], to=TensorProto.INT64),
            node("Add", ["x", "zero"], ["y"]),
        ],
        [value("x", "int64", "batch")],
        [value("y", "int64", "batch")],
        [constant("one", [1], np.int64)],
    )


@dataclass(frozen=True)
class TensorModel:
    """How one model's folder is written."""

    graph: Callable[[], onnx.GraphProto]
    note: str
    toml: str = ""

    def write(self, name: str, folder: Path) -> None:
        """Write the model and, where it has one, its model.toml."""
        folder.mkdir(parents=True, exist_ok=True)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(
            self.graph(), opset_imports=opsets, ir_version=8, producer_name="tessera make_test_models"
        )
        model.graph.name = name
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / "model.onnx")
        if self.toml:
            (folder / "model.toml").write_text(self.toml)


MODELS = {
    **{
        f"echo-{kind}": TensorModel(lambda kind=kind: echo(kind, "batch", 2), f"{kind}[batch,2], given back")
        for kind in TYPES
    },
    "echo-grid": TensorModel(
        lambda: echo("float32", "batch", "rows", "columns"), "float32[batch,rows,columns], given back"
    ),
    "echo-blob": TensorModel(lambda: echo("uint8", "batch", "length"), "uint8[batch,length], given back"),
    "echo-pairs": TensorModel(lambda: echo("float32", 2, 1), "float32[2,1], given back: batch of exactly 2"),
    "linear": TensorModel(linear, "float32[batch,4] to float32[batch,1]"),
    "linear-flat": TensorModel(linear, "the same, flattened", toml="[postprocess]\nflatten = true\n"),
    "linear-invoke": TensorModel(linear, "the same, asked by /invoke", toml="invoke = true\n"),
    "columns": TensorModel(columns, "two named inputs, one of strings"),
    "classes": TensorModel(classes, "label int64[batch] and probabilities float32[batch,3]"),
    "classes-label": TensorModel(
        classes, "the same, the label alone", toml='[postprocess]\noutputs = ["label"]\n'
    ),
    "zip-map": TensorModel(lambda: zip_map(text=False), "the same with ZipMap, labels are numbers"),
    "zip-map-text": TensorModel(lambda: zip_map(text=True), "the same with ZipMap, labels are strings"),
    "variable": TensorModel(variable, "sum of a list of any length"),
    "not-finite": TensorModel(not_finite, "NaN and infinities"),
    "text-bytes": TensorModel(text_bytes, "strings as bytes"),
    "no-batch": TensorModel(no_batch, "a scalar input: must be refused"),
    "as-large-as-told": TensorModel(as_large_as_told, "takes as much memory as clients say"),
    "no-zero": TensorModel(no_zero, "fails at run time for 0, the warm-up's value"),
}
