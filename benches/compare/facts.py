"""What the figures depend on: the machine, how busy it was before, and the versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from peers import Peer
from process import machine_cpu


@dataclass(frozen=True)
class Machine:
    """For the head of the report."""

    date: str
    processor: str
    cores: int
    memory_gib: float
    system: str
    busy_cores: float
    tessera: str
    versions: dict[str, dict[str, str]]


def busy_cores(seconds: float = 1) -> float:
    """How many cores the others keep busy: a machine that is not quiet gives figures that mean little."""
    before = machine_cpu()
    time.sleep(seconds)
    return (machine_cpu() - before) / seconds


def gather(tessera: Path, peers: list[Peer], busy: float) -> Machine:
    """Reads them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    # The version and the revision; what follows them is of no interest here.
    version = subprocess.check_output([tessera, "--version"], text=True).splitlines()[:2]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    return Machine(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        processor=processor,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=memory,
        system=f"Linux {platform.release()}, Python {platform.python_version()}",
        busy_cores=busy,
        tessera=", ".join(" ".join(line.split()) for line in version),
        versions={peer.title: peer.versions() for peer in peers},
    )
