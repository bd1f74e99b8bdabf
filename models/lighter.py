#!/usr/bin/env python3
"""Make a lighter version of a model, and keep it only if it answers like the original.

    lighter.py models/NAME/VERSION --int8     8-bit weights: about 3 times as fast on a CPU, a quarter of the size
    lighter.py models/NAME/VERSION --fp16     half precision for GPUs; inputs and outputs stay float32

Both models are asked about the same pictures, prepared by `tessera preprocess` as the server prepares
them. Where the lighter one's answers are too far off, nothing is written and the exit code is 1. Else
the new model folder stands beside the old one (NAME-int8/VERSION), with what was measured in its
ACCURACY.json. Compare on pictures like those that the model will see (--pictures): a few that it was
not made for, which is what the default is to most models, say little.

What is compared, in probabilities (softmax of the logits; sigmoid for independent labels):
  agreement          the share of pictures with the same most probable class
  worst difference   the largest difference of a probability, of any class of any picture
  mean difference    the mean over the pictures of each one's largest difference

--int8 is dynamic quantisation of MatMul and Gemm: it needs no calibration, and gains nothing for
convolutional networks, which are refused. Processors without VNNI instructions (before 2018 or so) may
overflow in it; --reduce-range gives up one bit for them. A model that computes in half precision is slow
on CPUs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "tests/golden/images"
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}
QUANTISED = ("MatMul", "Gemm")
# Where `cargo build` puts the binary, best first.
BINARIES = [
    Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / profile / "tessera" for profile in ("release", "debug")
]


class Failure(Exception):
    """Why there is no lighter model; the message says what to do."""


class Progress:
    """One line that is written over on a terminal, and lines elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = 0.0

    def show(self, text: str, *, last: bool = False) -> None:
        """Say how far it is; in a log only now and then."""
        now = time.monotonic()
        if self._is_terminal:
            print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or now - self._last > 5:
            self._last = now
            print(text, file=sys.stderr, flush=True)


def model_file(folder: Path) -> Path:
    """The ONNX file of a model folder, found as the server finds it."""
    named = model_toml(folder).get("file")
    for name in [named] if named else ["model.onnx", "onnx/model.onnx"]:
        if (folder / name).is_file():
            return folder / name
    raise Failure(f"{folder} has no {named or 'model.onnx'}: name the folder of one version, such as models/NAME/1")


def model_toml(folder: Path) -> dict:
    """What model.toml says, in the version's folder or in that of all versions."""
    for place in [folder, folder.parent] if folder.name.isdigit() else [folder]:
        if (place / "model.toml").is_file():
            return tomllib.loads((place / "model.toml").read_text(encoding="utf-8"))
    return {}


def activation(folder: Path) -> str:
    """What makes probabilities of the model's outputs: softmax, sigmoid or none."""
    said = model_toml(folder).get("postprocess", {}).get("activation")
    config = folder / "config.json"
    problem = json.loads(config.read_text(encoding="utf-8")).get("problem_type") if config.is_file() else None
    return said or ("sigmoid" if problem == "multi_label_classification" else "softmax")


def target_folder(folder: Path, suffix: str) -> Path:
    """NAME-int8/VERSION beside NAME/VERSION, or NAME-int8 beside NAME."""
    if folder.name.isdigit():
        return folder.parent.with_name(f"{folder.parent.name}-{suffix}") / folder.name
    return folder.with_name(f"{folder.name}-{suffix}")


def quantise(source: Path, target: Path, reduce_range: bool) -> None:
    """Write the model with 8-bit weights. Raises `Failure` if it has nothing that would be quantised."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # Its advice to run a step before is for graphs without shapes.
    model = onnx.load(source)
    # Shapes that exporters have left behind contradict what quantisation changes.
    del model.graph.value_info[:]
    quantize_dynamic(
        model, target, weight_type=QuantType.QInt8, op_types_to_quantize=list(QUANTISED), reduce_range=reduce_range,
        extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip
    operators = Counter(node.op_type for node in onnx.load(target, load_external_data=False).graph.node)
    if not operators["MatMulInteger"] + operators["DynamicQuantizeMatMul"]:
        raise Failure("the model has no MatMul or Gemm with constant weights, so that 8 bits would gain nothing")


def halve(source: Path, target: Path) -> None:
    """Write the model in half precision, its inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def pictures_of(places: list[Path]) -> list[Path]:
    """The pictures that are named, and those in folders that are named."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise Failure(f"--pictures: there is no {place}")
        inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        found += inside if place.is_dir() else [place]
    if not found:
        raise Failure(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, places))}")
    return found


def prepared(binary: Path, folder: Path, picture: Path, scratch: Path) -> np.ndarray:
    """The tensor that the model would see of a picture, by the server's own preprocessing."""
    output = scratch / "tensor.npy"
    command = [binary, "preprocess", picture.resolve(), "--output", output, "--models", folder.resolve()]
    # In a folder without a config.toml, so that the built-in settings hold.
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{picture} could not be prepared:\n{done.stderr.strip()}")
    return np.load(output)


def session_of(path: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU without chatter."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def probabilities(session: onnxruntime.InferenceSession, kind: str, pixels: np.ndarray) -> np.ndarray:
    """The probability of each class of one picture, in float64."""
    taken = session.get_inputs()
    if len(taken) != 1 or len(taken[0].shape) != 4:
        raise Failure("only image classifiers with one input can be compared")
    outputs = [output.name for output in session.get_outputs()]
    rows = taken[0].shape[0] if isinstance(taken[0].shape[0], int) else 1
    dtype = np.float16 if taken[0].type == "tensor(float16)" else np.float32
    batch = np.repeat(pixels, rows, 0).astype(dtype)
    name = "logits" if "logits" in outputs else outputs[0]
    scores = session.run([name], {taken[0].name: batch})[0][0].astype(np.float64)
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-scores))
    if kind == "none":
        return scores
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def compare(folder: Path, lighter: Path, pictures: list[Path], binary: Path, scratch: Path) -> dict:
    """Ask both models about each picture. Figures that are not numbers fail every gate."""
    kind, progress = activation(folder), Progress()
    sessions = [session_of(model_file(folder)), session_of(lighter)]
    same, differences, seconds = 0, [], [0.0, 0.0]
    for index, picture in enumerate(pictures, 1):
        pixels = prepared(binary, folder, picture, scratch)
        answers = []
        for which, session in enumerate(sessions):
            begin = time.perf_counter()
            answers.append(probabilities(session, kind, pixels))
            seconds[which] += time.perf_counter() - begin
        same += int(answers[0].argmax() == answers[1].argmax())
        differences.append(float(np.abs(answers[0] - answers[1]).max()))
        so_far = f"same class {same}/{index}, worst difference {np.max(differences):.4f}"
        progress.show(f"comparing: picture {index}/{len(pictures)}, {so_far}", last=index == len(pictures))
    return {
        "pictures": len(pictures),
        "agreement": same / len(pictures),
        "worst_difference": float(np.max(differences)),
        "mean_difference": float(np.mean(differences)),
        "seconds_a_picture": {"original": seconds[0] / len(pictures), "lighter": seconds[1] / len(pictures)},
    }


def misses(measured: dict, gate: dict) -> list[str]:
    """What is below the gate, in words. Written so that NaN is a miss."""
    found = []
    if not measured["agreement"] >= gate["min_agreement"]:
        found.append(f"agreement {measured['agreement']:.4f}, at least {gate['min_agreement']:g} is asked for")
    for which in ("worst", "mean"):
        value, bound = measured[f"{which}_difference"], gate[f"max_{which}_difference"]
        if not value <= bound:
            found.append(f"{which} difference {value:.4f}, at most {bound:g} is allowed")
    return found


def make(arguments: argparse.Namespace) -> Path:
    """Make, compare, and put in place. Raises `Failure`, and then leaves nothing."""
    folder: Path = arguments.folder
    form = "int8" if arguments.int8 else "fp16"
    source, target = model_file(folder), arguments.output or target_folder(folder.resolve(), form)
    if target.exists() and not arguments.replace:
        raise Failure(f"{target} exists; --replace makes it anew")
    binary = arguments.tessera or next((path for path in BINARIES if path.is_file()), None)
    if not binary or not binary.is_file():
        raise Failure("needs the binary, which prepares the pictures: `make build`, or --tessera PATH")
    pictures = pictures_of(arguments.pictures or [PICTURES])
    gate = {
        "min_agreement": arguments.min_agreement,
        "max_worst_difference": arguments.max_worst,
        "max_mean_difference": arguments.max_mean,
    }
    # Created parents go again if it fails; the folder itself comes by a rename, whole.
    created = [parent for parent in [target.parent, *target.parent.parents] if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".lighter-", dir=target.parent))
    try:
        print(f"making {form} of {source}", file=sys.stderr, flush=True)
        lighter = made / "model.onnx"
        if arguments.int8:
            quantise(source, lighter, arguments.reduce_range)
        else:
            halve(source, lighter)
        with tempfile.TemporaryDirectory() as scratch:
            measured = compare(folder, lighter, pictures, binary.resolve(), Path(scratch))
        found = misses(measured, gate)
        if found:
            lines = "".join(f"\n  {line}" for line in found)
            raise Failure(f"the {form} model answers differently, so it was not kept:{lines}")
        copy_rest(folder, made)
        report = {
            "form": form, "made_from": f"{folder.resolve().parent.name}/{folder.resolve().name}",
            "onnxruntime": onnxruntime.__version__, "gate": gate, "measured": measured,
            "megabytes": {"original": size_of(source), "lighter": size_of(lighter)},
        }  # fmt: skip
        (made / "ACCURACY.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        made.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        for parent in created:
            parent.rmdir()
        raise
    return target


def size_of(file: Path) -> float:
    """Megabytes of a model's file and of the data beside it."""
    beside = [path for path in file.parent.iterdir() if path.suffix == ".data" or path.suffix.startswith(".onnx_data")]
    return round(sum(path.stat().st_size for path in [file, *beside]) / 1e6, 2)


def copy_rest(folder: Path, made: Path) -> None:
    """What stands beside the model: JSON, labels, model.toml without `file`, which names the original's."""
    weights = {".onnx", ".data"}
    for path in folder.iterdir():
        is_weights = path.suffix in weights or path.suffix.startswith(".onnx_data")
        if path.is_file() and not is_weights and path.name != "ACCURACY.json":
            shutil.copy2(path, made / path.name)
    shared = folder.parent / "model.toml"
    toml = made / "model.toml"
    if folder.name.isdigit() and shared.is_file() and not toml.exists():
        shutil.copy2(shared, toml)
    if toml.exists():
        lines = toml.read_text(encoding="utf-8").splitlines(keepends=True)
        toml.write_text("".join(line for line in lines if line.split("=")[0].strip() != "file"), encoding="utf-8")


def share(text: str) -> float:
    """A number from 0 to 1. A gate beyond 1 could not be passed, which is how to try the refusal."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def main() -> int:
    """Parse the command line, make the model, say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the model's version, with model.onnx in it")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--int8", action="store_true", help="8-bit weights, for CPUs")
    form.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to put it (default: beside the original)")
    parser.add_argument("--replace", action="store_true", help="replace an earlier one, if the gate is passed")
    parser.add_argument("--pictures", type=Path, nargs="+", metavar="PLACE",
                        help="pictures, or folders of them (default: tests/golden/images)")  # fmt: skip
    gate = parser.add_argument_group("the gate")
    gate.add_argument("--min-agreement", type=share, default=0.98, metavar="SHARE", help="default: %(default)s")
    gate.add_argument(
        "--max-worst", type=share, default=0.1, metavar="P", help="worst difference (default: %(default)s)"
    )
    gate.add_argument(
        "--max-mean", type=share, default=0.02, metavar="P", help="mean difference (default: %(default)s)"
    )
    parser.add_argument("--reduce-range", action="store_true", help="7 bits, for processors without VNNI")
    parser.add_argument("--tessera", type=Path, metavar="PATH", help="the binary (default: where cargo builds it)")
    arguments = parser.parse_args()
    try:
        target = make(arguments)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    report = json.loads((target / "ACCURACY.json").read_text(encoding="utf-8"))
    measured, size = report["measured"], report["megabytes"]
    print(
        f"{target}: {size['lighter']} MB instead of {size['original']}, same class in {measured['agreement']:.1%} of "
        f"{measured['pictures']} pictures, worst difference {measured['worst_difference']:.4f}, "
        f"mean {measured['mean_difference']:.4f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
