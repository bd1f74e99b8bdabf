#!/usr/bin/env python3
"""Write a ViT-B/16 of the right architecture with seeded random weights, as ONNX.

It answers nothing sensible: it is for measuring speed and for comparing numbers. Architecture,
parameter names and the two JSON files are those of Hugging Face's `ViTForImageClassification`
(`google/vit-base-patch16-224`), `pixel_values` [batch,3,224,224] to `logits` [batch,1000]. The
file is 346 MB and the same on every run with the same options; it is never committed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

import huggingface
import vit

SIZES = {
    "tiny": vit.VitConfig(192, 12, 3, 768, 1000),
    "small": vit.VitConfig(384, 12, 6, 1536, 1000),
    "base": vit.VitConfig(768, 12, 12, 3072, 1000),
}


def random_parameters(config: vit.VitConfig, seed: int) -> dict[str, np.ndarray]:
    """Seeded parameters under which every part of the network matters to the logits.

    Matrices keep the variance of what they multiply (standard deviation 1/sqrt(in)), so that
    attention is not uniform; biases and the LayerNorms' gains are noisy, so that one left out shows.
    """
    rng = np.random.default_rng(seed)
    parameters = {}
    for name, shape in config.parameter_shapes():
        value = rng.standard_normal(shape, np.float32)
        if name.endswith(("cls_token", "position_embeddings")):
            value *= np.float32(0.5)
        elif "layernorm" in name and name.endswith("weight"):
            value = np.float32(1) + np.float32(0.1) * value
        elif name.endswith("bias"):
            value *= np.float32(0.1)
        else:
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            value *= np.float32(fan_in**-0.5)
        parameters[name] = value
    return parameters


def quantise(model: onnx.ModelProto, target: Path) -> None:
    """Write the model with its linear layers' weights as int8 (dynamic quantisation)."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Its advice to run a pre-processing step is for graphs without shapes.
    logging.getLogger().setLevel(logging.ERROR)

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        onnx.save(model, source)
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"],
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip


def main() -> int:
    """Parse the command line and write the model folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parent.parent / "models-extra/vit-base/1"
    parser.add_argument(
        "output",
        nargs="?",
        type=Path,
        default=default,
        help="model folder to write (default: models-extra/vit-base/1)",
    )
    parser.add_argument(
        "--size", choices=SIZES, default="base", help="architecture to begin with (default: %(default)s)"
    )
    parser.add_argument("--layers", type=int, help="number of blocks instead of the size's")
    parser.add_argument("--width", type=int, help="hidden size instead of the size's")
    parser.add_argument("--heads", type=int, help="attention heads instead of the size's")
    parser.add_argument(
        "--mlp", type=int, help="width of the inner layer of each block instead of the size's"
    )
    parser.add_argument("--patch", type=int, help="side of a patch in pixels instead of 16")
    parser.add_argument("--labels", type=int, help="number of classes instead of 1000")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    parser.add_argument("--fixed-batch", type=int, metavar="N", help="fix the batch dimension to N")
    parser.add_argument("--external-data", action="store_true", help="keep the weights in model.onnx_data")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--fp16", action="store_true", help="float16 weights, input and output")
    form.add_argument("--int8", action="store_true", help="dynamic int8 quantisation (needs onnxruntime)")
    arguments = parser.parse_args()
    if arguments.int8 and arguments.external_data:
        parser.error("--int8 writes one file; leave out --external-data")

    chosen = {
        "num_hidden_layers": arguments.layers, "hidden_size": arguments.width, "num_attention_heads": arguments.heads,
        "intermediate_size": arguments.mlp, "patch_size": arguments.patch, "num_labels": arguments.labels,
    }  # fmt: skip
    config = dataclasses.replace(
        SIZES[arguments.size], **{key: value for key, value in chosen.items() if value}
    )
    if config.hidden_size % config.num_attention_heads or config.image_size % config.patch_size:
        parser.error("the width must be a multiple of the heads, and 224 of the patch")

    start = time.monotonic()
    print(
        f"making the weights of {config.num_hidden_layers} layers of width {config.hidden_size}", flush=True
    )
    parameters = random_parameters(config, arguments.seed)
    if arguments.fp16:
        parameters = {name: value.astype(np.float16) for name, value in parameters.items()}
    count = sum(value.size for value in parameters.values())
    model = vit.build(config, parameters, batch=arguments.fixed_batch, producer="tessera make_vit_base")
    onnx.checker.check_model(model)

    print(f"writing {arguments.output}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "model.onnx"
    data = arguments.output / "model.onnx_data"
    data.unlink(missing_ok=True)  # onnx appends to a file that is there
    if arguments.int8:
        quantise(model, path)
    elif arguments.external_data:
        onnx.save(model, path, save_as_external_data=True, location=data.name)
        data.chmod(0o644)  # onnx makes it readable for its owner only
    else:
        onnx.save(model, path)
    labels = [f"LABEL_{index}" for index in range(config.num_labels)]
    huggingface.write_json(arguments.output / "config.json", vit.config_json(config, labels))
    huggingface.write_json(
        arguments.output / "preprocessor_config.json", huggingface.preprocessor_config(config.image_size)
    )
    size = sum(file.stat().st_size for file in arguments.output.glob("model.onnx*")) / 1e6
    print(f"{path}: {count:,} parameters, {size:.1f} MB, {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
