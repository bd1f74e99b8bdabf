#!/usr/bin/env python3
"""Check the load generator: `tessera bench` and `wrk` in turn on the same server, the tabular model, a closed loop.

    generator.py [--tessera PATH] [--seconds 4] [--rounds 3]

Prints a table in Markdown with medians. The load generator shares the cores with the server, so what it costs itself is
what it takes away: that is shown too. `wrk` is a package of most distributions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from compare import PATIENCE, free_port
from peers import ROOT, start_tessera
from process import Server, adopt_orphans, run_beside
from report import number, table
from workloads import ROWS, WORKLOADS

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open("{body}"):read("*a")
"""
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def ask_by_wrk(url: str, connections: int, seconds: float, script: Path) -> tuple[float, float, float, int]:
    """Requests/s, p50 and p99 in milliseconds, requests."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "-s", str(script), url]
    output = run_beside(command)

    def latency(share: str) -> float:
        value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", output).groups()
        return float(value) * UNITS[unit]

    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))
    return rate, latency("50"), latency("99"), int(re.search(r"(\d+) requests in", output).group(1))


def ask_by_tessera(binary: Path, url: str, connections: int, seconds: float) -> tuple[float, float, float, int]:
    """The same."""
    seen = json.loads(run_beside([
        str(binary), "bench", url, "--body", str(ROWS), "--connections", str(connections), "--json",
        "--duration", f"{seconds:g}s", "--warm-up", "0s",
    ]))  # fmt: skip
    latency = seen["latency_ms"]
    return seen["requests_per_second"], latency["p50"], latency["p99"], seen["requests_with_warm_up"]


def children_cpu() -> float:
    """Seconds of processor time of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tessera", type=Path, default=ROOT / "target/release/tessera", help="the binary")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("error: wrk is not installed")
    adopt_orphans()
    workload = next(workload for workload in WORKLOADS if workload.kind == "tabular")
    port = free_port()
    url = f"http://127.0.0.1:{port}/predict"
    start = start_tessera(options.tessera.resolve(), workload, port)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "post.lua").write_text(SCRIPT.format(body=ROWS))
        with Server(start.command, start.environment, folder, folder / "log") as server:
            server.wait_until_ready(url, ROWS.read_bytes(), PATIENCE)
            tools = {
                "wrk": lambda count: ask_by_wrk(url, count, options.seconds, folder / "post.lua"),
                "tessera bench": lambda count: ask_by_tessera(options.tessera.resolve(), url, count, options.seconds),
            }
            for connections in (1, 8, 64):
                seen: dict[str, list[tuple[float, ...]]] = {tool: [] for tool in tools}
                for turn in range(options.rounds):
                    for tool in list(tools)[:: 1 if turn % 2 == 0 else -1]:
                        own, of_server = children_cpu(), server.cpu()
                        rate, p50, p99, requests = tools[tool](connections)
                        costs = (children_cpu() - own, server.cpu() - of_server)
                        seen[tool].append((rate, p50, p99, *(cost / requests * 1e6 for cost in costs)))
                middle = {tool: [statistics.median(column) for column in zip(*each)] for tool, each in seen.items()}
                for tool, figures in middle.items():
                    ratio = figures[0] / middle["wrk"][0]
                    rows.append([str(connections), tool, *map(number, figures[:3]), *(f"{it:.0f}" for it in figures[3:]),
                                 f"{ratio:.2f}"])  # fmt: skip
    head = ["", "", "requests/s", "p50 ms", "p99 ms", "own CPU us a request", "server's CPU us", "of wrk's"]
    print("\n".join(table(head, rows)))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
