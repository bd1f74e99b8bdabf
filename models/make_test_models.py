#!/usr/bin/env python3
"""Write the small models that the tests serve, each a folder NAME/1 in Hugging Face's layout.

Most say what colour a picture is: their logits are the mean of the red, green and blue channel
(in [-1, 1]) times eight, so that every picture has an answer of its own and an answer given to
the wrong picture shows. The others are each wrong, or hard, in one way, or take plain tensors
(`tensor_models.py`). Every folder is under 5 KB and the same on every machine; those that the
tests use are committed in `tests/models`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import huggingface
import tensor_models

SIZE = 32  # side of the pictures
GAIN = 8.0  # logit of a channel that is full on; -8 is one that is off
LABELS = ["red", "green", "blue"]
# Iterations of the slow model: 33.5 MFLOP each, 20 GFLOP a picture, about 0.3 s on one core.
SLOW_ITERATIONS = 600


@dataclass
class Graph:
    """A graph from `pixel_values` to `logits`; the defaults are those of the `colour` model."""

    batch: int | str = "batch"
    picture: tuple[int, ...] = (3, SIZE, SIZE)
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Append a node and return the name of its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: object, dtype: type = np.int64) -> str:
        """Append an initialiser and return its name."""
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def colour(
        self, picture: str = "pixel_values", output: str = "logits", axes: tuple[int, int] = (2, 3)
    ) -> str:
        """Mean of each channel times the gain."""
        mean = self.add("ReduceMean", [picture], f"{output}.mean", axes=list(axes), keepdims=0)
        return self.add("Mul", [mean, self.constant("gain", [GAIN], self.dtype.type)], output)

    def model(self, name: str, labels: int = 3) -> onnx.ModelProto:
        """Close the graph."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            self.nodes, name,
            [helper.make_tensor_value_info("pixel_values", kind, [self.batch, *self.picture])],
            [helper.make_tensor_value_info("logits", kind, [self.batch, labels])],
            self.initializers,
        )  # fmt: skip
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=8, producer_name="tessera make_test_models"
        )


def colour() -> Graph:
    """Says which of red, green and blue is strongest; any batch size."""
    graph = Graph()
    graph.colour()
    return graph


def fixed_1() -> Graph:
    """The same with a batch of exactly 1."""
    graph = Graph(batch=1)
    graph.colour()
    return graph


def fixed_4() -> Graph:
    """The same with a batch of exactly 4."""
    graph = Graph(batch=4)
    graph.colour()
    return graph


def half() -> Graph:
    """The same with float16 input and output."""
    graph = Graph(dtype=np.dtype(np.float16))
    graph.colour()
    return graph


def nhwc() -> Graph:
    """The same with channels last."""
    graph = Graph(picture=(SIZE, SIZE, 3))
    graph.colour(axes=(1, 2))
    return graph


def nan_on_black() -> Graph:
    """The same, but the logits of an all-black picture are NaN (the root of a negative number)."""
    graph = Graph()
    graph.colour(output="colour")
    mean = graph.add("ReduceMean", ["pixel_values"], "mean", axes=[1, 2, 3], keepdims=0)
    light = graph.add("Add", [mean, graph.constant("almost_one", 1 - 1e-6, np.float32)], "light")
    root = graph.add("Sqrt", [light], "root")
    zero = graph.add("Mul", [root, graph.constant("zero", 0, np.float32)], "zero_or_nan")
    column = graph.add("Unsqueeze", [zero, graph.constant("axis", [1])], "column")
    graph.add("Add", ["colour", column], "logits")
    return graph


def fails_on_bright() -> Graph:
    """The same, but running it fails if a picture's mean is above 0.5 (an index out of bounds)."""
    graph = Graph()
    graph.colour(output="colour")
    mean = graph.add("ReduceMean", ["pixel_values"], "mean", axes=[1, 2, 3], keepdims=0)
    bright = graph.add("Greater", [mean, graph.constant("limit", 0.5, np.float32)], "bright")
    index = graph.add("Cast", [bright], "index", to=TensorProto.INT64)
    row = graph.add("Gather", [graph.constant("table", [[0.0]], np.float32), index], "row", axis=0)
    graph.add("Add", ["colour", row], "logits")
    return graph


def one_channel() -> Graph:
    """Takes pictures of one channel, which `preprocessor_config.json` does not make."""
    graph = Graph(picture=(1, SIZE, SIZE))
    mean = graph.add("ReduceMean", ["pixel_values"], "mean", axes=[2, 3], keepdims=0)
    graph.add("Mul", [mean, graph.constant("signs", [GAIN, 0, -GAIN], np.float32)], "logits")
    return graph


def slow() -> Graph:
    """The same answer after a loop of matrix products, about 0.3 s a picture on one core."""
    graph, rows, columns = Graph(), 3 * SIZE * SIZE // 256, 256
    flat = graph.add("Reshape", ["pixel_values", graph.constant("flat_shape", [-1, rows, columns])], "flat")
    tall = graph.add("Tile", [flat, graph.constant("repeats", [1, 21, 1])], "tall")
    square = graph.add("ConstantOfShape", [graph.constant("square_shape", [columns, columns])], "square")
    # Multiplying by the identity costs what any product costs and keeps the picture as it is.
    graph.add("EyeLike", [square], "identity")
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep_going"], ["keep_going_out"]),
            helper.make_node("MatMul", ["state", "identity"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("keep_going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, None),
        ],
    )
    graph.add("Loop", [graph.constant("iterations", SLOW_ITERATIONS), "", tall], "worked", body=body)
    bounds = [graph.constant(name, [value]) for name, value in (("start", 0), ("end", rows), ("along", 1))]
    first = graph.add("Slice", ["worked", *bounds], "first")
    picture = graph.add("Reshape", [first, graph.constant("picture_shape", [-1, 3, SIZE, SIZE])], "picture")
    graph.colour(picture)
    return graph


@dataclass(frozen=True)
class TestModel:
    """How one model's folder is written; the folder's graph is `graph()`."""

    graph: Callable[[], Graph]
    note: str
    labels: tuple[str, ...] = tuple(LABELS)
    size: int = SIZE
    file: str = "model.onnx"
    external: bool = False
    corrupt: bool = False

    def write(self, name: str, folder: Path) -> None:
        """Write the model and its two JSON files."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        model = self.graph().model(name)
        onnx.checker.check_model(model, full_check=True)
        if self.corrupt:
            path.write_bytes(b"This is not an ONNX model.\n")
        elif self.external:
            data = path.with_name(f"{path.name}_data")
            data.unlink(missing_ok=True)  # onnx appends to a file that is there
            onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
            data.chmod(0o644)  # onnx makes it readable for its owner only
        else:
            onnx.save(model, path)
        config = {
            "architectures": ["ColourForImageClassification"],
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "model_type": "colour",
        }
        huggingface.write_json(folder / "config.json", config)
        huggingface.write_json(
            folder / "preprocessor_config.json", huggingface.preprocessor_config(self.size)
        )


MODELS = {
    "colour": TestModel(colour, "names the strongest of red, green and blue; any batch"),
    "fixed-1": TestModel(fixed_1, "the same, batch of exactly 1"),
    "fixed-4": TestModel(fixed_4, "the same, batch of exactly 4"),
    "half": TestModel(half, "the same, float16 input and output"),
    "nhwc": TestModel(nhwc, "the same, channels last"),
    "external": TestModel(colour, "the same, weights in model.onnx_data", external=True),
    "onnx-folder": TestModel(colour, "the same, graph at onnx/model.onnx", file="onnx/model.onnx"),
    "slow": TestModel(slow, "the same, about 0.3 s a picture on one core"),
    "nan-on-black": TestModel(nan_on_black, "NaN logits for an all-black picture"),
    "fails-on-bright": TestModel(
        fails_on_bright, "fails at run time where a picture's mean (of -1 to 1) is above 0.5"
    ),
    "one-channel": TestModel(one_channel, "input of one channel: must be refused when loaded"),
    "wrong-size": TestModel(
        colour, "the preprocessor makes 64x64, the graph takes 32x32: must be refused", size=2 * SIZE
    ),
    "missing-label": TestModel(
        colour, "three logits and two labels: must be refused", labels=("red", "green")
    ),
    "corrupt": TestModel(colour, "a file that is not ONNX: must be refused", corrupt=True),
    **tensor_models.MODELS,
}


def main() -> int:
    """Parse the command line and write the models."""
    listing = "\n".join(f"  {name:16} {model.note}" for name, model in MODELS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nModels:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder to write the models into")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to write (default: all)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(MODELS)
    if unknown:
        parser.error(f"no model named {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    for name in arguments.names or MODELS:
        folder = arguments.output / name / "1"
        MODELS[name].write(name, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {size} bytes, {MODELS[name].note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
