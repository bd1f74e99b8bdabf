#!/usr/bin/env python3
"""Compare a ViT's logits in ONNX Runtime with an independent forward pass in numpy.

The forward pass is written from the formulas of the papers - ViT (arXiv 2010.11929, equations
1 to 4), attention (1706.03762), LayerNorm (1607.06450), GELU (1606.08415) - in float64, and shares
no code with the exporter. It reads the weights from the ONNX file by their Hugging Face names.
Exits with 1 if a logit differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

erf = np.frompyfunc(math.erf, 1, 1)


def layer_norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """Each vector shifted and scaled to mean 0 and variance 1, then gain and bias."""
    return gain * (x - np.mean(x, -1, keepdims=True)) / np.sqrt(np.var(x, -1, keepdims=True) + epsilon) + bias


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the probability that a standard normal variable is below x."""
    return x * 0.5 * (1.0 + erf(x / math.sqrt(2.0)).astype(np.float64))


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Scaled dot-product attention of one head; each argument is [tokens, head width]."""
    scores = q @ k.T / math.sqrt(q.shape[1])
    powers = np.exp(scores - np.max(scores, 1, keepdims=True))
    return (powers / np.sum(powers, 1, keepdims=True)) @ v


def forward(weights: dict[str, np.ndarray], config: dict, picture: np.ndarray) -> np.ndarray:
    """Logits of one picture [channels, height, width]."""
    side, channels = config["patch_size"], config["num_channels"]
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]

    kernel = weights["vit.embeddings.patch_embeddings.projection.weight"]
    if kernel.shape[1:] != (channels, side, side):
        # The model averages before it projects: spread every weight evenly over what it averages.
        squares = side // kernel.shape[2]
        spread = np.repeat(np.repeat(kernel, squares, 2), squares, 3) / (channels * squares * squares)
        kernel = np.broadcast_to(spread, (len(kernel), channels, side, side))
    projection = kernel.reshape(len(kernel), -1)
    tokens = [weights["vit.embeddings.cls_token"][0, 0]]
    for top in range(0, picture.shape[1], side):
        for left in range(0, picture.shape[2], side):
            patch = picture[:, top : top + side, left : left + side].reshape(-1)
            tokens.append(projection @ patch + weights["vit.embeddings.patch_embeddings.projection.bias"])
    z = np.stack(tokens) + weights["vit.embeddings.position_embeddings"][0]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    for index in range(config["num_hidden_layers"]):
        layer = f"vit.encoder.layer.{index}"
        y = norm(z, f"{layer}.layernorm_before")
        parts = [
            np.split(dense(y, f"{layer}.attention.attention.{part}"), heads, 1)
            for part in ("query", "key", "value")
        ]
        joined = np.concatenate([attend(q, k, v) for q, k, v in zip(*parts, strict=True)], 1)
        z = z + dense(joined, f"{layer}.attention.output.dense")
        y = gelu(dense(norm(z, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        z = z + dense(y, f"{layer}.output.dense")
    return dense(norm(z, "vit.layernorm")[0], "classifier")


def main() -> int:
    """Parse the command line, run both, print how far they are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder to check")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FOLDER",
        help="take the weights from this model folder (for an int8 model)",
    )
    parser.add_argument(
        "--pictures", type=int, default=2, help="number of random pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest allowed difference of a logit (default: %(default)s)",
    )
    arguments = parser.parse_args()

    config = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))
    source = onnx.load((arguments.weights or arguments.model) / "model.onnx")
    weights = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in source.graph.initializer
    }
    session = onnxruntime.InferenceSession(arguments.model / "model.onnx", providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    count = taken.shape[0] if isinstance(taken.shape[0], int) else arguments.pictures
    dtype = np.float16 if taken.type == "tensor(float16)" else np.float32
    # Rounded to the model's input type before either sees them.
    pictures = np.random.default_rng(7).uniform(-1, 1, (count, *taken.shape[1:])).astype(dtype)

    (found,) = session.run(["logits"], {"pixel_values": pictures})
    found = found.astype(np.float64)
    differences, cosines, agree = [], [], 0
    for index, picture in enumerate(pictures):
        expected = forward(weights, config, picture.astype(np.float64))
        differences.append(np.abs(found[index] - expected).max())
        cosines.append(found[index] @ expected / np.linalg.norm(found[index]) / np.linalg.norm(expected))
        agree += int(found[index].argmax() == expected.argmax())
        span = f"logits from {expected.min():.3f} to {expected.max():.3f}"
        print(f"picture {index + 1}/{count}: {span}, largest difference {differences[-1]:.2e}", flush=True)
    worst = float(np.max(differences))  # NaN if any is, unlike Python's max
    print(f"largest difference of a logit {worst:.3e} (tolerance {arguments.tolerance:.0e})")
    print(f"smallest cosine {np.min(cosines):.7f}, same first class {agree}/{count}")
    return 0 if worst <= arguments.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
