"""merge: one intensity for each unique reflection from the accepted lattices. Writes merge.h5 and
merge.mtz.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import merging, scaling, statistics
from spreadflow.analysis.merging.merging import Fate
from spreadflow.config import MergeConfig, MergeSection
from spreadflow.errors import FileError, LatticeOutcome
from spreadflow.io import mtz, store
from spreadflow.log import Progress, logger
from spreadflow.models import ReflectionFlag
from spreadflow.parallel import World
from spreadflow.physics import symmetry, unit_cell
from spreadflow.units import wavelength

MAX_GROUPS = 128
"""Groups of parts that are added in order, whatever the number of ranks: more ranks than this bring
nothing.
"""

REFLECTION = (
    "lattice",
    "hkl",
    "partiality",
    "lorentz",
    "polarization",
    "capture",
    "intensity",
    "sigma",
    "flags",
)
COLUMNS = (
    "shots/mean_energy_ev",
    *(f"lattices/{name}" for name in ("shot", "shot_id", "k")),
    *(f"reflections/{name}" for name in REFLECTION),
)


class Accepted(NamedTuple):
    """The accepted list of cells.h5."""

    runs: list[str]
    space_group: str
    cell: np.ndarray
    """(6,) mean of the chosen cluster, Å, degrees"""
    outcome: dict[tuple[int, int, int], int]
    """(run, shot_id, k) → LatticeOutcome, of every lattice"""


class Table(NamedTuple):
    """The accepted lattices of this rank's groups and their reflections: columns by name."""

    lattices: dict[str, np.ndarray]
    """group (ascending), run, shot_id, k, energy_ev"""
    reflections: dict[str, np.ndarray]
    """as in the schema; `lattice` is a row of `lattices`"""


def run(
    config: MergeConfig,
    *,
    reindex: list[Path],
    cells: Path,
    out: Path,
    world: World,
    word: str = "merge",
) -> None:
    """Scale, fit the error model, merge, write the product, and say how good it is."""
    section = config.merge
    log = logger(word, world)
    out = Path(out)
    accepted = _accepted(cells)
    unique = merging.Unique(accepted.cell, accepted.space_group, section.d_min)
    parts = _parts(reindex, accepted.runs)
    groups = np.array_split(np.arange(len(parts)), min(len(parts), MAX_GROUPS))
    table = _read(groups, parts, accepted, world, word)
    obs, lattices, counts = _select(table, section, unique, len(groups), world)
    if counts["used"] == 0:
        raise FileError(
            cells, "reflections to merge", f"none: {counts}", "Look at reindex.png and merge.d_min."
        )
    sums = merging.Sums(obs, len(unique), len(groups), world.sum)
    reference = _reference(section, accepted.space_group, unique)
    scales = scaling.scale(
        obs, sums, unique, reference=reference, refine_b=section.refine_b, n_cycles=section.n_cycles
    )
    merged = merging.merge(obs, scales.intensity, scales.sigma, sums, section.min_multiplicity)
    counts["multiplicity"] = counts["used"] - int(merged.n.sum())
    counts["used"] = int(merged.n.sum())
    energy, n_used = sums.over_lattices(
        table.lattices["energy_ev"][lattices["used"]], np.ones(obs.n_lattices)
    )
    lattices = _gathered(
        table.lattices["group"], lattices | _of_lattices(scales, lattices["used"]), world
    )
    attributes = _attributes(section, accepted, scales) | {
        "wavelength_ang": float(wavelength(energy / n_used)),
        "reflections": counts,
        "n_lattices_in": len(lattices["lattices/k"]),
        "inputs": [
            store.identity(p)
            for p in [*reindex, cells, *([section.reference] if section.reference else [])]
        ],
    }
    world.once(lambda: _write(out, unique, merged, lattices, attributes, section.n_bins))
    overall = statistics.overall(merged, unique)
    if attributes["ambiguities"]:
        also = ", ".join(attributes["ambiguities"])
        log.warning(
            "lattices may be indexed as h,k,l or %s, which is not resolved: the merge is as if "
            "twinned",
            also,
        )
    log.info("%s after %d cycles; reflections: %s", scales.error_model, scales.n_cycles, counts)
    log.info(
        "CC1/2 %.4f of %d pairs, Rsplit %.4f",
        overall.cc_half[0],
        overall.n_pairs[0],
        overall.r_split[0],
    )


def _attributes(section: MergeSection, accepted: Accepted, scales: scaling.Scaling) -> dict:
    """Return attributes of the product that are known before anything is counted."""
    return {
        "runs": accepted.runs,
        "space_group": accepted.space_group,
        "cell": accepted.cell.tolist(),
        "d_min": section.d_min,
        "ambiguities": symmetry.ambiguities(unit_cell.radians(accepted.cell), accepted.space_group),
        "scaling": f"mark0 against {section.reference.name}"
        if section.reference
        else "no reference",
        "error_model": scales.error_model._asdict(),
        "n_cycles": scales.n_cycles,
        "last_change": scales.last_change,
        "config": section.model_dump(mode="json"),
    }


def _accepted(path: Path) -> Accepted:
    attributes = store.attributes(path, "cells")
    table = store.read(path, "cells", ["lattices/", "clusters/mean"])
    identity = zip(
        *(table[f"lattices/{name}"].tolist() for name in ("run", "shot_id", "k")), strict=True
    )
    outcome = dict(zip(identity, table["lattices/outcome"].tolist(), strict=True))
    return Accepted(
        attributes["runs"],
        attributes["space_group"],
        table["clusters/mean"][int(attributes["chosen"])],
        outcome,
    )


Part = tuple[int, Path, int, str]
"""(run, product, block, key)."""


def _parts(reindex: list[Path], runs: list[str]) -> list[Part]:
    """Return every part, in order. Raises FileError for a run that cells.h5 does not know."""
    out: list[Part] = []
    for path in reindex:
        name = str(store.attributes(path, "reindex")["run"])
        if name not in runs:
            raise FileError(
                path,
                f"one of the runs of cells.h5 ({', '.join(runs)})",
                name,
                "Rerun cells on all runs.",
            )
        keys = store.part_keys(path, "reindex")
        out += [(runs.index(name), path, block, key) for block, key in enumerate(keys)]
    if not out:
        raise FileError(
            ", ".join(map(str, reindex)), "parts", "none", "Are there shots in these runs?"
        )
    return out


def _read(
    groups: list[np.ndarray], parts: list[Part], accepted: Accepted, world: World, word: str
) -> Table:
    """Return this rank's groups; which groups those are does not matter to the answer."""
    pieces = [_nothing()]
    with Progress(word, len(groups), world, "groups") as progress:
        for group in range(world.rank, len(groups), world.size):
            pieces += [_read_part(group, parts[i], accepted) for i in groups[group].tolist()]
            progress.at(group + 1)
    start = np.cumsum([0, *(len(piece.lattices["k"]) for piece in pieces)])
    for piece, first in zip(pieces, start, strict=False):
        piece.reflections["lattice"] = piece.reflections["lattice"].astype(np.int64) + first
    return Table(_joined([p.lattices for p in pieces]), _joined([p.reflections for p in pieces]))


def _joined(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _nothing() -> Table:
    """Return a table without rows: what a rank without groups holds."""
    lattices = {"group": "i8", "run": "i8", "shot_id": "u8", "k": "i8", "energy_ev": "f8"}
    reflections = {name: np.empty((0, 3) if name == "hkl" else 0) for name in REFLECTION}
    return Table({name: np.empty(0, dtype) for name, dtype in lattices.items()}, reflections)


def _read_part(group: int, which: Part, accepted: Accepted) -> Table:
    """Return the accepted lattices of one part. Raises FileError for a lattice the accepted list
    does not know.
    """
    run, path, block, key = which
    part = store.read_part(path, "reindex", block, key, COLUMNS)
    shot_id = part["lattices/shot_id"]
    k = part["lattices/k"]
    outcome = [
        accepted.outcome.get((run, s, n)) for s, n in zip(shot_id.tolist(), k.tolist(), strict=True)
    ]
    if None in outcome:
        raise FileError(
            path, "lattices that cells.h5 knows", "others", "Rerun cells on these products."
        )
    keep = np.array(outcome, dtype=np.int64) == LatticeOutcome.ACCEPTED
    row = np.cumsum(keep) - 1
    of = part["reflections/lattice"]
    reflections = {name: part[f"reflections/{name}"][keep[of]] for name in REFLECTION}
    reflections["lattice"] = row[of[keep[of]]]
    energy = part["shots/mean_energy_ev"][part["lattices/shot"]]
    same = {name: np.full(keep.sum(), value) for name, value in (("group", group), ("run", run))}
    return Table(
        same | {"shot_id": shot_id[keep], "k": k[keep], "energy_ev": energy[keep]}, reflections
    )


def _select(
    table: Table, section: MergeSection, unique: merging.Unique, n_groups: int, world: World
):
    """Return the observations, the columns of the lattices so far, and how many reflections ended
    in which way.
    """
    flags = table.reflections["flags"].astype(np.int64)
    obs, n, fate = merging.select(
        table.reflections | {"failed": (flags & ReflectionFlag.FAILED) != 0},
        table.lattices["group"],
        merging.half_sets(table.lattices["shot_id"], table.lattices["k"]),
        unique,
        partiality_min=section.partiality_min,
        min_reflections=section.min_reflections,
        n_groups=n_groups,
        add=world.sum,
    )
    counts = world.sum({world.rank: np.bincount(fate, minlength=len(Fate))}, world.size)
    lattices = {
        "run": table.lattices["run"],
        "shot_id": table.lattices["shot_id"],
        "k": table.lattices["k"],
        "n": n,
        "used": n > 0,
    }
    return obs, lattices, {end.name.lower(): int(counts[end]) for end in Fate}


def _reference(
    section: MergeSection, space_group: str, unique: merging.Unique
) -> np.ndarray | None:
    """Return (unique,) reference intensities, NaN where there are none."""
    if section.reference is None:
        return None
    return unique.values(*mtz.read_reference(section.reference, space_group, section.d_min))


def _of_lattices(scales: scaling.Scaling, used: np.ndarray) -> dict[str, np.ndarray]:
    """Scale and B of all lattices, NaN where not used."""
    out = {name: np.full(len(used), np.nan) for name in ("scale", "b")}
    out["scale"][used], out["b"][used] = np.exp(scales.log_g), scales.b
    return out


def _gathered(
    group: np.ndarray, lattices: dict[str, np.ndarray], world: World
) -> dict[str, np.ndarray]:
    """Return the columns of the lattices of all ranks, in order of the groups."""
    own_pieces = {
        int(g): {name: column[group == g] for name, column in lattices.items()}
        for g in np.unique(group)
    }
    pieces = world.gather_blocks(own_pieces)
    return {f"lattices/{name}": np.concatenate([p[name] for p in pieces]) for name in lattices}


def _write(
    out: Path,
    unique: merging.Unique,
    merged: merging.Merged,
    lattices: dict,
    attributes: dict,
    n_bins: int,
) -> None:
    """Write merge.mtz, then merge.h5."""
    measured = merged.n > 0
    table = {"hkl": unique.hkl, "friedel": unique.friedel, **merged._asdict()}
    table = {name: column[measured] for name, column in table.items()}
    mtz.write_merged(
        out.with_suffix(".mtz"),
        mtz.MergedTable(**{name: table[name] for name in mtz.MergedTable._fields}),
        cell=np.array(attributes["cell"]),
        space_group=attributes["space_group"],
        wavelength=attributes["wavelength_ang"],
        history=f"spreadflow merge, scaling: {attributes['scaling']}",
    )
    bins = statistics.in_bins(merged, unique, n_bins)._asdict()
    columns = {f"bins/{name}": column for name, column in bins.items()} | lattices
    columns |= {f"merged/{name}": column for name, column in table.items()}
    b, sigma = statistics.wilson_b(merged, unique)
    key = store.digest(attributes["config"], attributes["inputs"])
    store.write(out, "merge", columns, key=key, wilson_b=b, wilson_b_sigma=sigma, **attributes)
