"""The lattices of our own products, to be written for other programs.

Parts are read one after the other: the reflections of all lattices are never in memory together.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError, PredictedOutcome, RefinedOutcome, SpreadOutcome
from spreadflow.io import store
from spreadflow.io.images import read_manifest
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedReflections
from spreadflow.models import CHOSEN, Detector, ReflectionFlag
from spreadflow.physics import geometry, symmetry
from spreadflow.products import Children, Index, Predict, Product, Reindex, Stage1, Stage2
from spreadflow.products.core import Wanted
from spreadflow.products.index import Reflections, Spots
from spreadflow.units import wavelength

LARGEST_INDEX = 2**20
"""Miller indices are smaller, either sign: three of them make one number."""


class _Run(NamedTuple):
    """Where the shots of a run come from."""

    path: Path
    """product of index or reindex"""
    images: list[Path]
    """the file of each number"""
    polarization: float
    detector: Detector
    material: str
    """of its sensor"""
    hall: str
    shots: Index
    """table shots: identity, file, frame, energy"""
    rows: dict[int, int]
    """shot_id → row of it"""


class _Own(NamedTuple):
    """What a product says of one of its lattices."""

    A: np.ndarray
    reflections: IndexedReflections
    distance_mm: float = 0.0
    """by which the detector is farther away than that of its run"""


class ProductLattices:
    """The lattices of a product, in its order: all of index and reindex, those that stage 1
    refined, those that predict predicted, and of these the ones that stage 2 used. Each iteration
    reads the product anew.
    """

    def __init__(
        self, product: Path | str, *, reindex: Sequence[Path] = (), images: Sequence[Path] = ()
    ):
        """Open a product; that of stage 2 has its lattices and reflections in predict.h5 beside it.

        reindex: the product of reindex of each of its runs, where these do not lie in their folders
        beside it. images: manifests of the runs, where they are no longer where they were. Raises
        FileError.
        """
        path = Path(product)
        kind = store.kind(path)
        self._used = None
        if kind == Stage2.kind:
            self._used = _used(path)
            path = path.with_name("predict.h5")
            kind = store.kind(path)
        if kind not in KINDS:
            expected = f"a product of {', '.join([*KINDS, Stage2.kind])}"
            raise FileError(path, expected, kind, "Export one of these.")
        self.path = path
        self._kind = KINDS[kind]
        attributes = store.attributes(path, self._kind.product)
        of_runs = [path]
        if kind not in (Index.kind, Reindex.kind):
            beside = [path.parent / run / "reindex.h5" for run in attributes["runs"]]
            of_runs = list(reindex) or beside
        manifests: list[Path | None] = [*images] or [None for _ in of_runs]
        if len(manifests) != len(of_runs):
            expected = f"a manifest for each of {len(of_runs)} runs"
            raise FileError("images", expected, len(manifests), "Name one for each, in order.")
        self._runs = [_run(*paths) for paths in zip(of_runs, manifests, strict=True)]
        self._unknowns = attributes.get("unknowns", [])

    def __iter__(self) -> Iterator[IndexedLattice]:
        """Yield the lattices."""
        for part in store.parts_of(self.path, self._kind.product):
            content = part.read(self._kind.wanted)
            columns = content.tables["lattices"].as_dict()
            numbers = columns.get("run", np.zeros(len(columns["k"]), int))
            for row, own in self._kind.read(content, self._unknowns):
                identity = (int(columns["shot_id"][row]), int(columns["k"][row]))
                if self._used is None or identity in self._used:
                    yield _lattice(self._runs[numbers[row]], *identity, own)


def _used(path: Path) -> set[tuple[int, int]]:
    """Return shot_id and k of the lattices that stage 2 used."""
    columns = Stage2.lattices
    lattices = store.read(path, Stage2, [columns.shot_id, columns.k, columns.outcome]).lattices
    own = lattices[lattices.outcome == SpreadOutcome.USED]
    return set(zip(own.shot_id.tolist(), own.k.tolist(), strict=True))


def _run(path: Path, manifest: Path | None) -> _Run:
    """Return the run that a product of index or reindex is of. Raises FileError."""
    product = Index if store.kind(path) == Index.kind else Reindex
    attributes = store.attributes(path, product)
    if manifest is None and "manifest" not in attributes:
        todo = "Name their manifest by --images, or export to crystfel."
        raise FileError(path, "a product that was made from images", "one of a run without", todo)
    where = Path(attributes["manifest"]) if manifest is None else manifest
    described = read_manifest(where)
    columns = product.shots
    wanted = [columns.shot_id, columns.file, columns.frame, columns.mean_energy_ev]
    shots = store.read(path, product, wanted)
    n_files = int(shots.shots.file.max(initial=-1)) + 1
    if described.run != attributes["run"] or len(described.files) < n_files:
        expected = f"the manifest of run '{attributes['run']}', of {n_files} files or more"
        found = f"run '{described.run}', {len(described.files)} files"
        raise FileError(where, expected, found, "Name its manifest by --images.")
    return _Run(
        path=path,
        images=[(where.parent / file.path).resolve() for file in described.files],
        polarization=described.polarization,
        detector=Detector.from_json(attributes["detector"]),
        material=described.material,
        hall=symmetry.group(attributes["config"]["space_group"]).hall,
        shots=shots,
        rows={int(shot_id): row for row, shot_id in enumerate(shots.shots.shot_id)},
    )


def _lattice(run: _Run, shot_id: int, k: int, own: _Own) -> IndexedLattice:
    """Return a lattice of a shot."""
    shots = run.shots.shots
    row = run.rows.get(shot_id, -1)
    if row < 0:
        todo = "Export products of one trial."
        raise FileError(run.path, f"shot {shot_id:016x} of the product", "no such shot", todo)
    detector = run.detector
    if own.distance_mm:
        detector = geometry.shifted(detector, 0.0, 0.0, own.distance_mm)
    return IndexedLattice(
        identifier=f"{shot_id:016x}-{k}",
        image=run.images[shots.file[row]],
        frame=int(shots.frame[row]),
        A=own.A,
        hall=run.hall,
        wavelength=float(wavelength(shots.mean_energy_ev[row])),
        detector=detector,
        reflections=own.reflections,
        polarization=run.polarization,
        material=run.material,
    )


def _of_index(product: Index, unknowns: Sequence[str]) -> Iterator[tuple[int, _Own]]:
    """Yield the row of each lattice, and what index and reindex say of it: the reflections that
    were integrated without failure, observed where a spot has their Miller index.
    """
    reflections = product.reflections
    children = Children(reflections.lattice)
    spots_of = Children(product.spots.lattice)
    for row, A in enumerate(product.lattices.A):
        numbers = children[row]
        own = reflections[numbers[reflections.flags[numbers] & ReflectionFlag.FAILED == 0]]
        spots = _spots_at(own.hkl, product.spots[spots_of[row]])
        yield row, _Own(A, _integrated(own, *spots))


def _of_predict(product: Predict, unknowns: Sequence[str]) -> Iterator[tuple[int, _Own]]:
    """Yield the row of each lattice that predict predicted, and the reflections that it chose."""
    reflections = product.reflections
    children = Children(reflections.lattice)
    for row in np.flatnonzero(product.lattices.outcome == PredictedOutcome.PREDICTED).tolist():
        numbers = children[row]
        own = reflections[numbers[np.isin(reflections.choice[numbers], CHOSEN)]]
        observed = np.stack([own.fast_spot, own.slow_spot], axis=1)
        yield row, _Own(product.lattices.A[row], _integrated(own, observed, None))


def _of_stage1(product: Stage1, unknowns: Sequence[str]) -> Iterator[tuple[int, _Own]]:
    """Yield the row of each lattice that stage 1 refined, and the reflections that its model has
    photons of.
    """
    reflections = product.reflections
    children = Children(reflections.lattice)
    lattices = product.lattices
    for row in np.flatnonzero(lattices.outcome == RefinedOutcome.REFINED).tolist():
        numbers = children[row]
        own = reflections[numbers[np.isfinite(reflections.fast[numbers])]]
        columns = IndexedReflections(
            hkl=own.hkl,
            panel=own.panel,
            fast_obs=own.fast_obs,
            slow_obs=own.slow_obs,
            fast=own.fast,
            slow=own.slow,
            d=own.d,
            delta_psi_rad=own.delta_psi_rad,
        )
        distance_mm = 0.0
        if "distance" in unknowns:
            distance_mm = float(np.nan_to_num(lattices.values[row, unknowns.index("distance")]))
        yield row, _Own(lattices.A[row], columns, distance_mm)


def _spots_at(hkl: np.ndarray, spots: Spots) -> tuple[np.ndarray, np.ndarray]:
    """Return the observed centroids (n, 2), px, of Miller indices (n, 3), and their variances, px²;
    NaN where no spot has the index.
    """
    centroids = np.full((2, len(hkl), 2), np.nan)
    _, rows, of_spots = np.intersect1d(_as_number(hkl), _as_number(spots.hkl), return_indices=True)
    centroids[0, rows] = np.stack([spots.fast, spots.slow], axis=1)[of_spots]
    centroids[1, rows] = np.stack([spots.variance_fast, spots.variance_slow], axis=1)[of_spots]
    return centroids[0], centroids[1]


def _as_number(hkl: np.ndarray) -> np.ndarray:
    """Return a number (n,) for each Miller index (n, 3), another for another."""
    digits = hkl.astype(np.int64) + LARGEST_INDEX
    return (digits[:, 0] * 2 * LARGEST_INDEX + digits[:, 1]) * 2 * LARGEST_INDEX + digits[:, 2]


def _integrated(
    own: Reflections, observed: np.ndarray, variance: np.ndarray | None
) -> IndexedReflections:
    """Return integrated reflections, of index, reindex or predict. observed: (n, 2) px, NaN = none;
    variance: of it, px².
    """
    return IndexedReflections(
        hkl=own.hkl,
        panel=own.panel,
        fast_obs=observed[:, 0],
        slow_obs=observed[:, 1],
        variance_obs=variance,
        fast=own.fast,
        slow=own.slow,
        intensity=own.intensity,
        sigma=own.sigma,
        background=own.background,
        d=own.d,
        delta_psi_rad=own.delta_psi_rad,
        bbox=own.bbox,
    )


class _Kind(NamedTuple):
    """How a kind of product is read."""

    product: type[Product]
    wanted: Wanted
    read: Callable[..., Iterator[tuple[int, _Own]]]


def _columns_of(product: type[Index] | type[Predict]) -> list:
    """Return the columns of the reflections that are written of integrated ones."""
    described = product.reflections
    return [
        described.lattice,
        described.hkl,
        described.panel,
        described.fast,
        described.slow,
        described.intensity,
        described.sigma,
        described.background,
        described.d,
        described.delta_psi_rad,
        described.bbox,
    ]


def _kind_of_index(product: type[Index]) -> _Kind:
    """Return how index and reindex are read."""
    lattices = product.lattices
    identity = [lattices.shot_id, lattices.k, lattices.A]
    reflections = [*_columns_of(product), product.reflections.flags]
    return _Kind(product, [*identity, *reflections, product.spots], _of_index)


KINDS = {
    Index.kind: _kind_of_index(Index),
    Reindex.kind: _kind_of_index(Reindex),
    Stage1.kind: _Kind(Stage1, [Stage1.lattices, Stage1.reflections], _of_stage1),
    Predict.kind: _Kind(
        Predict,
        [
            Predict.lattices,
            *_columns_of(Predict),
            Predict.reflections.choice,
            Predict.reflections.fast_spot,
            Predict.reflections.slow_spot,
        ],
        _of_predict,
    ),
}
"""Kind of a product that has lattices → how it is read."""
