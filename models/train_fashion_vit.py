#!/usr/bin/env python3
"""Train a small Vision Transformer on Fashion-MNIST and export it as `models/fashion-vit`.

Needs `requirements-train.txt` and Debian's package `dataset-fashion-mnist`. Training is seeded,
shows its progress, saves a checkpoint after every epoch and goes on from it when started again.
The export takes pictures of 224x224 in [-1, 1], channels first; its accuracy is measured through
the exported file on all 10,000 test pictures, enlarged to 224x224 by Pillow as a server does.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from PIL import Image

import huggingface
import vit

LABELS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip

# Side of a training picture, and how many pixels of the served picture make one of its.
SIDE, POOL = 28, 8

Parameters = dict[str, jax.Array]


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes (the format of MNIST)."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def as_served(pictures: np.ndarray) -> np.ndarray:
    """What the graph's averaging makes of pictures that were enlarged eightfold, in [-1, 1].

    Bilinear enlarging by 8 and then averaging squares of 8 is not the identity: along each
    axis it is the kernel [1/8, 3/4, 1/8] with the edge repeated. Training sees the same.
    """
    x = pictures.astype(np.float32)
    for axis in (1, 2):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(x, pad, mode="edge")
        low, mid, high = (np.take(wide, range(i, i + SIDE), axis) for i in range(3))
        x = 0.125 * low + 0.75 * mid + 0.125 * high
    return x / 127.5 - 1


def augment(batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the pictures and move each by up to one pixel; black comes in."""
    count = len(batch)
    padded = np.pad(batch, ((0, 0), (1, 1), (1, 1)), constant_values=-1.0)
    rows = rng.integers(0, 3, (count, 1, 1)) + np.arange(SIDE)[None, :, None]
    columns = np.arange(SIDE)[None, None, :]
    columns = np.where(rng.random((count, 1, 1)) < 0.5, columns, SIDE - 1 - columns)
    columns = columns + rng.integers(0, 3, (count, 1, 1))
    return padded[np.arange(count)[:, None, None], rows, columns]


def initialise(config: vit.VitConfig, seed: int) -> dict[str, np.ndarray]:
    """Seeded starting values: Xavier for matrices, small noise for embeddings, LayerNorm = identity."""
    rng = np.random.default_rng(seed)
    parameters = {}
    for name, shape in config.parameter_shapes():
        if name.endswith(("cls_token", "position_embeddings")):
            value = rng.normal(0, 0.02, shape)
        elif name.endswith("bias"):
            value = np.zeros(shape)
        elif "layernorm" in name:
            value = np.ones(shape)
        else:
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            fan_out = shape[-1] if len(shape) == 2 else shape[0]
            value = rng.normal(0, (2 / (fan_in + fan_out)) ** 0.5, shape)
        parameters[name] = value.astype(np.float32)
    return parameters


def forward(config: vit.VitConfig, p: Parameters, pictures: jax.Array) -> jax.Array:
    """Logits of averaged pictures [batch, 28, 28] in [-1, 1]: the part of the graph after pooling."""
    batch, width, heads = len(pictures), config.hidden_size, config.num_attention_heads

    def norm(x: jax.Array, name: str) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return (
            centred * jax.lax.rsqrt(variance + config.layer_norm_eps) * p[f"{name}.weight"]
            + p[f"{name}.bias"]
        )

    def linear(x: jax.Array, name: str) -> jax.Array:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    side = config.projection_shape[2]
    grid = SIDE // side
    cut = pictures.reshape(batch, grid, side, grid, side).transpose(0, 1, 3, 2, 4)
    kernel = p["vit.embeddings.patch_embeddings.projection.weight"].reshape(width, side * side)
    x = cut.reshape(batch, grid * grid, side * side) @ kernel.T
    x = x + p["vit.embeddings.patch_embeddings.projection.bias"]
    cls = jnp.broadcast_to(p["vit.embeddings.cls_token"], (batch, 1, width))
    x = jnp.concatenate([cls, x], 1) + p["vit.embeddings.position_embeddings"]
    for index in range(config.num_hidden_layers):
        layer = f"vit.encoder.layer.{index}"
        y = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(y, f"{layer}.attention.attention.{part}")
            .reshape(batch, -1, heads, width // heads).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )  # fmt: skip
        weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) * (width // heads) ** -0.5, -1)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, -1, width)
        x = x + linear(mixed, f"{layer}.attention.output.dense")
        y = linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
        y = 0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))
        x = x + linear(y, f"{layer}.output.dense")
    return linear(norm(x[:, 0], "vit.layernorm"), "classifier")


def loss(config: vit.VitConfig, p: Parameters, pictures: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of a batch."""
    logs = jax.nn.log_softmax(forward(config, p, pictures))
    return -jnp.take_along_axis(logs, labels[:, None], 1).mean()


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2, 3))
def step(
    config: vit.VitConfig, p: Parameters, m: Parameters, v: Parameters,
    count: jax.Array, rate: jax.Array, pictures: jax.Array, labels: jax.Array,
) -> tuple[Parameters, Parameters, Parameters, jax.Array]:  # fmt: skip
    """One step of AdamW (betas .9 and .99, weight decay .05 on matrices); `count` starts at 1."""
    value, gradient = jax.value_and_grad(loss, 1)(config, p, pictures, labels)
    m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda a, g: 0.99 * a + 0.01 * g * g, v, gradient)
    fast, slow = 1 - 0.9**count, 1 - 0.99**count

    def update(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        decay = 0.05 if x.ndim in (2, 4) else 0.0
        return x - rate * (a / fast / (jnp.sqrt(b / slow) + 1e-8) + decay * x)

    return jax.tree.map(update, p, m, v), m, v, value


def save(path: Path, epoch: int, p: Parameters, m: Parameters, v: Parameters) -> None:
    """Write a checkpoint in one move, so that an interruption leaves the one before."""
    arrays = {
        f"{kind}/{name}": x for kind, tree in (("p", p), ("m", m), ("v", v)) for name, x in tree.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial.npz")
    np.savez(partial_path, epoch=epoch, **arrays)
    partial_path.replace(path)


def load(path: Path) -> tuple[int, Parameters, Parameters, Parameters]:
    """Read a checkpoint: the epochs done, parameters, and the optimiser's two moments."""
    with np.load(path) as file:
        trees = tuple({n[2:]: jnp.asarray(file[n]) for n in file.files if n[:2] == f"{k}/"} for k in "pmv")
        return int(file["epoch"]), *trees


def train(config: vit.VitConfig, arguments: argparse.Namespace) -> None:
    """Train until `--epochs` are done, one checkpoint an epoch."""
    pictures = as_served(read_idx(arguments.data / "train-images-idx3-ubyte.gz"))
    labels = read_idx(arguments.data / "train-labels-idx1-ubyte.gz").astype(np.int32)
    test = as_served(read_idx(arguments.data / "t10k-images-idx3-ubyte.gz"))
    truth = read_idx(arguments.data / "t10k-labels-idx1-ubyte.gz")
    if arguments.checkpoint.exists():
        done, p, m, v = load(arguments.checkpoint)
        print(f"going on after epoch {done} of {arguments.checkpoint}", flush=True)
    else:
        done, p = 0, {k: jnp.asarray(x) for k, x in initialise(config, arguments.seed).items()}
        m, v = ({k: jnp.zeros_like(x) for k, x in p.items()} for _ in range(2))
    infer = jax.jit(partial(forward, config))
    batches = len(pictures) // arguments.batch
    total = batches * arguments.epochs
    for epoch in range(done, arguments.epochs):
        # The epoch is part of the seed: an interrupted run repeats exactly what it would have done.
        rng = np.random.default_rng([arguments.seed, epoch])
        order = rng.permutation(len(pictures))
        start, value = time.monotonic(), 0.0
        for index in range(batches):
            chosen = order[index * arguments.batch : (index + 1) * arguments.batch]
            count = epoch * batches + index + 1
            warm = min(1.0, count / (batches * 1.0))
            rate = arguments.rate * warm * 0.5 * (1 + np.cos(np.pi * count / total))
            batch = augment(pictures[chosen], rng)
            p, m, v, cost = step(config, p, m, v, np.float32(count), np.float32(rate), batch, labels[chosen])
            if index % 20 == 0:
                value = float(cost)
                spent = time.monotonic() - start
                print(
                    f"\repoch {epoch + 1:2} batch {index + 1:4}/{batches} loss {value:.3f} {spent:4.0f} s",
                    end="",
                    flush=True,
                )
        save(arguments.checkpoint, epoch + 1, p, m, v)
        hits = sum(
            (np.asarray(infer(p, test[i : i + 500])).argmax(1) == truth[i : i + 500]).sum()
            for i in range(0, len(test), 500)
        )
        print(
            f"\repoch {epoch + 1:2} test accuracy {hits / len(test):.4f} in {time.monotonic() - start:.0f} s"
            + " " * 20,
            flush=True,
        )


def measure(model: Path, data: Path) -> float:
    """Accuracy of the exported file on the whole test set, through 224x224 pictures."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pictures = read_idx(data / "t10k-images-idx3-ubyte.gz")
    truth = read_idx(data / "t10k-labels-idx1-ubyte.gz")
    hits, size = 0, (SIDE * POOL, SIDE * POOL)
    for start in range(0, len(pictures), 50):
        large = [
            np.asarray(Image.fromarray(x).convert("RGB").resize(size, Image.Resampling.BILINEAR))
            for x in pictures[start : start + 50]
        ]
        values = (np.stack(large).astype(np.float32) / 255 - 0.5) / 0.5
        (logits,) = session.run(["logits"], {"pixel_values": values.transpose(0, 3, 1, 2)})
        hits += int((logits.argmax(1) == truth[start : start + 50]).sum())
        if start % 500 == 0:
            print(f"\rtested {start:5}/{len(pictures)}", end="", flush=True)
    print(f"\raccuracy of {model} at 224x224: {hits / len(pictures):.4f}", flush=True)
    return hits / len(pictures)


def export(config: vit.VitConfig, arguments: argparse.Namespace) -> None:
    """Write the checkpoint as a model folder, and its measured accuracy into `config.json`."""
    epoch, parameters, _, _ = load(arguments.checkpoint)
    arrays = {name: np.asarray(value) for name, value in parameters.items()}
    model = vit.build(config, arrays, producer="tessera train_fashion_vit")
    onnx.checker.check_model(model, full_check=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    onnx.save(model, arguments.output / "model.onnx")
    metrics = {
        "dataset": "Fashion-MNIST, 10,000 test pictures at 224x224",
        "accuracy": measure(arguments.output / "model.onnx", arguments.data),
        "epochs": epoch,
    }
    huggingface.write_json(arguments.output / "config.json", vit.config_json(config, LABELS, metrics=metrics))
    huggingface.write_json(arguments.output / "preprocessor_config.json", huggingface.preprocessor_config())


def main() -> int:
    """Parse the command line, then train (unless told not to) and export."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of the four IDX files (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=here.parent / "models-extra/fashion-vit.npz",
        help="checkpoint to go on from and to write",
    )
    parser.add_argument("--output", type=Path, default=here / "fashion-vit/1", help="model folder to write")
    parser.add_argument(
        "--epochs", type=int, default=16, help="length of the whole training (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=128, help="pictures a step (default: %(default)s)")
    parser.add_argument(
        "--rate", type=float, default=2e-3, help="highest learning rate (default: %(default)s)"
    )
    parser.add_argument("--width", type=int, default=64, help="hidden size (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="number of blocks (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=2, help="attention heads (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of weights, order and augmentation (default: %(default)s)"
    )
    parser.add_argument(
        "--export-only", action="store_true", help="do not train, export the checkpoint as it is"
    )
    parser.add_argument("--train-only", action="store_true", help="do not export")
    arguments = parser.parse_args()
    if not (arguments.data / "train-images-idx3-ubyte.gz").exists():
        print(
            f"no Fashion-MNIST in {arguments.data}: apt-get install dataset-fashion-mnist, or give --data",
            file=sys.stderr,
        )
        return 1
    config = vit.VitConfig(
        hidden_size=arguments.width, num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads,
        intermediate_size=4 * arguments.width, num_labels=len(LABELS),
        image_size=SIDE * POOL, patch_size=4 * POOL, pool=POOL, layer_norm_eps=1e-6,
    )  # fmt: skip
    if not arguments.export_only:
        train(config, arguments)
    if not arguments.train_only:
        export(config, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
