"""The input files of each stage, one class a stage. A field becomes an argument of the command
line.

`Path` is one file, `list[Path]` one or more; with `| None` they may be absent.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SimulateInputs:
    """`simulate` reads no product; the files its sections name are in the configuration."""


@dataclass(frozen=True)
class IndexInputs:
    """The images of a run, and a detector in place of the one in their headers."""

    images: Path
    """manifest of the run's images"""
    geometry: Path | None = None
    """DIALS experiment list (.expt) with the detector"""


@dataclass(frozen=True)
class Level0Inputs:
    """The indexed lattices of all runs that share a detector; none where `level0.imported` names
    those of another program.
    """

    index: list[Path] | None = None


@dataclass(frozen=True)
class AdoptInputs:
    """The images of a run, and the lattices that another program indexed in them; or, without
    images, files with lattices and intensities.
    """

    images: Path | None = None
    """manifest of the run's images"""
    spec: Path | None = None
    """text file with a line for each pair of .expt and .refl"""
    lattices: list[Path] | None = None
    """CrystFEL streams, or .expt with a .refl of the same name beside, in place of the two"""


@dataclass(frozen=True)
class ReindexInputs:
    """The images of a run, and the refined detector."""

    images: Path
    """manifest of the run's images"""
    geometry: Path
    """DIALS experiment list (.expt) with the refined detector"""


@dataclass(frozen=True)
class CellsInputs:
    """The lattices of all runs."""

    reindex: list[Path]


@dataclass(frozen=True)
class MergeInputs:
    """The integrated reflections of all runs, and the accepted lattices."""

    reindex: list[Path]
    cells: Path


@dataclass(frozen=True)
class AnnulusInputs:
    """Images and reflections of all runs in the same order, and the accepted lattices. Those of
    `wide` too.
    """

    images: list[Path]
    """manifests of the runs' images"""
    reindex: list[Path]
    cells: Path


@dataclass(frozen=True)
class LadderInputs:
    """The shoeboxes of the annulus, and the accepted lattices."""

    annulus: Path
    cells: Path


@dataclass(frozen=True)
class MosaicInputs:
    """The shoeboxes that mosaic domains are learned from."""

    shoeboxes: Path
    """product of `annulus` or `wide`"""


@dataclass(frozen=True)
class Stage1Inputs:
    """The shoeboxes that lattices are refined against."""

    shoeboxes: Path
    """product of `annulus` or `wide`"""
    mosaic: Path | None = None
    """learned mosaic domains, where `stage1.mosaicity` is `learned`"""


@dataclass(frozen=True)
class PredictInputs:
    """Images and reflections of all runs in the same order, and the refined lattices."""

    images: list[Path]
    """manifests of the runs' images"""
    reindex: list[Path]
    stage1: Path


@dataclass(frozen=True)
class PackInputs:
    """Images and products of reindex of all runs in the same order, and the reflections that were
    chosen.
    """

    images: list[Path]
    """manifests of the runs' images"""
    reindex: list[Path]
    predict: Path


@dataclass(frozen=True)
class Stage2Inputs:
    """The packed pixels, the refined lattices, and the merge to start from and compare with."""

    pack: Path
    stage1: Path
    merge: Path
    mosaic: Path | None = None
    """learned mosaic domains, where `stage1.mosaicity` is `learned`"""


@dataclass(frozen=True)
class CorrelateInputs:
    """The images of a run."""

    images: Path
    """manifest of the run's images"""


@dataclass(frozen=True)
class SpreadInputs:
    """The shoeboxes that curves are refined against, and the refined lattices."""

    shoeboxes: Path
    """product of `wide` or `pack`"""
    stage1: Path
    mosaic: Path | None = None
    """learned mosaic domains, where `stage1.mosaicity` is `learned`"""
