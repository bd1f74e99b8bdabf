"""ONNX Runtime in a loop, without a server, a picture or a line of JSON: what the machine can do.

    bare.py --processes N --threads T --seconds S --warm-up W

Each process has one session of T threads and runs a batch of one again and again. Prints one JSON object. Processes,
not threads of one, so that Python's lock costs a small model nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time

import model


def loop(threads: int, barrier, warm_up: float, seconds: float, results) -> None:
    """One caller."""
    session = model.session(threads=threads)
    name = session.get_inputs()[0].name
    shape = [1 if not isinstance(axis, int) else axis for axis in session.get_inputs()[0].shape]
    if model.KIND == "image":
        shape = [1, 3, model.SIDE, model.SIDE]
    batch = {name: model.np.full(shape, 0.1, model.np.float32)}
    session.run(None, batch)
    barrier.wait()
    start = time.perf_counter()
    begin, latencies, used = start + warm_up, [], 0.0
    now = start
    while True:
        before = now
        if used == 0.0 and before >= begin:
            used, begin = time.process_time(), before
        session.run(None, batch)
        now = time.perf_counter()
        if before >= begin and used:
            latencies.append(now - before)
        if now >= start + warm_up + seconds and latencies:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put((len(latencies) / (now - begin), sorted(latencies), (time.process_time() - used) / len(latencies), peak))


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warm-up", type=float, default=1)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results, barrier = context.Queue(), context.Barrier(arguments.processes)
    work = (arguments.threads, barrier, arguments.warm_up, arguments.seconds, results)
    processes = [context.Process(target=loop, args=work) for _ in range(arguments.processes)]
    for process in processes:
        process.start()
    measured = [results.get() for _ in processes]
    for process in processes:
        process.join()
    latencies = sorted(latency for _, each, _, _ in measured for latency in each)
    at = lambda share: latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000  # noqa: E731
    print(json.dumps({
        "requests_per_second": sum(rate for rate, _, _, _ in measured),
        "latency_ms": {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99)},
        "cpu_ms_per_request": sum(cpu for _, _, cpu, _ in measured) / len(measured) * 1000,
        "memory_bytes": sum(peak for _, _, _, peak in measured),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
