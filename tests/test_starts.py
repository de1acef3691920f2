"""What a process imports before it works: a library that takes long is imported where it is used
(CONTRIBUTING.md).
"""

import subprocess
import sys

import pytest

from spreadflow.config import OVERLAYS
from spreadflow.report import REPORTED_AS
from spreadflow.trial import STAGES

pytestmark = pytest.mark.chain

SCIPY = {
    f"scipy.{name}"
    for name in ("fft", "linalg", "ndimage", "optimize", "sparse", "spatial", "special")
}
"""Subpackages of SciPy that are used: together they take as long as JAX."""

NEVER_AT_ONCE = SCIPY | {
    "matplotlib",
    "pandas",
    "sklearn",
    "xraydb",
    "scipy.stats",
    "fabio",
    "snakemake",
}
"""Libraries that no stage needs before it works."""


def imported(modules: list[str]) -> set[str]:
    """Return the names of all modules that a new process has after it imported these."""
    program = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def stages(words: list[str]) -> list[str]:
    """Return the modules of stages."""
    return [f"spreadflow.stages.{word}" for word in words if word not in OVERLAYS]


def test_a_stage_imports_no_library_that_it_uses_later():
    found = imported(stages([stage.word for stage in STAGES]))
    assert "numpy" in found
    assert not NEVER_AT_ONCE & found


def test_stages_before_pixels_are_modelled_import_no_jax():
    words = [stage.word for stage in STAGES if not stage.is_in_jax]
    assert {"index", "merge", "annulus", "pack"} <= set(words)
    found = imported(stages(words))
    assert not (NEVER_AT_ONCE | {"jax"}) & found


@pytest.mark.parametrize("word", [stage.word for stage in STAGES if stage.is_in_jax])
def test_a_stage_that_computes_in_jax_imports_it_before_devices_are_taken(word):
    assert "jax" in imported(stages([word]))


def test_merge_imports_no_mathematics_of_scipy():
    found = imported(stages(["merge"]))
    assert not {"scipy.optimize", "scipy.linalg", "scipy.special"} & found


def test_summaries_import_what_draws_alone():
    words = [stage.word for stage in STAGES if stage.word not in REPORTED_AS]
    found = imported(["spreadflow.report.summary", *(f"spreadflow.report.{w}" for w in words)])
    assert "matplotlib" in found
    assert not {"jax", "pandas", "sklearn", "xraydb", "scipy.stats", "matplotlib.pyplot"} & found
    assert not SCIPY & found


def test_tables_of_most_stages_are_read_without_compiled_loops():
    words = (
        "level0",
        "cells",
        "merge",
        "annulus",
        "ladder",
        "predict",
        "stage1",
        "stage2",
        "mosaic",
    )
    found = imported([f"spreadflow.report.{word}" for word in words])
    assert "numba" not in found


def test_the_command_line_imports_neither_mathematics_nor_the_classes_of_the_configuration():
    found = imported(["spreadflow.cli.main"])
    assert not {"numpy", "h5py", "mpi4py", "jax", "pydantic", "yaml", "gemmi"} & found
