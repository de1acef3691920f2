"""The one table of stages. From it come the commands, the workflow, the report and the documents.

A new stage touches its row here, its section and its class of sections (`config/`), its inputs
(`trial/inputs.py`, `trial/files.py`), its product (`products/`), its module (`stages/`), its report
(`report/`), its rule (`workflow/rules/`) and its tests.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from spreadflow.trial import facts, inputs

if TYPE_CHECKING:  # the classes of the configuration take long, and who draws needs none
    from spreadflow.config import Config
    from spreadflow.config.base import Section


def _indexes_here(config: "Config") -> bool:
    """Whether the detector is refined from lattices that are indexed here."""
    return bool(facts.indexed_runs(config)) and not facts.has_frozen_detector(config)


NO_ROWS: Mapping[str, int] = MappingProxyType({})
"""Of no table."""


class Stage(NamedTuple):
    """A stage of the workflow. The defaults are those of a stage that works once a trial, on one
    rank.
    """

    word: str
    """name of the rule, the command, the config section, the module, the product and the log"""
    meaning: str
    """what the stage writes and what that is, for the documents"""
    inputs: type
    """class of the input files, in `trial/inputs.py`"""
    outputs: tuple[str, ...]
    """files that the stage writes into the folder of the trial"""
    is_wanted: "Callable[[Config], bool]" = facts.has_crystals
    """whether a trial of this configuration has the stage"""
    is_parallel: bool = True
    """whether the stage runs on many ranks"""
    is_in_jax: bool = True
    """whether any of it is computed in JAX, on a device of each rank"""
    has_engine_in_jax: bool = False
    """whether a key of its section has it computed in JAX, though it starts without"""
    memory_mb: int = 1500
    """memory of a rank, MB, but for what grows with the rows of what it reads"""
    shared_bytes: Mapping[str, int] = NO_ROWS
    """what grows and ranks share: input and table, `reindex/reflections` → bytes of a row"""
    common_bytes: Mapping[str, int] = NO_ROWS
    """what grows and each rank has: the same"""
    minutes: int = 240
    """time limit on a cluster, minutes"""
    ranks_divisor: int = 1
    """a profile lets the stage have the ranks of its machine over this: what adds up over all
    lattices, or writes few large files, gains little from more
    """
    runs: "Callable[[Config], list[str]] | None" = None
    """the runs that the stage works on one by one; None for a stage that works once a trial"""
    product: str | None = None
    """the file that figures and picture are made from, where it is not the first of the outputs"""

    @property
    def config(self) -> "type[Section]":
        """Class of the sections that the stage reads: an edited key in one of them reruns it."""
        from spreadflow.config import STAGE_CONFIGS

        return STAGE_CONFIGS[self.word]

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections that the stage reads."""
        names = (name.replace("recordings", "recording") for name in self.config.model_fields)
        return tuple(name for name in names if name not in ("shots", "lattices"))

    @property
    def takes_devices(self) -> bool:
        """Whether its ranks may compute on devices."""
        return self.is_in_jax or self.has_engine_in_jax

    @property
    def grows(self) -> bool:
        """Whether the memory of a rank grows with the rows of what it reads."""
        return bool(self.shared_bytes or self.common_bytes)

    def rank_mb(self, n_rows: Mapping[str, int], n_ranks: int) -> int:
        """Return the memory of one of some ranks, MB. n_rows: of the tables of what is read; those
        that are not known count as none.
        """

        def total(bytes_of: Mapping[str, int]) -> int:
            return sum(n_bytes * n_rows.get(table, 0) for table, n_bytes in bytes_of.items())

        n_bytes = total(self.shared_bytes) / n_ranks + total(self.common_bytes)
        return self.memory_mb + math.ceil(n_bytes / 1e6)

    @property
    def summarized(self) -> str:
        """The file that figures and picture are made from, below the trial; `{run}` stands for
        each run.
        """
        return self.product or self.outputs[0]


STAGES = (
    Stage(
        word="simulate",
        meaning="NXmx images with a spectrum per shot, and the manifest that lists them",
        inputs=inputs.SimulateInputs,
        outputs=("manifest.json",),
        is_wanted=lambda config: bool(facts.simulated_runs(config)),
        memory_mb=2000,
        runs=facts.simulated_runs,
    ),
    Stage(
        word="index",
        meaning="spots, lattices and integrated reflections; the target cell may be wrong by 3 % "
        "and 3°",
        inputs=inputs.IndexInputs,
        outputs=("{run}/index.h5",),
        is_wanted=_indexes_here,
        is_in_jax=False,
        runs=facts.indexed_runs,
    ),
    Stage(
        word="level0",
        meaning="shift and distance of the detector from all lattices jointly, with σ "
        "(DIALS format)",
        inputs=inputs.Level0Inputs,
        outputs=("level0.expt",),
        is_wanted=_indexes_here,
        memory_mb=900,
        shared_bytes={"index/spots": 500},
        minutes=60,
        ranks_divisor=4,
    ),
    Stage(
        word="adopt",
        meaning="the lattices of DIALS, cctbx.xfel, diffBragg or CrystFEL in place of those that "
        "`index`, `level0` and `reindex` would find, and what became of each; without images "
        "their intensities too",
        inputs=inputs.AdoptInputs,
        outputs=("{run}/reindex.h5", "{run}/adopt.h5"),
        is_wanted=lambda config: bool(facts.adopted_runs(config)),
        is_in_jax=False,
        runs=facts.adopted_runs,
        product="{run}/adopt.h5",
    ),
    Stage(
        word="reindex",
        meaning="as `index`, but with the detector where it truly is",
        inputs=inputs.ReindexInputs,
        outputs=("{run}/reindex.h5",),
        is_in_jax=False,
        runs=facts.indexed_runs,
    ),
    Stage(
        word="cells",
        meaning="clusters of unit cells, and the accepted lattices",
        inputs=inputs.CellsInputs,
        outputs=("cells.h5", "cells.tdata"),
        is_parallel=False,
        is_in_jax=False,
        memory_mb=4000,
        minutes=60,
    ),
    Stage(
        word="merge",
        meaning="merged intensities (IMEAN, I(+), I(−)); scales, error model, statistics",
        inputs=inputs.MergeInputs,
        outputs=("merge.h5", "merge.mtz"),
        is_in_jax=False,
        memory_mb=400,
        shared_bytes={"reindex/reflections": 100},
        common_bytes={"reindex/lattices": 500},
        minutes=120,
        ranks_divisor=4,
    ),
    Stage(
        word="annulus",
        meaning="the shoebox pixels from 2.5 to 2.1 Å, so that no later stage opens an image",
        inputs=inputs.AnnulusInputs,
        outputs=("annulus.h5",),
        is_wanted=facts.has_images,
        is_in_jax=False,
        minutes=120,
    ),
    Stage(
        word="wide",
        meaning="as `annulus`, but to lower resolution, for the curves",
        inputs=inputs.AnnulusInputs,
        outputs=("wide.h5",),
        is_wanted=facts.needs_wide,
        is_in_jax=False,
        minutes=120,
    ),
    Stage(
        word="ladder",
        meaning="the regression series of the published work, repeated rung by rung on these "
        "pixels",
        inputs=inputs.LadderInputs,
        outputs=("ladder.h5",),
        is_wanted=lambda config: facts.has_model(config, "ladder"),
        memory_mb=2500,
    ),
    Stage(
        word="mosaic",
        meaning="the orientations of the mosaic domains, learned from the pixels of all lattices "
        "together or of each alone, where `stage1.mosaicity` is `learned`",
        inputs=inputs.MosaicInputs,
        outputs=("mosaic.h5",),
        is_wanted=facts.learns_mosaicity,
        memory_mb=3000,
        ranks_divisor=2,
    ),
    Stage(
        word="stage1",
        meaning="scale, rotation, cell, N and η of every lattice from its pixels, with σ",
        inputs=inputs.Stage1Inputs,
        outputs=("stage1.h5", "stage1.csv"),
        is_wanted=lambda config: facts.has_model(config, "stage1"),
        memory_mb=2000,
    ),
    Stage(
        word="predict",
        meaning="the reflections of the refined lattices, integrated, and which of them are worth "
        "their pixels: by their place and the mean intensity of their resolution (DIALS format "
        "too)",
        inputs=inputs.PredictInputs,
        outputs=("predict.h5", "predict.expt", "predict.refl"),
        is_wanted=facts.has_stage2,
        memory_mb=2000,
        minutes=120,
    ),
    Stage(
        word="pack",
        meaning="the pixels of the chosen reflections in few files that are mapped into memory, "
        "each with a checksum",
        inputs=inputs.PackInputs,
        outputs=("pack.h5",),
        is_wanted=facts.has_stage2,
        is_in_jax=False,
        memory_mb=2500,
        minutes=120,
        ranks_divisor=2,
    ),
    Stage(
        word="stage2",
        meaning="one intensity for each unique reflection, Friedel mates apart, from the pixels of "
        "all lattices together, with σ and amplitudes; its Gram matrices are in `stage2.gram/`, "
        "the intensities of each cycle in `stage2.cycles/`",
        inputs=inputs.Stage2Inputs,
        outputs=("stage2.h5", "stage2.mtz"),
        is_wanted=facts.has_stage2,
        memory_mb=1300,
        shared_bytes={"pack/lattices": 30_000},
        common_bytes={"pack/lattices": 8000},
    ),
    Stage(
        word="spread",
        meaning="f′ and f″ of every metal site with their covariances, E0, and controls; the Gram "
        "matrices that they come from are in `spread.gram/`",
        inputs=inputs.SpreadInputs,
        outputs=("spread.h5", "spread.csv"),
        is_wanted=facts.has_sites,
        memory_mb=1500,
        shared_bytes={"shoeboxes/reflections": 45_000},
        common_bytes={"shoeboxes/lattices": 10_000},
        minutes=480,
    ),
    Stage(
        word="correlate",
        meaning="G2 of the pixels of a run at later times, of runs that say so, or what a class of "
        "the user calculates; and its figures",
        inputs=inputs.CorrelateInputs,
        outputs=("{run}/correlate.h5", "{run}/correlate.json"),
        is_wanted=lambda config: bool(facts.correlated_runs(config)),
        is_in_jax=False,
        has_engine_in_jax=True,
        memory_mb=4000,
        runs=facts.correlated_runs,
    ),
)
"""All stages, in the order of the workflow."""

BY_WORD = {stage.word: stage for stage in STAGES}
"""The stages by their word."""

BY_FILE = {PurePath(stage.summarized).name: stage for stage in STAGES}
"""The stages by the name of the file that their figures are made from."""


def wanted(config: "Config") -> list[str]:
    """Return the words of the stages that a trial of this configuration has, in the order of the
    workflow.
    """
    return [stage.word for stage in STAGES if stage.is_wanted(config)]
