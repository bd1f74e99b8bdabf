#!/usr/bin/env python3
"""Check `lighter.py` on a small model: what passes is kept and served, what does not leaves nothing.

    check_lighter.py models/fashion-vit/1 TESSERA

Exits with 1 at the first thing that is not as it should be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

LIGHTER = Path(__file__).with_name("lighter.py")
# Enough where it does not matter how far the models are apart.
FEW = ["--pictures", str(LIGHTER.parent.parent / "examples/ankle-boot.png")]


def lighter(folder: Path, binary: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tool."""
    command = [sys.executable, LIGHTER, folder, "--tessera", binary, *options]
    return subprocess.run(command, capture_output=True, text=True)


def everything_in(root: Path) -> dict[Path, bytes]:
    """Every file with its content."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check(folder: Path, binary: Path, root: Path) -> None:
    """Make both forms, try the refusals, and serve what was made."""
    original = root / "models/fashion/1"
    original.mkdir(parents=True)
    for path in folder.iterdir():
        (original / path.name).write_bytes(path.read_bytes())
    (original / "model.toml").write_text('file = "model.onnx"\ndisplay_name = "Fashion"\n')

    # A gate that nothing passes: exit code 1, the reason, and not a file more than before, nor an empty folder.
    before = sorted(root.rglob("*"))
    for options in (
        ["--int8", "--max-worst", "0"],
        ["--fp16", "--min-agreement", "1.1"],
        ["--int8", "--max-mean", "0"],
    ):
        refused = lighter(original, binary, *options, *FEW)
        assert refused.returncode == 1 and "was not kept" in refused.stderr, refused
        assert sorted(root.rglob("*")) == before, "a refused model has left something"

    for form in ("int8", "fp16"):
        done = lighter(original, binary, f"--{form}")
        assert done.returncode == 0, done.stderr
        made = root / f"models/fashion-{form}/1"
        report = json.loads((made / "ACCURACY.json").read_text())
        assert report["measured"]["pictures"] >= 20 and report["measured"]["agreement"] >= 0.98, report
        # Other numbers than the original's, or nothing was made lighter.
        assert report["measured"]["worst_difference"] > 0, report
        assert report["megabytes"]["lighter"] < 0.6 * report["megabytes"]["original"], report
        assert (made / "config.json").read_bytes() == (original / "config.json").read_bytes()
        assert (made / "model.toml").read_text() == 'display_name = "Fashion"\n'
        graph = onnx.load(made / "model.onnx").graph
        for value in [*graph.input, *graph.output]:
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT, value
        print(f"{form}: {done.stdout.strip()}")

    # An earlier one is not touched without --replace, nor when its replacement is refused.
    before = everything_in(root)
    for options in (["--int8"], ["--int8", "--replace", "--max-worst", "0"]):
        assert lighter(original, binary, *options, *FEW).returncode == 1
        assert everything_in(root) == before
    replaced = lighter(original, binary, "--int8", "--replace", *FEW)
    assert replaced.returncode == 0 and everything_in(root) != before, replaced.stderr

    # The server takes the folders as they are, ACCURACY.json included.
    checked = subprocess.run([binary, "check", "--models", root / "models"], cwd=root, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count(" ok ") == 4, checked
    print("refusals leave nothing, and the server takes what was made")


def main() -> int:
    """Check in a folder that is removed afterwards."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, binary = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as root:
        check(folder, binary, Path(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
