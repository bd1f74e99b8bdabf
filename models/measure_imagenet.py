#!/usr/bin/env python3
"""Measure `models/imagenet`: labelled pictures, and that a batch gives what single pictures give.

Without arguments it classifies the 20 labelled ImageNet pictures of the Python package `foolbox`
(fetched, read, never installed and never committed). Exits with 1 if a batch and single
pictures disagree.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import packages

TOLERANCE = 1e-3  # largest difference of a logit between a batch and single pictures


def pixel_values(picture: Image.Image) -> np.ndarray:
    """The whole picture squashed to 224x224 (bilinear with antialias), [-1, 1], channels first."""
    small = np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    return ((small.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax along the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def labelled() -> list[tuple[str, Image.Image, int]]:
    """Foolbox's ImageNet samples: name, picture, class (the number at the end of the name)."""
    found = []
    with zipfile.ZipFile(packages.FOOLBOX.fetch()) as wheel:
        for name in sorted(wheel.namelist()):
            stem = Path(name).stem
            if stem.startswith("imagenet_") and name.endswith(".jpg"):
                found.append((stem, Image.open(io.BytesIO(wheel.read(name))), int(stem.rsplit("_", 1)[1])))
    return found


def main() -> int:
    """Parse the command line, classify, and print a line a picture."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "images", nargs="*", type=Path, help="pictures to classify instead of the labelled ones"
    )
    parser.add_argument(
        "--model", type=Path, default=here / "imagenet/1", help="model folder (default: %(default)s)"
    )
    arguments = parser.parse_args()

    labels = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))["id2label"]
    session = onnxruntime.InferenceSession(arguments.model / "model.onnx", providers=["CPUExecutionProvider"])
    if arguments.images:
        pictures = [(path.name, Image.open(path), None) for path in arguments.images]
    else:
        pictures = labelled()
    batch = np.stack([pixel_values(picture) for _, picture, _ in pictures])
    (together,) = session.run(["logits"], {"pixel_values": batch})
    alone = np.concatenate([session.run(["logits"], {"pixel_values": row[None]})[0] for row in batch])

    first = fifth = 0
    for (name, _, truth), row in zip(pictures, alone, strict=True):
        order = np.argsort(-row, kind="stable")
        first += int(order[0] == truth)
        fifth += int(truth in order[:5])
        print(f"{name:24} {labels[str(order[0])]:40} {probabilities(row)[order[0]]:.4f}")
    if not arguments.images:
        print(f"top-1 {first}/{len(pictures)}, top-5 {fifth}/{len(pictures)}")
    difference = float(np.abs(together - alone).max())
    print(f"batch of {len(pictures)} against single pictures: largest difference of a logit {difference:.2e}")
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
