"""cells: which lattices belong to the crystal form of interest, and on which axes they share it.
Writes cells.h5 (the accepted list) and cells.tdata.
"""

from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import cells, settings
from spreadflow.analysis.merging.metric_symmetry import CommonStrain
from spreadflow.analysis.merging.settings import Settings
from spreadflow.config import CellsConfig, CellsSection
from spreadflow.errors import ConfigError, FileError, LatticeOutcome, StageWarning
from spreadflow.io import frozen_cells, store, tdata
from spreadflow.io.frozen_cells import FrozenCells
from spreadflow.io.rows import refuse_doubles
from spreadflow.log import logger, warn
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Cells, Reindex
from spreadflow.products.cells import Lattices
from spreadflow.recipes import cell_checks
from spreadflow.recipes.cell_checks import LatticeSpots

MAX_OTHER_SHARE = 0.05
"""Share of the lattices in other populations above which it is told."""

LEAST_ACCEPTED = 0.5
"""Share of the lattices that are accepted below which it is told."""


def run(
    config: CellsConfig, *, reindex: list[Path], out: Path, world: World, word: str = "cells"
) -> None:
    """Cluster the cells of all runs' lattices (or take frozen clusters) and filter. One rank
    works.
    """
    section = config.cells
    log = logger(word, world)
    world.once(lambda: world.count("lattices", _run(section, reindex, Path(out), log)))


class Density(NamedTuple):
    """What makes a cluster."""

    eps_ang: float | None
    """radius of DBSCAN, Å; None = clusters are those of a frozen file"""
    min_samples: int | None
    """lattices within it"""


class Populations(NamedTuple):
    """The populations of cells, and which of them is accepted."""

    features: list[str]
    clusters: cells.Clusters
    density: Density
    chosen: int
    """number of the cluster whose lattices are accepted"""
    labels: np.ndarray
    """(lattice,) number of its cluster; −1 = none"""


def _run(config: CellsSection, reindex: list[Path], out: Path, log: Logger) -> int:
    """Cluster, filter and write, on one rank. Returns the number of lattices."""
    runs, space_group, lattices = _lattices(reindex)
    populations, brought = _populations(config, runs, space_group, lattices)
    clusters = populations.clusters
    mean = clusters.mean[populations.chosen]
    _filter(config, populations, lattices)

    tdata.write(out.with_suffix(".tdata"), lattices.cell, space_group)
    strain, of_spots = _ask_spots(reindex, lattices, mean, space_group)
    target = store.attributes(reindex[0], Reindex)["config"]["cell"]
    warnings = [
        *_setting_warnings(brought, space_group),
        *cell_checks.target_warnings(mean.tolist(), target, "reindex.cell"),
        *_population_warnings(clusters, lattices.outcome),
        *of_spots,
    ]
    sources = [*reindex, config.from_file] if config.from_file else reindex
    identities = [store.identity(path) for path in sources]
    store.write(
        out,
        Cells(lattices=lattices, clusters=Cells.clusters(**clusters._asdict())),
        key=store.digest(config.model_dump(mode="json"), identities),
        config=config.model_dump(mode="json", by_alias=True),
        space_group=space_group,
        runs=runs,
        features=populations.features,
        chosen=populations.chosen,
        **populations.density._asdict(),
        forbidden_strain=None if strain is None else strain._asdict() | {"size": strain.size},
        warnings=warn(log, warnings),
        length_sigma=_length_sigma(reindex),
    )
    _log(log, config, populations, lattices.outcome)
    return len(lattices)


def _log(log: Logger, config: CellsSection, populations: Populations, outcome: np.ndarray) -> None:
    """Log what made a cluster, and how lattices (n,) ended."""
    eps_ang, min_samples = populations.density
    if eps_ang is not None:
        source = "suggested" if config.eps_ang is None else "set"
        log.info("a cluster is %d lattices within %.3g Å (%s)", min_samples, eps_ang, source)
    counts = [f"{(outcome == end).sum()} {end.name.lower()}" for end in LatticeOutcome]
    n_clusters = len(populations.clusters.n)
    log.info("%d lattices, %d clusters: %s", len(outcome), n_clusters, ", ".join(counts))


def _populations(
    config: CellsSection, runs: list[str], space_group: str, lattices: Lattices
) -> tuple[Populations, Settings]:
    """Bring all lattices to one setting (`_in_common_setting`), and return their populations, found
    or frozen, and what was done.
    """
    if config.from_file is None:
        brought = _in_common_setting(lattices, space_group, None)
        features = cells.independent(config.features, space_group)
        clusters, labels, density = _clustered(config, features, runs, lattices)
        chosen = _chosen(config, clusters, 0)
    else:
        features, clusters, frozen = _frozen(config.from_file, space_group)
        density = Density(None, None)
        chosen = _chosen(config, clusters, frozen)
        brought = _in_common_setting(lattices, space_group, clusters.mean[chosen])
        distances = cells.distances(lattices.cell, features, clusters)
        labels = cells.nearest(distances, config.mahalanobis_max)
    return Populations(features, clusters, density, chosen, labels), brought


def _filter(config: CellsSection, populations: Populations, lattices: Lattices) -> None:
    """Add the columns that say how lattices stand to the populations."""
    features, clusters, _, chosen, labels = populations
    distance = cells.distances(lattices.cell, features, clusters)[:, chosen]
    lattices.cluster = labels
    lattices.mahalanobis = distance
    lattices.outcome = cells.outcomes(labels, distance, chosen, config.mahalanobis_max)


def _chosen(config: CellsSection, clusters: cells.Clusters, otherwise: int) -> int:
    """Return the number of the cluster whose lattices are accepted. Raises ConfigError where there
    is none of the number asked for.
    """
    if config.cluster is None:
        return otherwise
    if config.cluster >= len(clusters.n):
        expected = f"a cluster, of which there are {len(clusters.n)}, from 0 on"
        todo = "See cells.png of a run with cells.cluster: null."
        raise ConfigError("cells.cluster", expected, config.cluster, todo)
    return config.cluster


def _ask_spots(
    reindex: list[Path], lattices: Lattices, mean: np.ndarray, space_group: str
) -> tuple[CommonStrain | None, list[StageWarning]]:
    """Return the strain that the space group forbids and accepted lattices have in common, and what
    spots say against cell and symmetry.

    lattices: of all runs; mean: (6,) cell of the chosen cluster, Å, degrees.
    """
    accepted = np.flatnonzero(lattices.outcome == LatticeOutcome.ACCEPTED)
    most = cell_checks.MOST_LATTICES
    asked = accepted[cells.thinned(len(accepted), most, cell_checks.LATTICES_TOGETHER)]
    spots = []
    for number, path in enumerate(reindex):
        is_of_run = lattices.run == number
        of_run = asked[is_of_run[asked]]
        rows = of_run - np.argmax(is_of_run)
        if len(rows):
            spots += _spots_of(path, rows, lattices.setting[of_run])
    radians = np.array([unit_cell.radians(cell) for cell in lattices.cell[accepted]])
    strain = cell_checks.forbidden_strain(spots, radians, space_group)
    warnings = cell_checks.strain_warnings(strain, unit_cell.radians(mean), space_group)
    return strain, warnings + cell_checks.translation_warnings(spots, space_group)


def _spots_of(reindex: Path, rows: np.ndarray, setting: np.ndarray) -> list[LatticeSpots]:
    """Return some lattices of a run with their spots. Parts without any of them stay unread.

    rows: of the lattices, ascending; setting: (row, 3, 3).
    """
    detector = Detector.from_json(store.attributes(reindex, Reindex)["detector"])
    spots = []
    for part in store.parts_of(reindex, Reindex):
        of_part = part.rows("lattices")
        own = slice(*np.searchsorted(rows, [of_part.start, of_part.stop]))
        if len(rows[own]):
            in_part = rows[own] - of_part.start
            columns = part.read(cell_checks.COLUMNS)
            spots += cell_checks.spots_of(columns, in_part, setting[own], detector)
    return spots


def _population_warnings(clusters: cells.Clusters, outcome: np.ndarray) -> list[StageWarning]:
    """Return what to know of the lattices that are not accepted. outcome: (lattice,)."""
    shares = {end: float((outcome == end).mean()) for end in LatticeOutcome}
    warnings = []
    if shares[LatticeOutcome.OTHER_CLUSTER] > MAX_OTHER_SHARE:
        listed = "; ".join(
            f"{number}: {n} of {' '.join(f'{value:.2f}' for value in mean)}"
            for number, (n, mean) in enumerate(zip(clusters.n, clusters.mean, strict=True))
        )
        warnings.append(
            StageWarning(
                f"there are other populations of cells ({listed} Å, degrees); share of the "
                "lattices in them",
                shares[LatticeOutcome.OTHER_CLUSTER],
                f"at most {MAX_OTHER_SHARE:g}",
                "They are not merged. Set cells.cluster to accept another population, and look "
                "whether there are two crystal forms.",
            )
        )
    if shares[LatticeOutcome.ACCEPTED] < LEAST_ACCEPTED:
        warnings.append(
            StageWarning(
                "share of the lattices that are accepted",
                shares[LatticeOutcome.ACCEPTED],
                f"at least {LEAST_ACCEPTED:g}",
                "Look at cells.png: are there false lattices? cells.eps_ang sets the radius within "
                "which cells make a cluster.",
            )
        )
    return warnings


def _lattices(reindex: list[Path]) -> tuple[list[str], str, Lattices]:
    """Return the runs, the space group that all share, and run, shot_id, k, cell (Å, degrees) of
    every lattice. Raises FileError where space groups differ or there is no lattice.
    """
    attributes = [store.attributes(path, Reindex) for path in reindex]
    groups = {str(of_run["config"]["space_group"]) for of_run in attributes}
    if len(groups) != 1:
        todo = "Reindex the runs alike."
        raise FileError("cells", "one space group in all runs", sorted(groups), todo)
    wanted = [Reindex.lattices.shot_id, Reindex.lattices.k, Reindex.lattices.cell]
    of_runs = [store.read(path, Reindex, wanted) for path in reindex]
    joined = Reindex.joined(of_runs).lattices
    refuse_doubles(", ".join(map(str, reindex)), joined.shot_id, joined.k)
    if not len(joined):
        todo = (
            "Look at index.png and reindex.png: is the target cell right, is there a crystal in "
            "the beam?"
        )
        raise FileError(", ".join(map(str, reindex)), "lattices", "none in any run", todo)
    runs = [str(of_run["run"]) for of_run in attributes]
    n_of_runs = [len(of_run.lattices) for of_run in of_runs]
    lattices = Cells.lattices(
        run=np.repeat(np.arange(len(of_runs)), n_of_runs),
        shot_id=joined.shot_id,
        k=joined.k,
        cell=unit_cell.degrees(joined.cell),
    )
    return runs, groups.pop(), lattices


def _in_common_setting(
    lattices: Lattices, space_group: str, reference: np.ndarray | None
) -> Settings:
    """Bring the column `cell` of all lattices to one setting, that of a reference (6,) (Å, degrees)
    if there is one, and add the column `setting`. Returns what was done.
    """
    radians = np.array([unit_cell.radians(cell) for cell in lattices.cell])
    wanted = None if reference is None else unit_cell.radians(reference)
    brought = settings.common(radians, space_group, wanted)
    for row in np.flatnonzero(brought.is_changed):
        cell = settings.in_setting(radians[row], brought.changes[row])
        lattices.cell[row] = unit_cell.degrees(cell)
    lattices.setting = np.swapaxes(brought.changes, 1, 2)
    return brought


def _setting_warnings(brought: Settings, space_group: str) -> list[StageWarning]:
    """Return what to know of the axes of the lattices."""
    warnings = []
    n_changed = int(brought.is_changed.sum())
    if n_changed:
        warnings.append(
            StageWarning(
                "lattices that had the cell in another setting than most, and were brought to it",
                float(n_changed),
                0.0,
                "Set reindex.cell to the mean cell, and look whether two cells are mixed.",
            )
        )
    if brought.is_ambiguous:
        warnings.append(
            StageWarning(
                f"the cell is the same on other axes than those of {space_group}, within the "
                "scatter of the lattices; relative difference",
                brought.separation,
                settings.SEPARATION * brought.scatter,
                "The lattice may have a higher symmetry; if it has not, its lattices may be "
                "indexed in two ways.",
            )
        )
    return warnings


def _length_sigma(reindex: list[Path]) -> float | None:
    """Return the largest of the runs' relative standard deviations that the detector's distance
    gives all lengths; None where none is known.
    """
    sigmas = [store.attributes(path, Reindex).get("length_sigma") for path in reindex]
    return max((float(sigma) for sigma in sigmas if sigma is not None), default=None)


def _clustered(
    config: CellsSection, names: list[str], runs: list[str], lattices: Lattices
) -> tuple[cells.Clusters, np.ndarray, Density]:
    """Return clusters of the lattices of the chosen runs, the label of every lattice, and what made
    a cluster.

    names: features that are clustered; lattices: of all runs. Raises ConfigError where no feature
    is free, FileError where there is no cluster.
    """
    if not names:
        expected = "a feature the space group leaves free"
        raise ConfigError("cells.features", expected, config.features, "Add a length.")
    chosen_runs = [
        number for number, name in enumerate(runs) if config.runs is None or name in config.runs
    ]
    rows = np.flatnonzero(np.isin(lattices.run, chosen_runs))
    rows = rows[cells.thinned(len(rows), cells.MOST_CLUSTERED)]
    chosen_cells = lattices.cell[rows]
    lengths = cells.in_angstrom(chosen_cells, names)
    min_samples = config.min_samples or cells.least_members(len(rows))
    if len(rows) < min_samples:
        expected = f"at least cells.min_samples = {min_samples} lattices"
        todo = "Lower cells.min_samples, or take a frozen cells.h5 with cells.from."
        raise FileError("cells", expected, len(rows), todo)
    eps = config.eps_ang or cells.suggested_eps(lengths, min_samples)
    splinters = cells.dbscan(lengths, eps, min_samples)
    chosen_labels = cells.joined(lengths, splinters, config.mahalanobis_max)
    clusters = cells.describe(chosen_cells, names, chosen_labels, config.mahalanobis_max)
    if not len(clusters.n):
        expected = f"a cluster: {min_samples} lattices within {eps:.4g} Å of one of them"
        todo = (
            "Raise cells.eps_ang, lower cells.min_samples, or take a frozen cells.h5 with "
            "cells.from."
        )
        raise FileError(f"cells of {len(rows)} lattices", expected, "noise only", todo)
    distances = cells.distances(lattices.cell, names, clusters)
    labels = cells.nearest(distances, config.mahalanobis_max)
    labels[rows] = chosen_labels
    return clusters, labels, Density(eps, min_samples)


def _frozen(path: Path, space_group: str) -> tuple[list[str], cells.Clusters, int]:
    """Return features, clusters and the chosen cluster of a file of populations. Raises FileError
    where its space group is another.
    """
    frozen = frozen_cells.read(path)
    if frozen.space_group not in (None, space_group):
        todo = "Freeze cells of the same space group, or cluster anew (cells.from: null)."
        expected = f"space group {space_group}"
        raise FileError(f"cells.from {path}", expected, frozen.space_group, todo)
    mean = _completed(path, frozen, space_group) if frozen.mean is None else frozen.mean
    clusters = cells.Clusters(frozen.n, mean, frozen.location, frozen.covariance)
    return frozen.features, clusters, frozen.chosen


def _completed(path: Path, frozen: FrozenCells, space_group: str) -> np.ndarray:
    """Return the cells (cluster, 6) of a file that has their features alone. Raises FileError."""
    locations = frozen.location
    try:
        return np.array([cells.completed(frozen.features, x, space_group) for x in locations])
    except ValueError as error:
        expected = f"features that make a cell of {space_group}"
        todo = "Is reindex.space_group that of the lattices it was made from?"
        raise FileError(f"cells.from {path}", expected, error, todo) from None
