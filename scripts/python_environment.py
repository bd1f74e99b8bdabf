#!/usr/bin/env python3
"""Make a Python virtual environment hold exactly what requirements files list.

    scripts/python_environment.py .venv tests/requirements.txt

A stamp inside the environment remembers which requirements it was made from: as long as they stay
the same, a further run does nothing and needs no network. Only the standard library is used.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from fetch_onnxruntime import Failure, install_hint

# numpy's and ONNX Runtime's wheels are published for this Python and newer ones.
OLDEST_PYTHON = (3, 11)


def fingerprint(requirements):
    """What an environment depends on: the files' contents and the Python that made it."""
    digest = hashlib.sha256(f"{sys.version}\n{sys.base_prefix}\n".encode())
    for path in requirements:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def works(python):
    """Whether an environment's Python still starts; it does not once its base Python has gone."""
    try:
        return subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make(folder, requirements):
    stamp = folder / ".requirements"
    python = folder / "bin" / "python"
    wanted = fingerprint(requirements)
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return

    if sys.version_info < OLDEST_PYTHON:
        raise Failure(
            "the Python tests need Python {}.{} or newer, and {} is {}.{}. Name another one:\n\n"
            "    make test PYTHON=python3.11".format(*OLDEST_PYTHON, sys.executable, *sys.version_info[:2])
        )
    names = " and ".join(str(path) for path in requirements)
    print(f"Setting up {folder} from {names} ...", flush=True)
    stamp.unlink(missing_ok=True)
    if not works(python):
        shutil.rmtree(folder, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise Failure(
                f"{sys.executable} cannot make virtual environments. To install what it lacks:\n\n"
                f"    {install_hint()}"
            )
    arguments = ["install", "--progress-bar", "on" if sys.stdout.isatty() else "off"]
    for path in requirements:
        arguments += ["-r", path]
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if subprocess.call([python, "-m", "pip", *arguments], env=environment) != 0:
        raise Failure(f"pip could not install what {names} lists; its message is above. Run the same command again.")
    stamp.write_text(wanted)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        make(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
    except Failure as failure:
        sys.exit(f"\nerror: {failure}\n")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the next run goes on from here")


if __name__ == "__main__":
    main()
