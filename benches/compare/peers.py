"""The servers: how each is started, in the form that its own documents recommend for speed.

All of them have one worker for each core with a session of one thread, which is what gives ONNX Runtime its best
throughput on a CPU; those that form batches do. How they do it stands in `servers/`, at the top of each file.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from workloads import Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venv-bench"

# No peer may call home or use threads that nobody asked it for.
COMMON = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": str(HERE / "servers"),
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True)
class Start:
    """What it takes to start a server."""

    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Peer:
    """A server of another project."""

    name: str
    title: str
    # The packages whose versions are reported besides what all have.
    packages: tuple[str, ...]
    arguments: tuple[str, ...]
    settings: tuple[tuple[str, str], ...] = ()
    # A package that can't be had everywhere, by its folder's name.
    needs: str = ""

    @property
    def python(self) -> Path:
        """The interpreter of its environment, which `requirements/NAME.txt` describes."""
        return ENVIRONMENTS / self.name / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        """Whether its environment was finished."""
        folder = ENVIRONMENTS / self.name
        needed = not self.needs or any(folder.glob(f"lib/python*/site-packages/{self.needs}-*.dist-info"))
        return (folder / ".requirements").is_file() and needed

    def versions(self) -> dict[str, str]:
        """The versions of its packages, Pillow's or Pillow-SIMD's among them."""
        code = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        installed = json.loads(subprocess.check_output([self.python, "-c", code], text=True))
        wanted = (*self.packages, "onnxruntime", "pillow", "pillow-simd")
        return {name: installed[name] for name in wanted if name in installed}

    def start(self, workload: Workload, port: int, workers: int) -> Start:
        """The command for a workload."""
        environment = COMMON | model_environment(workload) | {
            "BENCH_WORKERS": str(workers),
            "BENCH_PORT": str(port),
            "BENCH_BATCH": str(workload.batch),
            "BENCH_DELAY": str(workload.delay),
            "BENCH_FAST_QUEUE": "1" if workload.is_fast else "0",
        }  # fmt: skip
        fill = {"port": port, "workers": workers, "model": workload.model}
        environment |= {name: value.format(**fill) for name, value in self.settings}
        return Start([str(self.python), *(part.format(**fill) for part in self.arguments)], environment)


def model_environment(workload: Workload) -> dict[str, str]:
    """What `servers/model.py` reads."""
    return {"BENCH_MODEL": str(workload.model), "BENCH_KIND": workload.kind}


FASTAPI = Peer(
    "fastapi", "FastAPI", ("fastapi", "uvicorn", "uvloop"),
    (str(HERE / "servers/fastapi_server.py"),),
)  # fmt: skip
# What somebody may build who knows that FastAPI's way of a picture is Pillow's.
FASTAPI_SIMD = replace(FASTAPI, name="fastapi-simd", title="FastAPI, Pillow-SIMD", needs="pillow_simd")
CPR = Peer(
    "cpr", "Vertex CPR", ("google-cloud-aiplatform", "fastapi", "uvicorn"),
    ("-m", "google.cloud.aiplatform.prediction.model_server"),
    (
        ("AIP_HTTP_PORT", "{port}"), ("AIP_HEALTH_ROUTE", "/health"), ("AIP_PREDICT_ROUTE", "/predict"),
        ("AIP_STORAGE_URI", "{model}"), ("VERTEX_CPR_WEB_CONCURRENCY", "{workers}"),
        ("HANDLER_MODULE", "google.cloud.aiplatform.prediction.handler"), ("HANDLER_CLASS", "PredictionHandler"),
        ("PREDICTOR_MODULE", "cpr_predictor"), ("PREDICTOR_CLASS", "BenchPredictor"),
    ),
)  # fmt: skip
LITSERVE = Peer(
    "litserve", "LitServe", ("litserve", "fastapi", "uvicorn", "pyzmq"),
    (str(HERE / "servers/litserve_server.py"),),
)  # fmt: skip
MOSEC = Peer(
    "mosec", "mosec", ("mosec",),
    (
        str(HERE / "servers/mosec_server.py"), "--address", "127.0.0.1", "--port", "{port}", "--timeout", "60000",
        "--max-request-size", str(64 << 20), "--capacity", "4096", "--log-level", "warning",
    ),
)  # fmt: skip
RAY = Peer(
    "ray", "Ray Serve", ("ray",),
    (str(HERE / "servers/ray_server.py"),),
    (("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"), ("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_DEDUP_LOGS", "0")),
)  # fmt: skip

PEERS = (FASTAPI, FASTAPI_SIMD, CPR, LITSERVE, MOSEC, RAY)


def start_tessera(binary: Path, workload: Workload, port: int) -> Start:
    """Tessera with its defaults. Logging as quiet as the peers' is."""
    command = [
        str(binary), "serve", "--models", str(workload.model), "--default-endpoint", workload.model.parent.name, "--host", "127.0.0.1",
        "--port", str(port), "--admin-port", "off", "--grpc-port", "off", "--log-level", "warn",
    ]  # fmt: skip
    # Nothing balances here, so nobody has to learn that it ends.
    return Start(command, {"TESSERA__SERVER__DRAIN_DELAY": "0s"})
