"""What every peer computes: the same ONNX file, the same preparation, the same answers as Tessera's.

The servers beside this file differ in how requests reach `Model` and answers leave it, and in nothing else. Settings
come from variables, because that is what all of them hand on to their workers:

    BENCH_MODEL     a folder with `model.onnx` and, for pictures, `config.json`
    BENCH_KIND      `image` or `tabular`
    BENCH_WORKERS   processes, each with a session of one thread: as many as cores
    BENCH_PORT      where to listen, on 127.0.0.1
    BENCH_BATCH     most instances of a batch, for the servers that form batches
    BENCH_DELAY     how long such a batch waits for more, in seconds
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

FOLDER = Path(os.environ.get("BENCH_MODEL", "."))
KIND = os.environ.get("BENCH_KIND", "image")
WORKERS = int(os.environ.get("BENCH_WORKERS", os.cpu_count() or 1))
PORT = int(os.environ.get("BENCH_PORT", "8080"))
BATCH = int(os.environ.get("BENCH_BATCH", "8"))
DELAY = float(os.environ.get("BENCH_DELAY", "0.002"))

SIDE = 224


def session(folder: Path = FOLDER, threads: int = 1) -> onnxruntime.InferenceSession:
    """One thread and no spinning: the processes share the cores, and two threads in each would fight for them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])


class Model:
    """A session, and what stands before and after it."""

    def __init__(self) -> None:
        self.session = session()
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.labels = read_labels(FOLDER) if KIND == "image" else []
        self.predict(self.example())

    def example(self) -> np.ndarray:
        """An input to warm up with."""
        shape = (1, 3, SIDE, SIDE) if KIND == "image" else (1, self.session.get_inputs()[0].shape[1])
        return np.zeros(shape, np.float32)

    def prepare(self, instance: object) -> np.ndarray:
        """The tensor of one instance, without the axis of the batch."""
        if KIND == "tabular":
            return np.asarray(instance, np.float32)
        return pixels(base64.b64decode(instance["b64"]))

    def predict(self, batch: np.ndarray) -> list[np.ndarray]:
        """The model's outputs."""
        return self.session.run(None, {self.input: batch})

    def answer(self, outputs: list[np.ndarray]) -> list[dict]:
        """The predictions of a batch."""
        if KIND == "tabular":
            columns = [output.tolist() for output in outputs]
            return [dict(zip(self.outputs, row)) for row in zip(*columns)]
        logits = outputs[0]
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        best = logits.argmax(axis=1)
        confidences = exponentials[np.arange(len(best)), best] / exponentials.sum(axis=1)
        return [
            {"label": self.labels[index], "confidence": float(confidence)}
            for index, confidence in zip(best.tolist(), confidences)
        ]

    def __call__(self, instances: list) -> list[dict]:
        """The predictions of a request's instances, for the servers that form no batches of several requests."""
        return self.answer(self.predict(np.stack([self.prepare(instance) for instance in instances])))


def pixels(file: bytes) -> np.ndarray:
    """Pillow's way to 3 x 224 x 224 in [-1, 1]. Not `Image.draft`, which decodes to fewer pixels and changes answers."""
    picture = Image.open(io.BytesIO(file)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    # One multiplication and one addition on what is already small.
    scaled = np.asarray(picture, np.float32) * np.float32(1 / 127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def read_labels(folder: Path) -> list[str]:
    """The labels in the order of the classes."""
    names = json.loads((folder / "config.json").read_text())["id2label"]
    return [names[str(index)] for index in range(len(names))]
