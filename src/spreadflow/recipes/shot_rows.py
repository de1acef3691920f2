"""What came of a shot as rows of a product of `index`, and its spots as these have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from spreadflow.analysis.still.evidence import Evidence
from spreadflow.models import Lattice, Spots
from spreadflow.products import Index
from spreadflow.products.index import Lattices
from spreadflow.products.index import Spots as SpotRows
from spreadflow.recipes.shot import Result


def tables_of(result: Result, identity: dict[str, Any], product: type[Index]) -> Index:
    """Return the rows of one shot in every table of a product.

    identity: those columns of its row of `shots` that were known before it was read.
    """
    shot = identity | {
        "outcome": result.outcome,
        "reason": result.reason.encode(errors="backslashreplace"),
        "mean_energy_ev": result.mean_energy_ev,
        "pulse_photons": result.pulse_photons,
        "n_spots": 0 if result.spots is None else len(result.spots.fast),
        "n_lattices": len(result.lattices),
        "n_refused": result.n_refused,
        "psf_fwhm_mm": result.psf_fwhm_mm,
    }
    tables = product(shots=product.shots.from_rows([shot]))
    if result.spots is not None:
        tables.spots = _spot_rows(result.spots, result.lattices)
    if result.reflections is not None:
        tables.lattices = _lattice_rows(result, identity["shot_id"])
        tables.reflections = product.reflections(
            lattice=result.reflection_lattice, **result.reflections._asdict()
        )
    return tables


def peaks(spots: SpotRows) -> Spots:
    """Return rows of `spots` as the analysis takes them."""
    columns = spots.as_dict()
    return Spots(**{name: columns[name] for name in Spots._fields})


def _spot_rows(all_spots: Spots, lattices: Sequence[Lattice]) -> SpotRows:
    """Return the rows of `spots`: each with the lattice that it belongs to, or -1."""
    n_spots = len(all_spots.fast)
    lattice_of = np.full(n_spots, -1)
    hkl = np.zeros((n_spots, 3), dtype=np.int32)
    used = np.zeros(n_spots, dtype=bool)
    for k, lattice in enumerate(lattices):
        is_own = lattice.hkl.any(axis=1)
        lattice_of[is_own] = k
        hkl[is_own] = lattice.hkl[is_own]
        used[is_own] = lattice.used[is_own]
    return SpotRows(
        shot=np.zeros(n_spots, int),
        lattice=lattice_of,
        hkl=hkl,
        used=used,
        **all_spots._asdict(),
    )


def _lattice_rows(result: Result, shot_id: int) -> Lattices:
    """Return the rows of `lattices`."""
    lattices = result.lattices
    n = len(lattices)
    names = [name for name in Lattice._fields if name not in ("hkl", "used")]
    n_indexed = [lattice.hkl.any(axis=1).sum() for lattice in lattices]
    evidences = zip(*result.evidences, strict=True)
    return Lattices(
        **{name: np.array([getattr(lattice, name) for lattice in lattices]) for name in names},
        **dict(zip(Evidence._fields, map(np.array, evidences), strict=True)),
        shot=np.zeros(n, int),
        k=np.arange(n),
        shot_id=np.full(n, shot_id),
        n_indexed=np.array(n_indexed),
    )
