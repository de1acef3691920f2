"""`spreadflow summary STAGE`: the JSON of a stage's figures and, beside it, the picture."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spreadflow import __version__
from spreadflow.config import OVERLAYS
from spreadflow.io.store import identity, replacing
from spreadflow.report import style


def run(stage: str, *, products: list[Path], images: list[Path], out: Path) -> None:
    """Write `out` (JSON) and its picture (PNG) from the finished products of a stage."""
    module = importlib.import_module(f"spreadflow.report.{OVERLAYS.get(stage, stage)}")
    with matplotlib.rc_context(style.STYLE):
        figures, page = module.make(stage, [Path(p) for p in products], [Path(p) for p in images])
        write(
            {"stage": stage}
            | figures
            | {"products": {str(path): identity(path) for path in products}},
            page,
            out,
        )


def write(figures: dict[str, Any], page: Figure, out: Path) -> None:
    """Draw the JSON `out` and, beside it, the picture."""
    with replacing(out.with_suffix(".png")) as temporary:
        page.savefig(temporary, format="png", dpi=120)
    told = {"software": f"spreadflow {__version__}"} | figures
    with replacing(out) as temporary:
        temporary.write_text(
            json.dumps(_plain(told), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )


def _plain(value: Any) -> Any:
    """Return a value with NumPy numbers as Python's, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
