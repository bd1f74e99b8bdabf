"""The two JSON files that stand beside every model, in Hugging Face's form."""

from __future__ import annotations

import json
from pathlib import Path


def preprocessor_config(size: int = 224) -> dict[str, object]:
    """What `ViTImageProcessor` saves for a picture squashed to `size` x `size` in [-1, 1]."""
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }


def write_json(path: Path, value: object) -> None:
    """Write `value` the way `save_pretrained` does: two spaces, UTF-8, a newline at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
