"""A Vision Transformer classifier as a plain ONNX graph.

The architecture is ViT as Dosovitskiy et al. describe it (arXiv 2010.11929), in the
variant that Hugging Face calls `ViTForImageClassification`: pre-norm blocks, a CLS token
in front, a final LayerNorm, a linear classifier on the CLS token and exact (erf) GELU.

Initialisers carry Hugging Face's parameter names. Matrices of linear layers are stored as
`[in, out]`, the way `MatMul` takes its right side and the transpose of how PyTorch keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass(frozen=True)
class VitConfig:
    """The shape of a ViT. The names are those of Hugging Face's `ViTConfig`.

    `pool` averages the picture over its channels and over squares of `pool` x `pool` pixels
    before the patches are cut. Averaging and patch embedding are both linear, so the model
    still *is* a ViT with patches of `patch_size`; only its patch embedding is kept in a form
    that is `num_channels * pool * pool` times smaller. 1 means neither average is taken.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    num_labels: int
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    layer_norm_eps: float = 1e-12
    pool: int = 1

    @property
    def patches(self) -> int:
        """Number of patches of one picture, without the CLS token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def projection_shape(self) -> tuple[int, int, int, int]:
        """Shape of the patch embedding's convolution kernel: [out, in, height, width]."""
        channels = self.num_channels if self.pool == 1 else 1
        side = self.patch_size // self.pool
        return (self.hidden_size, channels, side, side)

    def parameter_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every parameter's Hugging Face name and its shape here, in the order of the graph."""
        width, mlp = self.hidden_size, self.intermediate_size
        yield "vit.embeddings.cls_token", (1, 1, width)
        yield "vit.embeddings.position_embeddings", (1, self.patches + 1, width)
        yield "vit.embeddings.patch_embeddings.projection.weight", self.projection_shape
        yield "vit.embeddings.patch_embeddings.projection.bias", (width,)
        for index in range(self.num_hidden_layers):
            layer = f"vit.encoder.layer.{index}"
            yield f"{layer}.layernorm_before.weight", (width,)
            yield f"{layer}.layernorm_before.bias", (width,)
            for name in ("query", "key", "value"):
                yield f"{layer}.attention.attention.{name}.weight", (width, width)
                yield f"{layer}.attention.attention.{name}.bias", (width,)
            yield f"{layer}.attention.output.dense.weight", (width, width)
            yield f"{layer}.attention.output.dense.bias", (width,)
            yield f"{layer}.layernorm_after.weight", (width,)
            yield f"{layer}.layernorm_after.bias", (width,)
            yield f"{layer}.intermediate.dense.weight", (width, mlp)
            yield f"{layer}.intermediate.dense.bias", (mlp,)
            yield f"{layer}.output.dense.weight", (mlp, width)
            yield f"{layer}.output.dense.bias", (width,)
        yield "vit.layernorm.weight", (width,)
        yield "vit.layernorm.bias", (width,)
        yield "classifier.weight", (width, self.num_labels)
        yield "classifier.bias", (self.num_labels,)


class _Graph:
    """Collects nodes and initialisers; every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name


def build(
    config: VitConfig,
    parameters: Mapping[str, np.ndarray],
    *,
    batch: int | None = None,
    producer: str,
) -> onnx.ModelProto:
    """Write the graph `pixel_values` [batch, channels, size, size] -> `logits` [batch, labels].

    `parameters` maps the names of `VitConfig.parameter_shapes` to arrays of those shapes, all
    float32 or all float16; input and output are of the same type. `batch` fixes the first
    dimension; without it the dimension is symbolic and named `batch`.

    Raises `ValueError` if a parameter is missing, has another shape or another type.
    """
    dtype = parameters["classifier.bias"].dtype
    if dtype not in (np.float32, np.float16):
        raise ValueError(f"parameters must be float32 or float16, not {dtype}")
    graph = _Graph()
    for name, shape in config.parameter_shapes():
        value = parameters.get(name)
        if value is None or value.shape != shape or value.dtype != dtype:
            found = "nothing" if value is None else f"{value.dtype} {value.shape}"
            raise ValueError(f"{name}: expected {dtype} {shape}, found {found}")
        graph.constant(name, value)

    width, heads = config.hidden_size, config.num_attention_heads
    tokens, head = config.patches + 1, config.hidden_size // config.num_attention_heads
    graph.constant("shape.patches", np.array([0, width, config.patches], np.int64))
    graph.constant("shape.heads", np.array([0, tokens, heads, head], np.int64))
    graph.constant("shape.tokens", np.array([0, tokens, width], np.int64))
    graph.constant("attention.scale", np.array(1 / sqrt(head), dtype))
    graph.constant("gelu.sqrt2", np.array(sqrt(2), dtype))
    graph.constant("gelu.one", np.array(1, dtype))
    graph.constant("gelu.half", np.array(0.5, dtype))

    def linear(x: str, name: str) -> str:
        product = graph.add("MatMul", [x, f"{name}.weight"], f"{name}.matmul")
        return graph.add("Add", [product, f"{name}.bias"], f"{name}.out")

    def norm(x: str, name: str) -> str:
        return graph.add(
            "LayerNormalization",
            [x, f"{name}.weight", f"{name}.bias"],
            f"{name}.out",
            axis=-1,
            epsilon=config.layer_norm_eps,
        )

    def gelu(x: str, name: str) -> str:
        scaled = graph.add("Div", [x, "gelu.sqrt2"], f"{name}.scaled")
        erf = graph.add("Erf", [scaled], f"{name}.erf")
        plus = graph.add("Add", [erf, "gelu.one"], f"{name}.plus")
        product = graph.add("Mul", [x, plus], f"{name}.product")
        return graph.add("Mul", [product, "gelu.half"], f"{name}.out")

    def attention(x: str, name: str) -> str:
        def split(part: str, perm: list[int]) -> str:
            flat = linear(x, f"{name}.attention.{part}")
            apart = graph.add("Reshape", [flat, "shape.heads"], f"{name}.{part}.heads")
            return graph.add("Transpose", [apart], f"{name}.{part}.split", perm=perm)

        query, key = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1])
        value = split("value", [0, 2, 1, 3])
        scores = graph.add("MatMul", [query, key], f"{name}.scores")
        scaled = graph.add("Mul", [scores, "attention.scale"], f"{name}.scaled")
        weights = graph.add("Softmax", [scaled], f"{name}.weights", axis=-1)
        mixed = graph.add("MatMul", [weights, value], f"{name}.mixed")
        apart = graph.add("Transpose", [mixed], f"{name}.merged", perm=[0, 2, 1, 3])
        joined = graph.add("Reshape", [apart, "shape.tokens"], f"{name}.joined")
        return linear(joined, f"{name}.output.dense")

    picture = "pixel_values"
    if config.pool > 1:
        gray = graph.add("ReduceMean", [picture], "pool.gray", axes=[1], keepdims=1)
        size = [config.pool, config.pool]
        picture = graph.add("AveragePool", [gray], "pool.out", kernel_shape=size, strides=size)
    embeddings = "vit.embeddings"
    projection = f"{embeddings}.patch_embeddings.projection"
    side = config.projection_shape[2:]
    grid = graph.add(
        "Conv",
        [picture, f"{projection}.weight", f"{projection}.bias"],
        f"{projection}.out",
        kernel_shape=side,
        strides=side,
    )
    flat = graph.add("Reshape", [grid, "shape.patches"], f"{embeddings}.flat")
    patches = graph.add("Transpose", [flat], f"{embeddings}.patches", perm=[0, 2, 1])
    if batch is None:
        graph.constant("shape.cls_tail", np.array([1, width], np.int64))
        rows = graph.add("Shape", [patches], f"{embeddings}.batch", start=0, end=1)
        target = graph.add("Concat", [rows, "shape.cls_tail"], f"{embeddings}.cls_shape", axis=0)
    else:
        target = graph.constant("shape.cls", np.array([batch, 1, width], np.int64))
    cls = graph.add("Expand", [f"{embeddings}.cls_token", target], f"{embeddings}.cls")
    sequence = graph.add("Concat", [cls, patches], f"{embeddings}.sequence", axis=1)
    x = graph.add("Add", [sequence, f"{embeddings}.position_embeddings"], f"{embeddings}.out")

    for index in range(config.num_hidden_layers):
        layer = f"vit.encoder.layer.{index}"
        attended = attention(norm(x, f"{layer}.layernorm_before"), f"{layer}.attention")
        x = graph.add("Add", [attended, x], f"{layer}.attended")
        inner = linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
        mlp = linear(gelu(inner, f"{layer}.gelu"), f"{layer}.output.dense")
        x = graph.add("Add", [mlp, x], f"{layer}.out")

    # Only the CLS token is classified, so only it needs the last LayerNorm.
    graph.constant("cls.index", np.array(0, np.int64))
    cls = graph.add("Gather", [x, "cls.index"], "cls.out", axis=1)
    product = graph.add("MatMul", [norm(cls, "vit.layernorm"), "classifier.weight"], "classifier.matmul")
    graph.add("Add", [product, "classifier.bias"], "logits")

    kind = TensorProto.FLOAT if dtype == np.float32 else TensorProto.FLOAT16
    rows = "batch" if batch is None else batch
    size = [config.num_channels, config.image_size, config.image_size]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "vit",
            [helper.make_tensor_value_info("pixel_values", kind, [rows, *size])],
            [helper.make_tensor_value_info("logits", kind, [rows, config.num_labels])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name=producer,
    )
    return model


def config_json(config: VitConfig, labels: list[str], **extra: object) -> dict[str, object]:
    """The model's `config.json` with the keys that Hugging Face's `ViTConfig` writes."""
    return {
        "architectures": ["ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "encoder_stride": config.patch_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.hidden_size,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "image_size": config.image_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "label2id": {label: index for index, label in enumerate(labels)},
        "layer_norm_eps": config.layer_norm_eps,
        "model_type": "vit",
        "num_attention_heads": config.num_attention_heads,
        "num_channels": config.num_channels,
        "num_hidden_layers": config.num_hidden_layers,
        "patch_size": config.patch_size,
        "qkv_bias": True,
        **extra,
    }
