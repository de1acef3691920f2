"""The one table of stages. From it come the commands, the workflow, the report and the documents.

A new stage touches its row here, its section and configuration (`config/`), its inputs (`trial/inputs.py`), its schema
(`io/schema`), its module (`stages/`), its report (`report/`), its rule (`workflow/rules/`) and its tests.
"""

from collections.abc import Callable
from typing import NamedTuple

from spreadflow.config import Config
from spreadflow.config.base import Section


class Stage(NamedTuple):
    """A stage of the workflow."""

    word: str
    """name of the rule, the command, the config section, the module, the product, the log"""
    meaning: str
    """what the stage does, one line for documents and help texts"""
    inputs: type
    """class of the input files, in `trial/inputs.py`"""
    config: type[Section]
    """class of the sections that the stage reads, in `config/stages.py`"""
    outputs: tuple[str, ...]
    """files the stage writes, `{run}` and `{trial}` aside; the first is its product"""
    is_per_run: bool
    """whether the stage works run by run"""
    is_parallel: bool
    """whether the stage runs on many ranks"""
    memory_mb: int
    """memory of a rank, MB"""
    minutes: int
    """time limit on a cluster, minutes"""
    is_wanted: Callable[[Config], bool]
    """whether a trial of this configuration has the stage"""
