"""A server as a tree of processes: started, asked, measured, ended. Linux only, as the figures come from /proc."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36
# How often memory is looked at. Reading it costs the kernel some milliseconds for each GB.
INTERVAL = 0.5
PATIENCE_TO_END = 5


class Failure(Exception):
    """A server that cannot be measured; the message says why."""


def adopt_orphans() -> None:
    """Makes this process the parent of whatever a server leaves behind, so that its whole tree stays in sight."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, as the second may contain anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_of(pid: int) -> float:
    """Seconds of processor time, with those of its children that have ended and were waited for."""
    fields = stat(pid)
    return sum(int(field) for field in fields[11:15]) / TICKS if fields else 0.0


def machine_cpu() -> float:
    """Seconds of processor time that everybody on this machine has used, or was denied by its host."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft + steal) / TICKS


def helpers_cpu() -> float:
    """Seconds of processor time of this process and of those it has run to their end."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def memory_of(pid: int) -> int:
    """Proportional set size in bytes: shared pages count once, divided among those who share them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0


class Server:
    """A running server. `with Server(...) as server:` ends it, with all its processes."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        self.log = log
        self.peak = 0
        self.started = time.monotonic()
        self._others = {int(child) for child in children_of(os.getpid())}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, url: str, body: bytes, timeout: float = 60) -> bytes:
        """The answer to a request."""
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", "Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.read()

    def has_ended(self) -> bool:
        """Whether the process that was started is gone."""
        return self._process.poll() is not None

    def wait_until_ready(self, url: str, body: bytes, patience: float) -> tuple[float, bytes]:
        """Seconds from the start to the first answer to a prediction, and that answer."""
        reason: object = "no answer"
        while time.monotonic() < self.started + patience:
            if self._process.poll() is not None:
                raise Failure(f"ended with {self._process.returncode}\n{self.tail()}")
            try:
                answer = self.ask(url, body, patience)
                seconds = time.monotonic() - self.started
                self._sampler.start()
                return seconds, answer
            except urllib.error.HTTPError as error:
                reason = f"{error}: {error.read()[:300]!r}"
                if error.code == 400 or error.code == 500:
                    raise Failure(f"{reason}\n{self.tail()}") from error
            except OSError as error:
                reason = error
            time.sleep(0.02)
        raise Failure(f"not ready after {patience} s: {reason}\n{self.tail()}")

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-1500:]

    def pids(self) -> set[int]:
        """Its processes: the one started, those left to us since, and all below them. Not what we start beside it."""
        tree = processes_by_parent()
        known = self._others | HELPERS
        pending = {self._process.pid} | {pid for pid in tree.get(os.getpid(), []) if pid not in known}
        found: set[int] = set()
        while pending:
            pid = pending.pop()
            found.add(pid)
            pending.update(child for child in tree.get(pid, []) if child not in found)
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return sum(cpu_of(pid) for pid in self.pids())

    def memory(self) -> int:
        """Proportional set size now, in bytes."""
        memory = sum(memory_of(pid) for pid in self.pids())
        self.peak = max(self.peak, memory)
        return memory

    def _sample(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.memory()

    def stop(self) -> None:
        """Asks it to end, then ends what is left of it, each process by its own id."""
        self._ended.set()
        if self._sampler.is_alive():
            self._sampler.join()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE_TO_END)
            except subprocess.TimeoutExpired:
                pass
        deadline = time.monotonic() + PATIENCE_TO_END
        while time.monotonic() < deadline:
            left = {pid for pid in self.pids() if is_alive(pid)}
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        self._process.wait()
        reap(self.pids() - {self._process.pid})


# Processes that we run beside a server: the load generator.
HELPERS: set[int] = set()


def processes_by_parent() -> dict[int, list[int]]:
    """The ids of all processes, by their parents'."""
    tree: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat(int(entry))):
            tree.setdefault(int(fields[1]), []).append(int(entry))
    return tree


def children_of(pid: int) -> list[int]:
    """The ids of a process's children."""
    return processes_by_parent().get(pid, [])


def is_alive(pid: int) -> bool:
    """Whether a process is there and more than a name."""
    fields = stat(pid)
    return fields is not None and fields[0] != "Z"


def reap(pids: set[int]) -> None:
    """Takes note of the end of those left to us."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def run_beside(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Runs a command that is no part of the server, and returns what it printed."""
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    HELPERS.add(process.pid)
    try:
        output, errors = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        HELPERS.discard(process.pid)
    if process.returncode != 0:
        raise Failure(f"{' '.join(command[:3])} ... ended with {process.returncode}: {errors.strip()[-600:]}")
    return output
