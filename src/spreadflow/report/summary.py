"""The JSON of a stage's figures and, beside it, the picture: of one stage (`spreadflow summary`),
or of all those of a trial that have none yet (`spreadflow report`), one after the other.
"""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spreadflow import __version__
from spreadflow.errors import FileError, warning_sentence
from spreadflow.io import shares
from spreadflow.io.store import identity, warnings_of, write_text
from spreadflow.report import WORDS, module_of, style
from spreadflow.trial.stages import BY_FILE

SOFTWARE = f"spreadflow {__version__}"
"""What writes summaries."""


def write_missing(products: list[Path], images: list[Path], folder: Path) -> list[Path]:
    """Write the summaries of all stages that have products, and return their paths in the order of
    the workflow. Those that are there, of the same files and by this version, are left as they are.

    images: manifests of the runs. folder: where summaries lie. Raises FileError.
    """
    products_of: dict[str, list[Path]] = {}
    for path in products:
        if path.name not in BY_FILE:
            known = ", ".join(BY_FILE)
            raise FileError(path, f"one of {known}", path.name, "Leave it out.")
        products_of.setdefault(BY_FILE[path.name].word, []).append(path)
    paths = {stage: folder / f"{stage}.json" for stage in WORDS if stage in products_of}
    for stage, path in paths.items():
        if not _is_current(path, products_of[stage], images):
            run(stage, products=products_of[stage], images=images, out=path)
    return list(paths.values())


def _is_current(path: Path, products: list[Path], images: list[Path]) -> bool:
    """Whether summary and picture are there, made by this version from these files as they are."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    source = _source(products, images)
    is_same = all(figures.get(name) == value for name, value in source.items())
    return is_same and path.with_suffix(".png").exists()


def _source(products: list[Path], images: list[Path]) -> dict[str, Any]:
    """Return what a summary says of who made it, and from what: its version, path → what tells the
    content of a file from any other, and product → figures of what each rank had of the work, where
    they are known.
    """
    of_products = {str(path): shares.read(path) for path in products}
    return {
        "software": SOFTWARE,
        "products": {str(path): identity(path) for path in [*products, *images]},
        "ranks": {path: known.figures() for path, known in of_products.items() if known},
    }


def run(stage: str, *, products: list[Path], images: list[Path], out: Path) -> None:
    """Write `out` (JSON) and its picture (PNG) from the finished products of a stage.

    images: manifests of the runs.
    """
    with matplotlib.rc_context(style.STYLE):
        figures, picture = module_of(stage).make(stage, list(products), list(images))
        warnings = figures.get("warnings") or warnings_of(products)
        style.warn(picture, _sentences(warnings, picture))
        source = _source(list(products), list(images))
        write({"stage": stage} | figures | {"warnings": warnings} | source, picture, out)


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
    figures = {"software": SOFTWARE} | figures
    text = json.dumps(_plain(figures), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out, text + "\n")


def _plain(value: Any) -> Any:
    """Return a value with Python's numbers in place of NumPy's, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
