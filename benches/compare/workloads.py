"""What is asked: models, requests, and the loads of each mode."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from load import Point

ROOT = Path(__file__).resolve().parent.parent.parent
MADE = ROOT / "models-extra"
REQUESTS = MADE / "bench-requests"
SMALL = ROOT / "benches/data/china_640x480.jpg"
ROWS = ROOT / "benches/data/breast-cancer/request.json"

# The names of the pictures, as the tables have them.
VGA = "640x480"
LARGE = "12 megapixels"


@dataclass(frozen=True)
class Workload:
    """A model and how it is asked."""

    name: str
    title: str
    kind: str
    model: Path
    # For the servers that form batches: the most requests of one, so that at the connections measured each worker gets
    # some, and how long a batch waits, in seconds.
    batch: int
    delay: float
    # Hundreds of requests a second and more.
    is_fast: bool
    # What confidences or values may differ by. Pillow and numpy on one side, Tessera's own code on the other give the
    # same tensor up to the last bit or two of a float; integers made of it by dynamic quantisation may fall differently.
    tolerance: float
    smoke: tuple[Point, ...]
    quick: tuple[Point, ...]
    full: tuple[Point, ...]
    # Measured by these alone; all of them if empty.
    peers: tuple[str, ...] = ()

    def points(self, mode: str) -> tuple[Point, ...]:
        """The loads of a mode."""
        return {"smoke": self.smoke, "quick": self.quick, "full": self.full}[mode]

    def body(self, picture: str) -> Path:
        """The file of the request with this picture."""
        return ROWS if self.kind == "tabular" else REQUESTS / f"{picture.replace(' ', '_')}.json"


def closed(*connections: int, **rest: object) -> tuple[Point, ...]:
    """Closed loops."""
    return tuple(Point(connections=count, **rest) for count in connections)


def open_loop(*rates: float, **rest: object) -> tuple[Point, ...]:
    """Open loops. The rates are for two cores and grow with them."""
    return tuple(Point(rate=rate, **rest) for rate in rates)


# All but the one that differs only in how it resizes.
PILLOW = ("fastapi", "cpr", "litserve", "mosec", "ray")
SECOND = {"seconds": 1, "warm_up": 0.3}
ALL = (1, 8, 32, 64, 128, 512)

WORKLOADS = (
    Workload(
        "efficientnet", "EfficientNet-Lite0", "image", ROOT / "models/imagenet/1", 4, 0.002, False, 2e-3,
        smoke=closed(1, 8, picture=VGA, **SECOND) + closed(2, picture=LARGE, **SECOND) + open_loop(20, picture=VGA, **SECOND),
        quick=closed(1, picture=VGA, seconds=2, warm_up=0.5) + closed(32, picture=VGA, seconds=4)
        + closed(8, picture=LARGE, seconds=3) + open_loop(20, 40, 80, picture=VGA, seconds=2, warm_up=0.5),
        full=closed(*ALL, picture=VGA, seconds=3) + closed(1, 8, 32, picture=LARGE, seconds=4)
        + open_loop(10, 20, 40, 80, 120, 160, picture=VGA, seconds=3) + open_loop(2, 4, 8, picture=LARGE, seconds=3)
        + (Point(users=100, picture=VGA, seconds=5, warm_up=2),),
    ),
    Workload(
        "tabular", "XGBoost, 30 features", "tabular", ROOT / "benches/data/breast-cancer/1", 32, 0.001, True, 1e-5,
        smoke=closed(1, 64, **SECOND) + open_loop(200, **SECOND),
        quick=closed(1, 64, 512, seconds=2, warm_up=0.5) + open_loop(500, 2000, 8000, seconds=1.5, warm_up=0.3),
        full=closed(*ALL, seconds=3) + open_loop(200, 500, 1000, 2000, 4000, 8000, 16000, seconds=2, warm_up=0.5),
        peers=PILLOW,
    ),
    Workload(
        "vit", "ViT-B/16", "image", MADE / "vit-base/1", 2, 0.005, False, 2e-3,
        smoke=(),
        quick=closed(1, picture=VGA, seconds=3, warm_up=0.5) + closed(8, picture=VGA, seconds=7)
        + open_loop(1.5, 3, picture=VGA, seconds=3, warm_up=0.5),
        full=closed(1, 8, 32, picture=VGA, seconds=8, warm_up=2) + closed(8, picture=LARGE, seconds=8)
        + open_loop(1, 2, 3, 4, picture=VGA, seconds=8) + (Point(users=100, picture=VGA, seconds=15, warm_up=18),),
        peers=PILLOW,
    ),
    Workload(
        "vit-int8", "ViT-B/16 int8", "image", MADE / "vit-base-int8/1", 2, 0.005, False, 3e-2,
        smoke=(),
        quick=closed(8, picture=VGA, seconds=5),
        full=closed(1, 8, 32, picture=VGA, seconds=4) + open_loop(2, 5, 8, 11, picture=VGA, seconds=5),
        peers=("fastapi", "mosec"),
    ),
)  # fmt: skip


def prepare(workloads: list[Workload], show) -> None:
    """Makes what is missing: the requests, and the models that are too large to be kept."""
    REQUESTS.mkdir(parents=True, exist_ok=True)
    pictures = {VGA: SMALL, LARGE: MADE / "china_4000x3000.jpg"}
    for workload in workloads:
        if not (workload.model / "model.onnx").is_file():
            show(f"making {workload.model.relative_to(ROOT)}, once")
            options = ["--int8"] if workload.name == "vit-int8" else []
            subprocess.run(
                [sys.executable, ROOT / "models/make_vit_base.py", workload.model, *options],
                check=True,
                stdout=subprocess.DEVNULL,
            )
    for name, path in pictures.items():
        if not path.is_file():
            show(f"making {path.relative_to(ROOT)}, once")
            make_large(path)
        body = {"instances": [{"b64": base64.b64encode(path.read_bytes()).decode()}]}
        (REQUESTS / f"{name.replace(' ', '_')}.json").write_text(json.dumps(body, separators=(",", ":")))


def make_large(path: Path) -> None:
    """A picture of 12 megapixels: the small one enlarged, with noise so that its file is as large as a camera's."""
    import numpy as np
    from PIL import Image

    picture = Image.open(SMALL).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 8, (3000, 4000, 1)).astype(np.float32)
    noisy = np.clip(np.asarray(picture, np.float32) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=88, subsampling="4:2:0")
