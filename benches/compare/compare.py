#!/usr/bin/env python3
"""Tessera beside the servers that one would otherwise use: same machine, same ONNX files, same requests.

    compare.py            what fits in ten minutes            (make bench)
    compare.py --full     the whole matrix, 40 minutes        (make bench-full)
    compare.py --smoke    a second each, to see that it runs  (make bench-smoke)

For each workload the servers are started in turn, in an order that rotates from workload to workload and from round to
round. A server is measured only if it gives the answers that Tessera gives. ONNX Runtime in a bare loop runs before
and after them. Writes docs/benchmarks.md with its charts, and results.json with every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import facts
import report
from load import Point, Result, measure
from peers import COMMON, HERE, PEERS, ROOT, Peer, Start, model_environment, start_tessera
from process import Failure, Server, adopt_orphans, run_beside
from workloads import WORKLOADS, Workload, prepare

TESSERA = "tessera"
BARE = "bare"
# The targets that run everything of a mode.
MADE = {"quick": "make bench", "full": "make bench-full"}
# Seconds to start and end a server, for the estimate only.
START = {TESSERA: 1, "mosec": 3, "fastapi": 4, "fastapi-simd": 4, "litserve": 5, "cpr": 10, "ray": 16}
# Longest time to the first answer; several times what any needs on a quiet machine.
PATIENCE = 60


@dataclass
class Lifetime:
    """What a server showed besides the points."""

    workload: str
    server: str
    ready_seconds: float
    memory: int
    peak_memory: int = 0


@dataclass
class Run:
    """A run: what was measured so far, and the clock."""

    mode: str
    tessera: Path
    peers: list[Peer]
    workloads: list[Workload]
    rounds: int
    limit: float
    cores: int
    results: list[Result] = field(default_factory=list)
    lifetimes: list[Lifetime] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    planned: float = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    def show(self, text: str) -> None:
        """A line of progress."""
        print(f"[{self.elapsed:4.0f} of about {max(self.planned, self.elapsed):.0f} s] {text}", flush=True)

    def note(self, text: str) -> None:
        """A line of progress that the report repeats."""
        self.show(text)
        self.notes.append(text)

    def servers(self, workload: Workload) -> list[Peer | None]:
        """Who is measured; None is Tessera."""
        return [None, *(peer for peer in self.peers if not workload.peers or peer.name in workload.peers)]

    def points(self, workload: Workload) -> list[Point]:
        """The loads, with rates that fit the number of cores."""
        scale = self.cores / 2
        return [replace(point, rate=point.rate * scale) for point in workload.points(self.mode)]

    def plan(self) -> float:
        """Seconds that the whole will take, about."""
        total = 0.0
        for workload in self.workloads:
            points = self.points(workload)
            servers = [peer.name if peer else TESSERA for peer in self.servers(workload)]
            each = sum(point.expected for point in points)
            once = sum(START[name] + each for name in servers) + START[TESSERA] + 2 * bare_seconds(self, workload)
            total += self.rounds * once
        return total

    def fits(self, seconds: float) -> bool:
        """Whether there is time left for it."""
        return self.elapsed + seconds <= self.limit

    def go(self) -> None:
        """Measures everything."""
        self.planned = self.elapsed + self.plan()
        for turn in range(self.rounds):
            for index, workload in enumerate(self.workloads):
                if not self.points(workload):
                    continue
                servers = self.servers(workload)
                start = (turn + index) % len(servers)
                self.bare(workload)
                try:
                    reference = self.reference(workload)
                except Failure as failure:
                    self.note(f"{workload.title}: {TESSERA}: {failure}")
                    continue
                for peer in servers[start:] + servers[:start]:
                    self.serve(workload, peer, reference)
                if self.mode != "smoke":
                    self.bare(workload)

    def serve(self, workload: Workload, peer: Peer | None, reference: dict[str, list]) -> None:
        """Starts a server, checks its answers, puts the loads on."""
        name = peer.name if peer else TESSERA
        label = f"{workload.title}: {name}"
        if not self.fits(START[name]):
            self.note(f"{label}: left out, the time is up")
            return
        try:
            with self.started(workload, peer) as (server, url, body):
                ready, _ = server.wait_until_ready(url, body, PATIENCE)
                for picture, expected in reference.items():
                    agree(name, ask(server, url, workload, picture), expected, workload.tolerance)
                lifetime = Lifetime(workload.name, name, ready, server.memory())
                self.lifetimes.append(lifetime)
                self.show(f"{label}: ready in {ready:.1f} s, agrees, {lifetime.memory / 1e6:.0f} MB")
                for point in self.points(workload):
                    self.point(workload, name, server, url, point)
                lifetime.peak_memory = server.peak
        except Failure as failure:
            self.note(f"{label}: {failure}")

    def point(self, workload: Workload, name: str, server: Server, url: str, point: Point) -> None:
        """One load."""
        label = f"{workload.title}: {name}, {point.name}"
        if not self.fits(point.expected):
            self.note(f"{label}: left out, the time is up")
            return
        if any(not result.kept_up for result in self.slower(workload, name, point)):
            # It has not kept up with a lower rate: nothing is learnt from a higher one.
            self.results.append(Result(workload.name, name, point))
            return
        body = workload.body(point.picture)
        try:
            result = measure(self.tessera, server, url, body, workload.name, name, point)
        except Failure as failure:
            self.note(f"{label}: {failure}")
            return
        self.results.append(result)
        failed = f", {result.failed} failed {result.errors}" if result.failed else ""
        never = f", {result.never_sent} never sent" if result.never_sent else ""
        others = f" (others: {result.others_cores:.1f} cores)" if result.others_cores > report.QUIET else ""
        self.show(
            f"{label}: {result.requests_per_second:,.1f} requests/s, p50 {result.p50:.2f} ms, p99 {result.p99:.2f} ms, "
            f"{result.cpu_ms_per_request:.2f} ms CPU{failed}{never}{others}"
        )

    def slower(self, workload: Workload, name: str, point: Point) -> list[Result]:
        """Results of this server at lower rates than this point's."""
        return [
            result for result in self.results
            if (result.workload, result.server) == (workload.name, name) and result.point.picture == point.picture
            and 0 < result.point.rate < point.rate
        ]  # fmt: skip

    def started(self, workload: Workload, peer: Peer | None) -> Started:
        """A server that has been started."""
        port = free_port()
        start = peer.start(workload, port, self.cores) if peer else start_tessera(self.tessera, workload, port)
        return Started(start, f"http://127.0.0.1:{port}/predict", workload)

    def reference(self, workload: Workload) -> dict[str, list]:
        """Tessera's answers, by the picture."""
        with self.started(workload, None) as (server, url, body):
            server.wait_until_ready(url, body, PATIENCE)
            pictures = dict.fromkeys(point.picture for point in self.points(workload))
            return {picture: ask(server, url, workload, picture) for picture in pictures}

    def bare(self, workload: Workload) -> None:
        """ONNX Runtime alone: a session of one thread for each core, and a lone one on all cores."""
        seconds, forms = bare_forms(self, workload)
        for connections, processes, threads in forms:
            if not self.fits(seconds + 2):
                self.note(f"{workload.title}: {BARE}: left out, the time is up")
                return
            command = [sys.executable, str(HERE / "servers/bare.py"), "--processes", str(processes), "--threads", str(threads)]
            command += ["--seconds", f"{seconds:g}", "--warm-up", f"{min(1.0, seconds / 4):g}"]
            seen = json.loads(run_beside(command, COMMON | model_environment(workload)))
            latency = seen["latency_ms"]
            result = Result(
                workload.name, BARE, Point(connections=connections), requests_per_second=seen["requests_per_second"],
                p50=latency["p50"], p95=latency["p95"], p99=latency["p99"], cpu_ms_per_request=seen["cpu_ms_per_request"],
            )  # fmt: skip
            self.results.append(result)
            name = f"{processes} session{'s' * (processes > 1)} of {threads} thread{'s' * (threads > 1)}"
            self.show(f"{workload.title}: bare ONNX Runtime, {name}: {result.requests_per_second:,.1f} inferences/s")


def bare_forms(run: Run, workload: Workload) -> tuple[float, list[tuple[int, int, int]]]:
    """Seconds, and what stands for connections with the processes and threads of each form."""
    seconds = {"smoke": 0.5, "quick": 5.0 if workload.name == "vit" else 2.0, "full": 5.0}[run.mode]
    return seconds, [(run.cores, run.cores, 1), (1, 1, run.cores)]


def bare_seconds(run: Run, workload: Workload) -> float:
    """Seconds that both forms take, about."""
    seconds, forms = bare_forms(run, workload)
    return len(forms) * (seconds * 1.25 + 1.5)


class Started:
    """A server in a folder of its own, with the URL and the request to wait for."""

    def __init__(self, start: Start, url: str, workload: Workload) -> None:
        self.start, self.url, self.workload = start, url, workload

    def __enter__(self) -> tuple[Server, str, bytes]:
        self.folder = Path(tempfile.mkdtemp(prefix="bench"))
        smallest = min((self.workload.body(point.picture) for point in self.workload.full), key=lambda it: it.stat().st_size)
        self.server = Server(self.start.command, self.start.environment, self.folder, self.folder / "log")
        return self.server, self.url, smallest.read_bytes()

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def ask(server: Server, url: str, workload: Workload, picture: str) -> list:
    """The predictions for a request."""
    return json.loads(server.ask(url, workload.body(picture).read_bytes()))["predictions"]


def agree(name: str, answers: object, expected: object, tolerance: float) -> None:
    """Raises unless both are the same, numbers up to the tolerance."""
    if isinstance(expected, dict) and isinstance(answers, dict) and answers.keys() == expected.keys():
        for key, value in expected.items():
            agree(f"{name}: {key}", answers[key], value, tolerance)
    elif isinstance(expected, list) and isinstance(answers, list) and len(answers) == len(expected):
        for index, value in enumerate(expected):
            agree(f"{name}: {index}", answers[index], value, tolerance)
    elif isinstance(expected, (int, float)) and isinstance(answers, (int, float)):
        if abs(answers - expected) > tolerance:
            raise Failure(f"does not agree: {name} is {answers}, and Tessera says {expected}")
    elif answers != expected:
        raise Failure(f"does not agree: {name} is {str(answers)[:200]}, and Tessera says {str(expected)[:200]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def medians(results: list[Result]) -> list[Result]:
    """One result for each point: the median of each figure over the rounds."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.workload, result.server, result.point), []).append(result)
    return [median(group) for group in groups.values()]


def typical(lifetimes: list[Lifetime]) -> list[Lifetime]:
    """One for each server and workload: medians over the rounds, of memory under load the most."""
    groups: dict[tuple[str, str], list[Lifetime]] = {}
    for lifetime in lifetimes:
        groups.setdefault((lifetime.workload, lifetime.server), []).append(lifetime)
    return [
        Lifetime(
            *key, statistics.median(each.ready_seconds for each in group),
            round(statistics.median(each.memory for each in group)), max(each.peak_memory for each in group),
        )
        for key, group in groups.items()
    ]  # fmt: skip


def median(group: list[Result]) -> Result:
    """The median of each figure; sums of what is counted."""
    def middle(name: str) -> float:
        return statistics.median(getattr(result, name) for result in group)

    measured = ("requests_per_second", "p50", "p95", "p99", "cpu_ms_per_request", "generator_cores", "others_cores")
    counted = ("requests", "failed", "never_sent")
    return replace(
        group[0], **{name: middle(name) for name in measured},
        **{name: sum(getattr(result, name) for result in group) for name in counted},
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--full", dest="mode", action="store_const", const="full", help="the whole matrix")
    mode.add_argument("--smoke", dest="mode", action="store_const", const="smoke", help="a second each; keeps no report")
    parser.add_argument("--tessera", type=Path, default=ROOT / "target/release/tessera", help="the binary")
    parser.add_argument("--peers", help="only these, separated by commas: " + ", ".join(peer.name for peer in PEERS))
    parser.add_argument("--workloads", help="only these: " + ", ".join(workload.name for workload in WORKLOADS))
    parser.add_argument("--rounds", type=int, help="each server so often, medians are reported (default: 1)")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="end by then (default: 590; --full: none)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of benchmarks.md (default: docs)")
    parser.set_defaults(mode="quick")
    return parser.parse_args()


def command(options: argparse.Namespace) -> str:
    """What measures the same again, as one would type it."""
    chosen = {name: getattr(options, name) for name in ("peers", "workloads", "rounds", "limit")}
    narrowed = [part for name, value in chosen.items() if value is not None for part in (f"--{name}", f"{value:g}" if name == "limit" else f"{value}")]
    if not narrowed and options.mode in MADE:
        return MADE[options.mode]
    mode = [] if options.mode == "quick" else [f"--{options.mode}"]
    return shlex.join([".venv/bin/python", "benches/compare/compare.py", *mode, *narrowed])


def choose(everything: tuple, names: str | None, parser_name: str) -> list:
    """Those named, or all."""
    if names is None:
        return list(everything)
    known = {each.name: each for each in everything}
    wanted = [name for name in names.split(",") if name]
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"error: {parser_name}: no {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def main() -> int:
    """Measures and reports."""
    options = arguments()
    if not sys.platform.startswith("linux"):
        sys.exit("error: processor time and memory are read from /proc, which only Linux has")
    if not options.tessera.is_file():
        sys.exit(f"error: {options.tessera} is not there; `make build` builds it")
    adopt_orphans()
    wanted = choose(PEERS, options.peers, "--peers")
    peers = [peer for peer in wanted if peer.is_installed]
    workloads = choose(WORKLOADS, options.workloads, "--workloads")
    run = Run(
        options.mode, options.tessera.resolve(), peers,
        [workload for workload in workloads if workload.points(options.mode)],
        rounds=options.rounds or 1,
        limit=options.limit or (float("inf") if options.mode == "full" else 590),
        cores=len(os.sched_getaffinity(0)),
    )  # fmt: skip
    for peer in wanted:
        if not peer.is_installed:
            run.note(f"{peer.title} is not installed and left out")
    prepare(run.workloads, run.show)
    # The measured time begins here: what is made once is no part of it.
    run.begun = time.monotonic()
    before = facts.busy_cores()
    try:
        run.go()
    except KeyboardInterrupt:
        run.note("interrupted")
    machine = facts.gather(run.tessera, peers, before)
    output = Path(tempfile.mkdtemp(prefix="bench")) if options.mode == "smoke" else options.output
    report.write(
        output, command=command(options), mode=options.mode, results=medians(run.results), lifetimes=typical(run.lifetimes),
        workloads=run.workloads, peers=peers, machine=machine, notes=run.notes, seconds=run.elapsed, rounds=run.rounds, cores=run.cores,
    )  # fmt: skip
    if options.mode == "smoke":
        shutil.rmtree(output)
        return verdict(run)
    print(f"\nwrote {output}/benchmarks.md after {run.elapsed:.0f} s")
    return 0


def verdict(run: Run) -> int:
    """Of a smoke run: whether everything was measured without a failed request."""
    expected = sum(len(run.points(workload)) * len(run.servers(workload)) for workload in run.workloads)
    measured = sum(result.server != BARE and result.requests > 0 and not result.failed for result in run.results)
    print(f"{measured} passed, {expected - measured} failed")
    return 0 if measured == expected else 1


if __name__ == "__main__":
    sys.exit(main())
