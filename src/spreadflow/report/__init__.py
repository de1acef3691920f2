"""Figures and pictures of the stages, the page and the table of a trial.

Each stage has a module here of the same word: `make` returns its figures (`<word>.json`) and its
picture (`<word>.png`) from finished products, `headline` says the figures in a few lines, and
`checks`, where there is one, returns the counts that must agree with those of other stages.

This package and the tests are the only code that reads a simulation's truth. The keys of the
figures are documented in docs/summaries.md.
"""

import importlib
from types import ModuleType

from spreadflow.trial import STAGES

WORDS = tuple(stage.word for stage in STAGES)
"""Words of the stages, in the order of the workflow."""

REPORTED_AS = {"reindex": "index", "wide": "annulus", "pack": "annulus"}
"""Stages that another stage's module reports: both do the same with different sections."""


def module_of(word: str) -> ModuleType:
    """Return the module that reports a stage."""
    return importlib.import_module(f"spreadflow.report.{REPORTED_AS.get(word, word)}")
