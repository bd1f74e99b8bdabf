#!/usr/bin/env python3
"""Measure ViT-B/16 on a GPU: the engine alone, and the whole server from base64 JPEGs. Prints a table with ratios.

    benches/gpu/run.py --tessera target/release/tessera --library PATH/onnxruntime/capi
    benches/gpu/run.py --tessera target/debug/tessera --provider cpu --quick      does it run? needs no GPU

Needs nothing but Python's standard library, the binary, ONNX Runtime's CUDA build (--library: its folder; without it,
that of this Python's onnxruntime-gpu) and NVIDIA's libraries (those of this Python's `nvidia` packages, or
--library-directory). The model, with seeded random weights, is made by models/make_vit_base.py, its fp16 version by
models/lighter.py: that needs numpy, onnx and onnxruntime in this Python, or --models FOLDER with vit-base/1 and
vit-base-fp16/1. Exit code 1: something could not be measured; 2: there is no GPU.

Of each way to run the model:
  engine       images/s of `tessera measure`: no HTTP, no decoding; noise for pictures; the best of some sizes of batch
  end to end   images/s of `tessera bench` against `tessera serve`: base64 JPEGs in JSON
  limit        the engine, if end to end reaches 85 % of it (the goal); the processor, if its cores are busy
               with decoding and HTTP (90 % of them); else "?", and there is something to find
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches/compare"))

from process import Failure, Server, adopt_orphans, run_beside  # noqa: E402

GOAL = 0.85  # of the engine's images/s
SATURATED = 0.9  # of the processor's cores
BATCHES = [1, 2, 4, 8, 16, 32, 64]
CONNECTIONS = 256
PICTURE = ROOT / "tests/golden/images/china.jpg"
# What a build of ONNX Runtime is recognised by.
PROVIDER_LIBRARY = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}


@dataclass
class Way:
    """A way to run the model."""

    name: str
    provider: str
    model: str
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, shared: dict[str, str]) -> dict[str, str]:
        """Its settings as the server reads them: engine.cuda.graphs as TESSERA__ENGINE__CUDA__GRAPHS."""
        settings = {"engine.provider": self.provider, **self.settings}
        named = {f"TESSERA__{key.upper().replace('.', '__')}": value for key, value in settings.items()}
        return {"ORT_DISABLE_TELEMETRY": "1", "CUDA_MODULE_LOADING": "LAZY", **shared, **named}


def ways(provider: str, cache: Path) -> list[Way]:
    """What is measured with a provider."""
    if provider == "cpu":
        return [
            Way("cpu fp32", "cpu", "vit-base"),
            # What a GPU's memory is bound by, on the processor's.
            Way("cpu fp32, bound", "cpu", "vit-base", {"engine.io_binding": "on"}),
            Way("cpu fp16", "cpu", "vit-base-fp16"),
        ]
    if provider == "cuda":
        graphs = {"engine.cuda.graphs": "true"}
        return [
            Way("cuda fp32", "cuda", "vit-base"),
            Way("cuda fp32 (tf32)", "cuda", "vit-base", {"engine.cuda.tf32": "true"}),
            Way("cuda fp16, unbound", "cuda", "vit-base-fp16", {"engine.io_binding": "off"}),
            Way("cuda fp16, 1 worker", "cuda", "vit-base-fp16", {"engine.workers": "1"}),
            Way("cuda fp16", "cuda", "vit-base-fp16"),
            Way("cuda fp16, 3 workers", "cuda", "vit-base-fp16", {"engine.workers": "3"}),
            Way("cuda fp16, graphs", "cuda", "vit-base-fp16", graphs),
        ]
    fp16 = {"engine.tensorrt.fp16": "true", "engine.tensorrt.engine_cache": str(cache)}
    return [
        Way("tensorrt fp16", "tensorrt", "vit-base", fp16),
        Way("tensorrt fp16, graphs", "tensorrt", "vit-base", {**fp16, "engine.tensorrt.graphs": "true"}),
    ]


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def gpus() -> list[str]:
    """The GPUs, by name, memory and driver, as nvidia-smi has them."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


class Utilization:
    """How busy the first GPU is, read twice a second. `with Utilization() as seen:`, then `seen.mean()`."""

    def __init__(self, is_there: bool) -> None:
        self._readings: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True) if is_there else None

    def __enter__(self) -> Utilization:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread:
            self._thread.join()

    def _read(self) -> None:
        query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._end.wait(0.5):
            done = subprocess.run(query, capture_output=True, text=True)
            if done.stdout.strip().isdigit():
                self._readings.append(float(done.stdout))

    def mean(self) -> float | None:
        """In percent; None without a GPU."""
        return sum(self._readings) / len(self._readings) if self._readings else None


def library_of(given: Path | None) -> Path | None:
    """libonnxruntime.so in the folder that was given, or of this Python's package. None: the binary has its own."""
    folder = given
    if folder is None and (package := importlib.util.find_spec("onnxruntime")) and package.origin:
        folder = Path(package.origin).parent / "capi"
        if not (folder / PROVIDER_LIBRARY["cuda"]).is_file():
            return None
    if folder is None or folder.is_file():
        return folder
    found = sorted(folder.glob("libonnxruntime.so*"))
    if not found:
        raise Failure(f"--library: no libonnxruntime.so in {folder}")
    return found[0].resolve()


def nvidia_directories(given: list[Path]) -> list[str]:
    """Folders with NVIDIA's libraries."""
    if given:
        return [str(path.resolve()) for path in given]
    places = {path for base in sys.path for path in glob.glob(f"{base}/nvidia/*/lib")}
    return sorted(places)


def run(command: list[object], what: str, library: Path | None) -> None:
    """Run a script of the repository with this Python, its output as it comes."""
    say(what)
    # The scripts' own calls of the binary need ONNX Runtime too; any build has the CPU.
    environment = {**os.environ, "ORT_DYLIB_PATH": str(library)} if library else None
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, stdout=sys.stderr)
    if done.returncode != 0:
        raise Failure(f"{what} failed; its message is above")


def make_models(folder: Path, tessera: Path, library: Path | None, quick: bool) -> None:
    """vit-base and its fp16 version, where they are not there yet."""
    original = folder / "vit-base/1"
    if not (original / "model.onnx").is_file():
        size = ["--size", "tiny", "--layers", "2"] if quick else []
        run([ROOT / "models/make_vit_base.py", original, *size], "making the model", library)
    if not (folder / "vit-base-fp16/1/model.onnx").is_file():
        run([ROOT / "models/lighter.py", original, "--fp16", "--tessera", tessera], "making its fp16 version", library)


def measure_engine(
    tessera: Path, way: Way, environment: dict[str, str], work: Path, options: argparse.Namespace
) -> dict:
    """`tessera measure`: images/s by size of batch."""
    command = [
        str(tessera), "measure", way.model, "--models", str(work / "models"), "--json",
        "--batch", ",".join(map(str, options.batches)), "--duration", f"{options.seconds}s",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=work, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"tessera measure: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout)


def measure_server(
    tessera: Path, way: Way, environment: dict[str, str], work: Path, options: argparse.Namespace
) -> dict:
    """`tessera bench` against `tessera serve`, with the processor time of both."""
    port_file = work / "port.log"
    # A repository with this model alone, as a server loads all that it finds.
    repository = work / "serve"
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir()
    (repository / way.model).symlink_to(work / "models" / way.model)
    command = [
        str(tessera), "serve", "--models", str(repository), "--host", "127.0.0.1", "--port", "0", "--grpc-port", "off",
        "--admin-port", "off", "--default-endpoint", way.model, "--log-format", "json",
    ]  # fmt: skip
    environment = {**environment, "TESSERA__ENGINE__MAX_BATCH": str(max(options.batches))}
    with Server(command, environment, work, port_file) as server:
        url = wait_for(server, port_file, options.patience)
        bench = [
            str(tessera), "bench", url, "--image", str(options.image), "--connections", str(options.connections),
            "--json", "--warm-up", f"{options.warm_up}s", "--duration", f"{options.seconds}s", "--timeout", "120s",
        ]  # fmt: skip
        before, begin = server.cpu(), time.monotonic()
        with Utilization(bool(options.gpus)) as utilization:
            seen = json.loads(run_beside(bench))
        cores = (server.cpu() - before) / (time.monotonic() - begin)
    return {
        "requests_per_second": seen["requests_per_second"], "failed": seen["failed"], "latency_ms": seen["latency_ms"],
        "connections": options.connections, "server_cores": cores, "generator_cores": seen["own_cores"],
        "gpu_percent": utilization.mean(),
    }  # fmt: skip


def wait_for(server: Server, log: Path, patience: float) -> str:
    """The server's URL when it is ready. TensorRT takes minutes to build its engines."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("listener") == "api" and event.get("message") == "listening":
                url = f"http://{event['address']}"
                try:
                    urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
                    return url
                except OSError:
                    break
        if server.has_ended():
            break
        time.sleep(0.1)
    raise Failure(f"the server did not become ready\n{server.tail()}")


def judged(engine: dict, server: dict) -> dict:
    """What limits the server."""
    best = max(engine["results"], key=lambda result: result["items_per_second"])
    ratio = server["requests_per_second"] / best["items_per_second"]
    busy = (server["server_cores"] + (server["generator_cores"] or 0)) / (os.cpu_count() or 1)
    limit = "engine" if ratio >= GOAL else "processor" if busy >= SATURATED else "?"
    return {"best_batch": best["batch"], "best": best["items_per_second"], "ratio": ratio, "busy": busy, "limit": limit}


def markdown(results: list[dict], machine: dict) -> str:
    """The tables."""
    gpu = machine["gpu"] or "**No GPU: this shows only that it runs.**"
    lines = [f"{gpu}; {machine['processor']}, {machine['cores']} cores", ""]
    batches = sorted({one["batch"] for result in results for one in result["engine"]["results"]})
    lines += [
        "Engine alone, images/s by size of batch:",
        "",
        f"| | workers | memory | {' | '.join(map(str, batches))} |",
    ]
    lines.append("|---|---:|---|" + "---:|" * len(batches))
    for result in results:
        rates = {one["batch"]: one["items_per_second"] for one in result["engine"]["results"]}
        cells = " | ".join(f"{rates[batch]:,.0f}" if batch in rates else "" for batch in batches)
        engine = result["engine"]
        # What it came to, not what was asked for.
        memory = "bound, graphs" if engine["cuda_graphs"] else "bound" if engine["bound_memory"] else "not bound"
        lines.append(f"| {result['name']}, on {engine['provider']} | {engine['concurrency']} | {memory} | {cells} |")
    lines += [
        "",
        "End to end, from base64 JPEGs:",
        "",
        "| | images/s | of the engine | p50 ms | p99 ms | cores busy | GPU busy | limit |",
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---|")
    for result in results:
        server, verdict = result["server"], result["verdict"]
        latency = server["latency_ms"]
        gpu = "" if server["gpu_percent"] is None else f"{server['gpu_percent']:.0f} %"
        lines.append(
            f"| {result['name']} | {server['requests_per_second']:,.0f} | {verdict['ratio']:.0%} | "
            f"{latency['p50']:.1f} | {latency['p99']:.1f} | {verdict['busy']:.0%} | {gpu} | {verdict['limit']} |"
        )
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def chosen_providers(options: argparse.Namespace, library: Path | None) -> list[str]:
    """What is asked for, or what there is. Ends the script where there is no GPU for it."""
    wanted = options.provider or ["cuda"]
    if not options.gpus and set(wanted) != {"cpu"}:
        say("There is no GPU here (nvidia-smi shows none). To see that this script runs: --provider cpu --quick")
        raise SystemExit(2)
    if not options.provider and library and (library.parent / PROVIDER_LIBRARY["tensorrt"]).is_file():
        wanted = ["cuda", "tensorrt"]
    for provider in wanted:
        if provider in PROVIDER_LIBRARY and not (library and (library.parent / PROVIDER_LIBRARY[provider]).is_file()):
            raise Failure(
                f"{PROVIDER_LIBRARY[provider]} was not found: install deploy/cuda/requirements.txt into this Python, "
                "or name the folder of ONNX Runtime's CUDA build with --library"
            )
    return wanted


def measure(options: argparse.Namespace, work: Path) -> int:
    """All of it; the number of ways that failed."""
    tessera = options.tessera.resolve()
    library = library_of(options.library)
    providers = chosen_providers(options, library)
    shared = {}
    if set(providers) != {"cpu"}:
        directories = nvidia_directories(options.library_directory)
        shared = {
            "TESSERA__ENGINE__LIBRARY": str(library),
            # Some are opened by name only when they are used.
            "LD_LIBRARY_PATH": ":".join([*directories, os.environ.get("LD_LIBRARY_PATH", "")]).strip(":"),
        }
    elif options.library:
        shared = {"TESSERA__ENGINE__LIBRARY": str(library)}
    models = options.models.resolve() if options.models else work / "models"
    if models != work / "models":
        (work / "models").symlink_to(models)
    make_models(models, tessera, library, options.quick)
    machine = {"gpu": "; ".join(options.gpus), "processor": processor(), "cores": os.cpu_count()}
    results, failures = [], []
    all_ways = [way for provider in providers for way in ways(provider, work / "tensorrt")]
    (work / "tensorrt").mkdir(exist_ok=True)
    for index, way in enumerate(all_ways, 1):
        say(f"[{index}/{len(all_ways)}] {way.name}")
        environment = way.environment(shared)
        try:
            engine = measure_engine(tessera, way, environment, work, options)
            server = measure_server(tessera, way, environment, work, options)
        except Failure as failure:
            failures.append(f"{way.name}: {failure}")
            say(f"  failed: {failure}")
            continue
        verdict = judged(engine, server)
        results.append(
            {"name": way.name, "settings": way.settings, "engine": engine, "server": server, "verdict": verdict}
        )
        rate = server["requests_per_second"]
        say(f"  engine {verdict['best']:,.1f}/s at {verdict['best_batch']}, end to end {rate:,.1f}/s")
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(results, machine) + "".join(f"\nNot measured: {failure}\n" for failure in failures)
    (options.out / "gpu.md").write_text(text)
    (options.out / "gpu.json").write_text(
        json.dumps({"machine": machine, "results": results, "failures": failures}, indent=2)
    )
    print(text)
    say(f"written to {options.out}/gpu.md and gpu.json")
    if not options.gpus:
        say("No GPU was there: nothing here says how fast one is, or that the providers for GPUs work.")
    return len(failures)


def main() -> int:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tessera", type=Path, default=ROOT / "target/release/tessera", help="the binary")
    parser.add_argument(
        "--provider", action="append", choices=["cpu", "cuda", "tensorrt"], help="repeatable; default: what there is"
    )
    parser.add_argument("--library", type=Path, metavar="PATH", help="ONNX Runtime's library, or its folder")
    parser.add_argument(
        "--library-directory",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="NVIDIA's libraries; repeatable",
    )
    parser.add_argument(
        "--models", type=Path, metavar="FOLDER", help="where vit-base and vit-base-fp16 are, or are made and kept"
    )
    parser.add_argument("--image", type=Path, default=PICTURE, help="the picture that is sent (default: 640x427 JPEG)")
    parser.add_argument("--seconds", type=int, default=5, help="how long each is measured (default: %(default)s)")
    parser.add_argument(
        "--connections", type=int, default=CONNECTIONS, help="of the load generator (default: %(default)s)"
    )
    parser.add_argument(
        "--batches",
        type=lambda text: [int(part) for part in text.split(",")],
        default=BATCHES,
        help="sizes, comma-separated",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "target/gpu", help="where gpu.md and gpu.json go (default: target/gpu)"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, a second each: does it run?")
    options = parser.parse_args()
    options.gpus = gpus()
    options.patience, options.warm_up = 900, 3
    if options.quick:
        options.seconds, options.warm_up, options.connections, options.batches = 1, 0, 8, [1, 3]
    if not options.tessera.is_file():
        parser.error(f"{options.tessera} is not there: `make build`, or --tessera PATH")
    adopt_orphans()
    try:
        with tempfile.TemporaryDirectory() as work:
            return int(measure(options, Path(work)) > 0)
    except Failure as failure:
        say(f"error: {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
