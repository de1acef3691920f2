"""`spreadflow summary STAGE`: the JSON of a stage's figures and, beside it, the picture."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spreadflow import __version__
from spreadflow.errors import warning_sentence
from spreadflow.io.store import identity, replacing, warnings_of
from spreadflow.report import module_of, style


def run(stage: str, *, products: list[Path], images: list[Path], out: Path) -> None:
    """Write `out` (JSON) and its picture (PNG) from the finished products of a stage.

    images: manifests of the runs.
    """
    with matplotlib.rc_context(style.STYLE):
        figures, picture = module_of(stage).make(stage, list(products), list(images))
        identities = {str(path): identity(path) for path in products}
        warnings = figures.get("warnings") or warnings_of(products)
        style.warn(picture, _sentences(warnings, picture))
        summary = {"stage": stage} | figures | {"warnings": warnings, "products": identities}
        write(summary, picture, out)


def _sentences(warnings: list[dict[str, Any]], picture: Figure) -> list[str]:
    """Return warnings in words, without what to do where the picture itself says it."""
    texts = [text.get_text() for axes in picture.axes for text in axes.texts]
    words = _without_blanks(" ".join(texts))
    return [
        warning_sentence(
            warning | {"todo": ""} if _without_blanks(warning["todo"]) in words else warning
        )
        for warning in warnings
    ]


def _without_blanks(text: str) -> str:
    """Return a text without blanks and ends of lines, so that its lines may be others."""
    return "".join(text.split())


def write(figures: dict[str, Any], picture: Figure, out: Path) -> None:
    """Write `out` (JSON) and, beside it, the picture (PNG)."""
    style.save(picture, out.with_suffix(".png"))
    figures = {"software": f"spreadflow {__version__}"} | figures
    text = json.dumps(_plain(figures), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(out) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers in place of NumPy's, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
