"""Every dataset of every spreadflow file: name, dimensions, dtype, unit, meaning. docs/files.md is
generated from here. Each kind of file has its module.

Ragged data are flat columns: a row of a sub-table names the row it belongs to in a column whose
`refers` is that table (`spots/shot` → a row of `shots`). Such columns are shifted when the parts of
a product are read as one.
"""

from spreadflow.io.schema import (
    adopt,
    annulus,
    cells,
    gram,
    index,
    ladder,
    merge,
    mosaic,
    predict,
    spectra,
    spread,
    stage1,
    stage2,
    truth,
)
from spreadflow.io.schema.core import Dataset
from spreadflow.io.schema.truth import KINDS

__all__ = ["FILES", "KINDS", "VERSION", "Dataset"]

VERSION = 8
"""Of the whole schema, in every file: a product of another version is refused."""

FILES: dict[str, dict[str, Dataset]] = {
    "index": index.DATASETS,
    "adopt": adopt.DATASETS,
    "reindex": index.DATASETS,
    "spectra": spectra.DATASETS,
    "cells": cells.DATASETS,
    "merge": merge.DATASETS,
    "annulus": annulus.DATASETS,
    "wide": annulus.DATASETS,
    "pack": annulus.DATASETS,
    "pulses": annulus.PULSES,
    "ladder": ladder.DATASETS,
    "mosaic": mosaic.DATASETS,
    "stage1": stage1.DATASETS,
    "predict": predict.DATASETS,
    "gram": gram.DATASETS,
    "stage2": stage2.DATASETS,
    "spread": spread.DATASETS,
    "truth": truth.DATASETS,
    "true_curves": truth.CURVES,
    "true_intensities": truth.INTENSITIES,
}
"""File kind → dataset path → description."""


def tables(kind: str) -> dict[str, str]:
    """Return the tables of a kind of file, each with its first dataset."""
    first: dict[str, str] = {}
    for path in FILES[kind]:
        first.setdefault(path.partition("/")[0], path)
    return first
