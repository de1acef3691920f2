"""What the stages that model pixels (ladder, mosaic, stage1, spread) have in common: the files they
depend on, and the models of the runs.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spreadflow.config.base import Section
from spreadflow.io import factor_files, shoebox_blocks, store
from spreadflow.recipes.lattice import RunModel
from spreadflow.recipes.run_model import PixelConfig, run_models
from spreadflow.stages.factors import read_files


def inputs_of(config: PixelConfig, paths: Iterable[Path | None]) -> list[Any]:
    """Return what the key of a product is made of beside sections: seed, how the runs were
    recorded, and the identities of files, those of structure factors last.

    paths: other files that the stage reads, None where there is none.
    """
    files = [path for path in paths if path is not None]
    files += factor_files.paths_of(config.structure_factors)
    recordings = [recording.model_dump(mode="json") for recording in config.recordings]
    return [config.seed, recordings, *map(store.identity, files)]


def sections_of(config: PixelConfig, section: Section) -> list[dict[str, Any]]:
    """Return a stage's section and that of structure factors, for the key of its product."""
    return [part.model_dump(mode="json") for part in (section, config.structure_factors)]


def read_models(
    config: PixelConfig, shoeboxes: Path, kind: str, word: str, log: logging.Logger
) -> list[RunModel]:
    """Return what the lattices of each run share.

    kind: that of the shoeboxes, annulus, wide or pack; word: the stage that asks; log: its own.
    Raises ConfigError, FileError.
    """
    recording = shoebox_blocks.read_recording(shoeboxes, kind)
    files = read_files(config.structure_factors, log)
    return run_models(config, recording, word, files)
