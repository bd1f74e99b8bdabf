#!/usr/bin/env python3
"""Fetch the ONNX Runtime library that Tessera loads at run time.

Microsoft publishes the library inside its Python wheel, for every platform. This script downloads
the pinned wheel with pip (which checks its SHA-256), takes the library and the licences out of it
and puts them into a folder of the repository that git ignores:

    .onnxruntime/lib/libonnxruntime.so     (.dylib on macOS)
    .onnxruntime/{LICENSE,ThirdPartyNotices.txt}
    .onnxruntime/VERSION                   the version, written last
    .onnxruntime/WHEEL                     the SHA-256 of the wheel all of it came from

Only Python's standard library and pip are needed. Nothing is installed, so an "externally managed"
Python serves as well. A second run finds the files in place and does not touch the network.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

VERSION = "1.31.1"

# The platform's name here: pip's platform tag, the wheel's Python, its SHA-256, the library's name
# inside it, the name that Tessera looks for. Any Python version's wheel carries the same library.
WHEELS = {
    "linux-x86_64": (
        "manylinux_2_28_x86_64",
        "3.11",
        "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
        f"libonnxruntime.so.{VERSION}",
        "libonnxruntime.so",
    ),
    "linux-aarch64": (
        "manylinux_2_28_aarch64",
        "3.12",
        "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        f"libonnxruntime.so.{VERSION}",
        "libonnxruntime.so",
    ),
    "macos-arm64": (
        "macosx_14_0_arm64",
        "3.12",
        "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        f"libonnxruntime.{VERSION}.dylib",
        "libonnxruntime.dylib",
    ),
}

REPOSITORY = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """A reason to stop, told to the user as it stands."""


def this_platform():
    """The key of WHEELS for the machine this runs on."""
    system, machine = platform.system(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if system == "Darwin" and machine == "aarch64":
        return "macos-arm64"
    if system == "Linux" and f"linux-{machine}" in WHEELS:
        libc, version = platform.libc_ver()
        if libc and libc != "glibc":
            raise Failure(f"ONNX Runtime {VERSION} needs glibc 2.28 or newer; this system has {libc}.")
        if libc and tuple(int(part) for part in version.split(".")[:2]) < (2, 28):
            raise Failure(f"ONNX Runtime {VERSION} needs glibc 2.28 or newer; this system has {version}.")
        return f"linux-{machine}"
    raise Failure(
        f"Microsoft publishes no ONNX Runtime {VERSION} for {system} on {machine}. Build the library yourself\n"
        "and name it to Tessera with ORT_DYLIB_PATH=/path/to/libonnxruntime.so."
    )


def install_hint():
    """The one command that gives this Python both pip and venv."""
    if sys.base_prefix != "/usr":
        return f"{sys.executable} -m ensurepip --upgrade"
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        return f"{sudo}apt-get install -y python3-pip python3-venv"
    for tool in ("dnf", "zypper"):
        if shutil.which(tool):
            return f"{sudo}{tool} install -y python3-pip"
    return "(with your package manager) install pip and venv for Python 3"


def run_pip(arguments):
    """Run pip of this very Python; its output, progress included, goes to the terminal."""
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_REQUIRE_VIRTUALENV="0")
    return subprocess.call([sys.executable, "-m", "pip", *arguments], env=environment)


def require_pip():
    found = subprocess.call(
        [sys.executable, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if found != 0:
        raise Failure(f"{sys.executable} has no pip. To install it:\n\n    {install_hint()}")


def download(name, folder):
    """Download the wheel of a platform into a folder and give its path."""
    tag, python, sha256, _, _ = WHEELS[name]
    requirements = folder / "requirements.txt"
    requirements.write_text(f"onnxruntime=={VERSION} --hash=sha256:{sha256}\n")
    status = run_pip(
        ["download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
        + ["--python-version", python, "--platform", tag, "--require-hashes"]
        + ["--dest", str(folder), "-r", str(requirements)]
    )
    wheels = list(folder.glob("onnxruntime-*.whl"))
    if status != 0 or len(wheels) != 1:
        raise Failure(
            f"pip could not fetch ONNX Runtime {VERSION} for {name}; its message is above.\n"
            "Nothing was put in place. Run the same command again once the cause is mended."
        )
    return wheels[0]


def place(data, target, mode=0o644):
    """Write a file whole or not at all: beside its target first, then renamed onto it."""
    partial = target.with_name(f".{target.name}.partial")
    with open(partial, "wb") as file:
        shutil.copyfileobj(data, file)
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(mode)
    os.replace(partial, target)


def fetch(name, destination):
    """Make `destination` hold the library for a platform. True if there was something to do."""
    _, _, sha256, inside, library = WHEELS[name]
    stamps = {"VERSION": VERSION, "WHEEL": sha256}
    there = all((destination / stamp).is_file() and (destination / stamp).read_text().strip() == value
                for stamp, value in stamps.items())
    if there and (destination / "lib" / library).is_file():
        return False

    require_pip()
    print(f"Fetching ONNX Runtime {VERSION} for {name} (about 24 MB) ...", flush=True)
    (destination / "lib").mkdir(parents=True, exist_ok=True)
    for leftover in destination.glob(".download-*"):
        if time.time() - leftover.stat().st_mtime > 600:  # a younger one may belong to a run beside this one
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=destination) as folder:
        with zipfile.ZipFile(download(name, Path(folder))) as wheel:
            # Without its stamp the folder counts as empty: what is interrupted from here on, the next run repairs.
            (destination / "VERSION").unlink(missing_ok=True)
            for source, target in (
                ("onnxruntime/LICENSE", destination / "LICENSE"),
                ("onnxruntime/ThirdPartyNotices.txt", destination / "ThirdPartyNotices.txt"),
                (f"onnxruntime/capi/{inside}", destination / "lib" / library),
            ):
                with wheel.open(source) as data:
                    place(data, target)
    for stamp in ("WHEEL", "VERSION"):
        (destination / stamp).write_text(stamps[stamp] + "\n")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--destination", type=Path, default=REPOSITORY / ".onnxruntime", help="default: %(default)s")
    parser.add_argument("--platform", choices=sorted(WHEELS), help="default: this machine's")
    arguments = parser.parse_args()
    try:
        name = arguments.platform or this_platform()
        library = arguments.destination / "lib" / WHEELS[name][4]
        if fetch(name, arguments.destination):
            print(f"ONNX Runtime {VERSION} is in {os.path.relpath(library)}")
    except Failure as failure:
        sys.exit(f"\nerror: {failure}\n")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; nothing half-done was left behind")


if __name__ == "__main__":
    main()
