"""docs/benchmarks.md with its charts, and results.json, from what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import charts
from facts import Machine
from load import Point, Result
from peers import PEERS
from workloads import LARGE, Workload

TESSERA = "tessera"
BARE = "bare"
NAMES = {TESSERA: "Tessera"} | {peer.name: peer.title for peer in PEERS} | {BARE: "bare ONNX Runtime"}
# More cores kept busy by others than this, and the report says so.
QUIET = 0.15

HOW = """\
`make bench` measures this again ({quick}), `make bench-full` more loads (40 minutes). The harness is
`benches/compare`; how each server is set up, and why, stands at the top of each file in `benches/compare/servers`.

- **Same machine, same work.** Each server is started in turn on the same cores, with the same ONNX file and the same
  requests, Vertex AI's `{{"instances": [{{"b64": ...}}]}}` with one picture or row. The load generator, `tessera bench`,
  shares the cores; what it takes is the same for all at the same rate.
- **Same answers.** A server is measured only if its label is Tessera's, and its numbers too, up to a small tolerance.
- **No straw men.** All have a worker for each core with a session of one thread, which gives ONNX Runtime its best
  throughput on a CPU; dynamic batching is on where there is one; orjson, uvloop, ZeroMQ, `RAY_SERVE_THROUGHPUT_OPTIMIZED`
  where the documents recommend them. The peers decode with Pillow; FastAPI also with Pillow-SIMD, a fork that resizes five
  times faster but has to be compiled.
- **Bare ONNX Runtime** is the ceiling: as many processes as cores, each running a session of one thread in a loop on
  a tensor that is already there. No server, no picture, no JSON.
- **Saturation** is a closed loop: each connection asks again when it has its answer. **Fixed rates** are an open loop:
  latency counts from when a request was due, so that waiting is in it. A server that leaves more than one request of
  a hundred unanswered, or answers fewer a second than 95 % of the rate, does not keep up and has no latency there.
- **CPU** is user and system time of all the server's processes, for each request. **Memory** is their proportional set
  size (PSS): pages that several of them share count once; "ready" is once it has answered each picture. **Ready** is
  the time from the start of the process to the first answer to a prediction.
- Figures of one run may be compared with each other, not with those of another machine or hour. In parentheses: how
  many times Tessera's figure is better than that server's; below 1 it is worse.
"""


@dataclass(frozen=True)
class View:
    """The results by what one asks for."""

    results: dict[tuple[str, str, Point], Result]

    @classmethod
    def of(cls, results: list[Result]) -> View:
        """By workload, server and point."""
        return cls({(result.workload, result.server, result.point): result for result in results})

    def get(self, workload: str, server: str, point: Point) -> Result | None:
        """One of them."""
        return self.results.get((workload, server, point))

    def points(self, workload: str) -> list[Point]:
        """The loads of a workload in the order in which they were put on."""
        return list(dict.fromkeys(point for name, server, point in self.results if name == workload and server != BARE))

    def servers(self, workload: str) -> list[str]:
        """Who was measured, in the order of the tables."""
        present = {server for name, server, _ in self.results if name == workload}
        return [name for name in NAMES if name in present and name != BARE]

    def bare(self, workload: str) -> list[Result]:
        """ONNX Runtime alone: on all cores side by side, and a lone one."""
        return [result for (name, server, _), result in self.results.items() if name == workload and server == BARE]

    def saturated(self, workload: str, server: str, picture: str | None = None) -> Result | None:
        """The closed loop with the most requests a second."""
        own = [
            result for (name, its, point), result in self.results.items()
            if (name, its) == (workload, server) and point.connections and point.picture != LARGE
            and result.requests_per_second > 0
        ]  # fmt: skip
        return max(own, key=lambda result: result.requests_per_second, default=None)


def write(
    folder: Path, *, command: str, mode: str, results: list[Result], lifetimes: list, workloads: list[Workload],
    peers: list, machine: Machine, notes: list[str], seconds: float, rounds: int, cores: int,
) -> None:  # fmt: skip
    """Writes everything below `folder`."""
    view = View.of(results)
    pictures = folder / "benchmarks"
    pictures.mkdir(parents=True, exist_ok=True)
    measured = [workload for workload in workloads if view.servers(workload.name)]
    # First: what was measured is not lost by a mistake in how it is shown.
    raw = {
        "command": command, "mode": mode, "seconds": round(seconds), "rounds": rounds, "machine": asdict(machine),
        "notes": notes,
        "results": [result.as_json() for result in results], "lifetimes": [asdict(each) for each in lifetimes],
    }  # fmt: skip
    (pictures / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    for name, chart in draw(view, measured, lifetimes).items():
        (pictures / name).write_text(chart)
    (folder / "benchmarks.md").write_text("\n".join(page(view, command, measured, lifetimes, machine, notes, seconds, rounds)))


def page(
    view: View, command: str, workloads: list[Workload], lifetimes: list, machine: Machine, notes: list[str],
    seconds: float, rounds: int,
) -> list[str]:  # fmt: skip
    """The lines of benchmarks.md."""
    out = ["# Tessera beside other servers", ""]
    out.append(
        f"Written by `{command}` on {machine.date}, in {duration(seconds)}"
        + (f" and {rounds} rounds" if rounds > 1 else "")
        + f", on {machine.cores} cores of {machine.processor}, {machine.memory_gib:.0f} GiB, {machine.system}."
    )
    busy = [result.others_cores for result in view.results.values() if result.server != BARE]
    if machine.busy_cores > QUIET or any(cores > QUIET for cores in busy):
        disturbed = sum(cores > QUIET for cores in busy)
        out += ["", f"**The machine was not quiet:** others kept {machine.busy_cores:.1f} cores busy before the run, and more than "
                f"{QUIET:g} during {disturbed} of {len(busy)} measurements, {max(busy, default=0):.1f} at most."]  # fmt: skip
    out += ["", *summary(view, workloads), "", "![Requests per second](benchmarks/throughput.svg)", ""]
    out += ["![Latency by rate](benchmarks/latency.svg)", "", "![Memory](benchmarks/memory.svg)", ""]
    out += ["## How it was measured", "", HOW.format(quick="ten minutes at most once it is set up")]
    for workload in workloads:
        out += [f"## {workload.title}", "", *section(view, workload, lifetimes), ""]
    out += ["## Versions", "", f"- {machine.tessera}"]
    out += [f"- {title}: " + ", ".join(f"{name} {version}" for name, version in versions.items())
            for title, versions in machine.versions.items()]  # fmt: skip
    if notes:
        out += ["", "## Left out, or gone wrong", "", *(f"- {first_line(note)}" for note in notes)]
    return [*out, ""]


def summary(view: View, workloads: list[Workload]) -> list[str]:
    """The table at the top: saturation, one row a workload."""
    out = ["Requests per second at saturation, pictures of 640x480:", ""]
    servers = [name for name in NAMES if any(name in view.servers(workload.name) for workload in workloads)]
    rows = []
    for workload in workloads:
        own = view.saturated(workload.name, TESSERA)
        row = [workload.title]
        for server in servers:
            result = view.saturated(workload.name, server)
            row.append(figure(result.requests_per_second, own and own.requests_per_second, server) if result else "")
        bare = view.bare(workload.name)
        row.append(number(bare[0].requests_per_second) if bare else "")
        rows.append(row)
    return out + table(["", *(NAMES[server] for server in servers), NAMES[BARE]], rows)


def section(view: View, workload: Workload, lifetimes: list) -> list[str]:
    """Everything about one workload."""
    servers, points = view.servers(workload.name), view.points(workload.name)
    out = []
    if bare := view.bare(workload.name):
        best, *lone = bare
        out.append(
            f"Bare ONNX Runtime: {number(best.requests_per_second)} inferences/s with a session of one thread a core, "
            f"{number(best.cpu_ms_per_request)} ms CPU each."
        )
        if lone:
            out.append(f"Alone on all cores one takes {lone[0].p50:.3g} ms.")
        own = view.saturated(workload.name, TESSERA)
        if own and workload.kind == "image":
            share = own.requests_per_second / best.requests_per_second
            out.append(f"Tessera, decoding pictures, gives {share:.0%} of the former at {own.point.name}.")
        out = [" ".join(out), ""]
    loops = [point for point in points if not point.rate]
    out += ["Closed loop:", ""]
    rows = []
    for point in loops:
        own = view.get(workload.name, TESSERA, point)
        for server in servers:
            if result := view.get(workload.name, server, point):
                rows.append([
                    point.name, NAMES[server],
                    figure(result.requests_per_second, own and own.requests_per_second, server),
                    *map(milliseconds, (result.p50, result.p95, result.p99)),
                    figure(result.cpu_ms_per_request, own and own.cpu_ms_per_request, server, less_is_better=True),
                    f"{result.failed:,}" if result.failed else "",
                ])  # fmt: skip
    head = ["", "server", "requests/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms a request", "failed"]
    out += table(head, grouped(rows))
    if rates := [point for point in points if point.rate]:
        out += ["", "Fixed rate:", ""]
        rows = []
        for point in rates:
            own = view.get(workload.name, TESSERA, point)
            for server in servers:
                result = view.get(workload.name, server, point)
                if result and result.kept_up:
                    mine = own.p99 if own and own.kept_up else None
                    tail = figure(result.p99, mine, server, less_is_better=True)
                    cpu = milliseconds(result.cpu_ms_per_request)
                    rows.append([point.name, NAMES[server], milliseconds(result.p50), milliseconds(result.p95), tail, cpu])
                elif result:
                    rows.append([point.name, NAMES[server], "does not keep up", "", "", ""])
        out += table(["", "server", "p50 ms", "p95 ms", "p99 ms", "CPU ms a request"], grouped(rows))
    out += ["", "Memory and start:", "", *table(["server", "memory, ready", "memory, most", "ready"],
            resources(workload, servers, lifetimes))]  # fmt: skip
    return out


def resources(workload: Workload, servers: list[str], lifetimes: list) -> list[list[str]]:
    """Rows of memory and time to ready."""
    mine = {each.server: each for each in lifetimes if each.workload == workload.name}
    own = mine.get(TESSERA)
    rows = []
    for server in servers:
        if its := mine.get(server):
            peak = figure(its.peak_memory / 1e6, own and own.peak_memory / 1e6, server, less_is_better=True)
            ready = figure(its.ready_seconds, own and own.ready_seconds, server, less_is_better=True)
            rows.append([NAMES[server], f"{its.memory / 1e6:,.0f} MB", peak.replace(" (", " MB (", 1) if " (" in peak else
                         f"{peak} MB", ready.replace(" (", " s (", 1) if " (" in ready else f"{ready} s"])  # fmt: skip
    return rows


def draw(view: View, workloads: list[Workload], lifetimes: list) -> dict[str, str]:
    """The charts by the names of their files."""
    throughput, memory, panels = [], [], []
    for workload in workloads:
        own = view.saturated(workload.name, TESSERA)
        members = []
        for server in view.servers(workload.name):
            if result := view.saturated(workload.name, server):
                rate = result.requests_per_second
                label = figure(rate, own and own.requests_per_second, server)
                members.append(charts.Bar(server, rate, label))
        if (bare := view.bare(workload.name)) and workload.kind == "image":
            members.append(charts.Bar(BARE, bare[0].requests_per_second, number(bare[0].requests_per_second)))
        throughput.append((workload.title, members))
        peaks = {each.server: each.peak_memory / 1e6 for each in lifetimes if each.workload == workload.name}
        ordered = [server for server in NAMES if server in peaks]
        memory.append((workload.title, [
            charts.Bar(server, peaks[server], figure(peaks[server], peaks.get(TESSERA), server, less_is_better=True))
            for server in ordered
        ]))  # fmt: skip
        lines: dict[str, list[tuple[float, float]]] = {}
        for point in view.points(workload.name):
            for server in view.servers(workload.name):
                result = view.get(workload.name, server, point)
                if point.rate and point.picture != LARGE and result and result.kept_up:
                    lines.setdefault(server, []).append((point.rate, result.p99))
        if lines:
            panels.append(charts.Panel(workload.title, lines))
    return {
        "throughput.svg": charts.bars(
            "Requests per second at saturation", "in parentheses: Tessera's divided by it; pictures of 640x480", throughput, NAMES
        ),
        "memory.svg": charts.bars(
            "Most memory under load, MB", "proportional set size of all processes; in parentheses: it divided by Tessera's",
            memory, NAMES,
        ),
        "latency.svg": charts.lines(
            "Latency at fixed rates", "open loop: waiting counts; a line ends where its server does not keep up",
            "requests/s", "p99 latency, ms", panels, NAMES,
        ),
    }  # fmt: skip


def figure(value: float, own: float | None, server: str, less_is_better: bool = False) -> str:
    """A number, with how many times better Tessera's is."""
    if server in (TESSERA, BARE) or not own or not value:
        return number(value)
    ratio = value / own if less_is_better else own / value
    return f"{number(value)} ({ratio:,.0f}x)" if ratio >= 10 else f"{number(value)} ({ratio:.2g}x)"


def number(value: float) -> str:
    """Three digits or so."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def milliseconds(value: float) -> str:
    """Three digits or so."""
    return number(value)


def duration(seconds: float) -> str:
    """In the unit that one would say."""
    amount, unit = (round(seconds), "second") if seconds < 90 else (round(seconds / 60), "minute")
    return f"{amount} {unit}{'s' * (amount != 1)}"


def grouped(rows: list[list[str]]) -> list[list[str]]:
    """Names the load in the first row of each group only."""
    return [["" if index and rows[index - 1][0] == row[0] else row[0], *row[1:]] for index, row in enumerate(rows)]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, numbers to the right."""
    aligned = ["---" if title in ("", "server") else "---:" for title in head]
    return [f"| {' | '.join(row)} |" for row in (head, aligned, *rows)]


def first_line(note: str) -> str:
    """The beginning of what may be a log."""
    return note.strip().splitlines()[0][:200]
