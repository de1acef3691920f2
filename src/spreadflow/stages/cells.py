"""cells: which lattices belong to the crystal form of interest. Writes cells.h5 (the accepted list)
and cells.tdata.
"""

from logging import Logger
from pathlib import Path

import numpy as np

from spreadflow.analysis.merging import cells
from spreadflow.config import CellsConfig, CellsSection
from spreadflow.errors import ConfigError, FileError, LatticeOutcome
from spreadflow.io import store, tdata
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.physics import unit_cell

LATTICES = ("lattices/shot_id", "lattices/k", "lattices/cell")


def run(
    config: CellsConfig, *, reindex: list[Path], out: Path, world: World, word: str = "cells"
) -> None:
    """Cluster the cells of all runs' lattices (or take frozen clusters) and filter. One rank
    works.
    """
    section = config.cells
    log = logger(word, world)
    world.once(lambda: _run(section, reindex, Path(out), log))


def _run(config: CellsSection, reindex: list[Path], out: Path, log: Logger) -> None:
    runs, space_group, table = _lattices(reindex)
    names = cells.independent(config.features, space_group)
    if config.from_file:
        names, clusters, chosen = _frozen(config.from_file, space_group)
        labels = cells.nearest(
            cells.distances(table["cell"], names, clusters), config.mahalanobis_max
        )
    else:
        clusters, labels = _found(config, names, runs, table)
        chosen = 0
    distance = cells.distances(table["cell"], names, clusters)[:, chosen]
    outcome = cells.outcomes(labels, distance, chosen, config.mahalanobis_max)
    columns = {f"lattices/{name}": column for name, column in table.items()}
    columns |= {
        "lattices/cluster": labels,
        "lattices/mahalanobis": distance,
        "lattices/outcome": outcome,
    }
    columns |= {f"clusters/{name}": column for name, column in clusters._asdict().items()}
    sources = [config.from_file] if config.from_file else []
    key = store.digest(
        config.model_dump(mode="json"), [store.identity(path) for path in [*reindex, *sources]]
    )
    tdata.write(out.with_suffix(".tdata"), table["cell"], space_group)
    told = {"space_group": space_group, "runs": runs, "features": names, "chosen": chosen}
    store.write(
        out, "cells", columns, key=key, config=config.model_dump(mode="json", by_alias=True), **told
    )
    counts = ", ".join(f"{(outcome == end).sum()} {end.name.lower()}" for end in LatticeOutcome)
    log.info("%d lattices, %d clusters: %s", len(outcome), len(clusters.n), counts)


def _lattices(reindex: list[Path]) -> tuple[list[str], str, dict[str, np.ndarray]]:
    """Return runs, the space group all share, and run, shot_id, k, cell (Å, degrees) of every
    lattice.
    """
    told = [store.attributes(path, "reindex") for path in reindex]
    groups = {str(a["config"]["space_group"]) for a in told}
    if len(groups) != 1:
        raise FileError(
            "cells", "one space group in all runs", sorted(groups), "Reindex the runs alike."
        )
    tables = [store.read(path, "reindex", LATTICES) for path in reindex]
    joined = {name.split("/")[1]: np.concatenate([t[name] for t in tables]) for name in LATTICES}
    joined["run"] = np.repeat(np.arange(len(tables)), [len(t[LATTICES[0]]) for t in tables])
    joined["cell"] = unit_cell.degrees(joined["cell"])
    if not len(joined["run"]):
        todo = (
            "Look at index.png and reindex.png: is the target cell right, is there a crystal "
            "in "
            "the beam?"
        )
        raise FileError(", ".join(map(str, reindex)), "lattices", "none in any run", todo)
    return [str(a["run"]) for a in told], groups.pop(), joined


def _found(
    config: CellsSection, names: list[str], runs: list[str], table: dict
) -> tuple[cells.Clusters, np.ndarray]:
    """Return clusters of the lattices of the chosen runs, and the label of every lattice."""
    chosen = [r for r, name in enumerate(runs) if config.runs is None or name in config.runs]
    mine = np.isin(table["run"], chosen)
    if not names:
        raise ConfigError(
            "cells.features",
            "a feature the space group leaves free",
            config.features,
            "Add a length.",
        )
    found = cells.dbscan(
        cells.features(table["cell"][mine], names), config.eps_ang, config.min_samples
    )
    clusters = cells.describe(table["cell"][mine], names, found, config.mahalanobis_max)
    if not len(clusters.n):
        raise FileError(
            f"cells of {mine.sum()} lattices",
            f"a cluster: {config.min_samples} lattices within eps_ang = {config.eps_ang} of one of "
            "them",
            "noise only",
            "Raise cells.eps_ang, lower cells.min_samples, or take a frozen cells.h5 with "
            "cells.from.",
        )
    labels = cells.nearest(cells.distances(table["cell"], names, clusters), config.mahalanobis_max)
    labels[mine] = found
    return clusters, labels


def _frozen(path: Path, space_group: str) -> tuple[list[str], cells.Clusters, int]:
    """Return features, clusters and the chosen one of an earlier cells.h5."""
    told = store.attributes(path, "cells")
    columns = store.read(path, "cells", ["clusters/"])
    if told["space_group"] != space_group:
        todo = "Freeze cells of the same space group, or cluster anew (cells.from: null)."
        raise FileError(
            f"cells.from {path}", f"space group {space_group}", told["space_group"], todo
        )
    return (
        told["features"],
        cells.Clusters(*(columns[f"clusters/{f}"] for f in cells.Clusters._fields)),
        told["chosen"],
    )
