#!/usr/bin/env python3
"""Make the example pictures from public ones; needs `models/requirements.txt`.

The pictures come from the Python package `scikit-image` (pinned by sha256, only read) and from
Debian's `dataset-fashion-mnist`. `README.md` says what each is and under which licence.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))

import packages  # noqa: E402


def scikit_image(name: str) -> Image.Image:
    """One of scikit-image's sample pictures."""
    return Image.open(io.BytesIO(packages.SCIKIT_IMAGE.read(f"skimage/data/{name}")))


def fashion_mnist(data: Path, index: int) -> Image.Image:
    """One of Fashion-MNIST's test pictures, 28x28 grey."""
    pixels = gzip.decompress((data / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    return Image.frombytes("L", (28, 28), pixels[index * 784 : (index + 1) * 784])


def main() -> int:
    """Parse the command line and write the four pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=HERE, help="folder to write into (default: %(default)s)"
    )
    parser.add_argument(
        "--fashion-mnist",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of the data set (default: %(default)s)",
    )
    arguments = parser.parse_args()
    out: Path = arguments.output
    # The cat at full colour resolution (4:4:4), the coffee with the usual halved one (4:2:0).
    scikit_image("chelsea.png").convert("RGB").save(out / "cat.jpg", quality=90, subsampling=0, optimize=True)
    scikit_image("coffee.png").convert("RGB").save(out / "coffee.jpg", quality=82, optimize=True)
    scikit_image("camera.png").resize((256, 256), Image.Resampling.LANCZOS).save(
        out / "camera.png", optimize=True
    )
    fashion_mnist(arguments.fashion_mnist, 0).save(out / "ankle-boot.png", optimize=True)
    for path in sorted([*out.glob("*.jpg"), *out.glob("*.png")]):
        print(f"{path}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
