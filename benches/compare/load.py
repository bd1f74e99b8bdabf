"""One point of a measurement: `tessera bench` against a running server, and what the server spent meanwhile."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from process import Server, helpers_cpu, machine_cpu, run_beside


@dataclass(frozen=True)
class Point:
    """A load: `connections` in a closed loop, `rate` requests/s in an open one, or `users` who think for a second."""

    connections: int = 0
    rate: float = 0
    users: int = 0
    picture: str = ""
    seconds: float = 4
    warm_up: float = 1

    @property
    def name(self) -> str:
        """For people."""
        load = (
            f"{self.rate:g} requests/s" if self.rate
            else f"{self.users} users" if self.users
            else f"{self.connections} connection{'s' * (self.connections != 1)}"
        )  # fmt: skip
        return f"{self.picture}, {load}" if self.picture else load

    @property
    def expected(self) -> float:
        """Seconds that it takes, about."""
        return self.seconds + self.warm_up + 0.3


@dataclass
class Result:
    """What a point gave. Latencies in milliseconds."""

    workload: str
    server: str
    point: Point
    requests_per_second: float = 0
    p50: float = 0
    p95: float = 0
    p99: float = 0
    requests: int = 0
    failed: int = 0
    never_sent: int = 0
    cpu_ms_per_request: float = 0
    generator_cores: float = 0
    # Cores that neither the server nor the harness kept busy, but somebody else.
    others_cores: float = 0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def kept_up(self) -> bool:
        """Open loop: whether it answered what was due, all but a few, and in time, so that latencies mean something."""
        is_answered = self.failed + self.never_sent <= 0.01 * (self.requests + self.never_sent)
        # Two more or less in the time measured are how the ends of it happened to fall.
        return is_answered and self.requests_per_second >= 0.95 * self.point.rate - 2 / self.point.seconds

    def as_json(self) -> dict:
        """Without what stands in the names."""
        return asdict(self)


def measure(tessera: Path, server: Server, url: str, body: Path, workload: str, name: str, point: Point) -> Result:
    """Puts the load on."""
    load = (
        ["--rate", f"{point.rate:g}", "--connections", "128"] if point.rate
        else ["--users", str(point.users), "--think-time", "1s"] if point.users
        else ["--connections", str(point.connections)]
    )  # fmt: skip
    begun, machine, own, before = time.monotonic(), machine_cpu(), helpers_cpu(), server.cpu()
    output = run_beside([
        str(tessera), "bench", url, "--body", str(body), *load, "--json", "--timeout", "60s",
        "--duration", f"{point.seconds:g}s", "--warm-up", f"{point.warm_up:g}s", "--header", "Accept: application/json",
    ])  # fmt: skip
    used = server.cpu() - before
    others = machine_cpu() - machine - (helpers_cpu() - own) - used
    seen = json.loads(output)
    latency = seen["latency_ms"]
    return Result(
        workload, name, point,
        requests_per_second=seen["requests_per_second"],
        p50=latency["p50"], p95=latency["p95"], p99=latency["p99"],
        requests=seen["requests"], failed=seen["failed"], never_sent=seen["never_sent"] or 0,
        cpu_ms_per_request=used / max(1, seen["requests_with_warm_up"]) * 1000,
        generator_cores=seen["own_cores"] or 0,
        others_cores=max(0.0, others / (time.monotonic() - begun)),
        errors=seen["errors"],
    )  # fmt: skip
