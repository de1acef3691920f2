"""level0: where the detector is, from all lattices of `index`. Writes level0.expt, and level0.fit.json beside it.

Two passes. In each, every lattice's spots are indexed anew, the detector is refined twice: with all of them, and
without those that a robust cut on the pooled residuals rejects. Blocks are the parts of `index`.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis import geometry_fit, prediction, refinement
from spreadflow.analysis.geometry_fit import Member
from spreadflow.analysis.refinement import Pulse
from spreadflow.config import Level0Section, StageConfig
from spreadflow.errors import FileError
from spreadflow.io import dials, store
from spreadflow.io.images import Source
from spreadflow.log import Progress, logger
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.parallel import World
from spreadflow.physics import geometry
from spreadflow.units import wavelength

PASSES = 2
POOLED = 20_000
"""residuals the robust cut is estimated from"""
TOLERANCE_PX = 3.0
NAMES = ("shots/shot_id", "spots/", "lattices/")


class Found(NamedTuple):
    """A lattice as `index` left it."""

    A: np.ndarray
    eta_rad: float
    hkl: np.ndarray
    """(spot, 3) of the spots in no other lattice"""
    spots: Spots
    pulse: Pulse


def run(config: StageConfig, *, index: list[Path], out: Path, world: World, word: str = "level0") -> None:
    """Refine the detector that all runs of `index` share, or copy a frozen one."""
    section, log, out = config.level0, logger(word, world), Path(out)
    assert section is not None
    told = [store.attributes(path, "index") for path in index]
    detector, space_group = _shared(index, told)
    if section.from_file:
        frozen = Path(section.from_file)
        dials.read_expt(frozen)
        world.once(lambda: _copy(frozen, out))
        log.info("detector taken from %s", frozen)
        return
    sources = [Source(of["manifest"]) for of in told]
    blocks = [(r, part, key) for r, path in enumerate(index) for part, key in enumerate(store.part_keys(path, "index"))]
    spectra = [_Spectra(source) for source in sources]
    mine = {
        b: _lattices(index[blocks[b][0]], *blocks[b][1:], spectra[blocks[b][0]], section)
        for b in range(world.rank, len(blocks), world.size)
    }
    mine = _at_most(mine, section.max_lattices, world)
    joint = _Joint(mine, len(blocks), detector, space_group, section, world)
    if joint.n_lattices == 0:
        found = f"none with {section.min_reflections} spots or more"
        raise FileError(", ".join(map(str, index)), "lattices", found, "Look at index.png; mind the target cell.")
    with Progress(word, PASSES, world, "pass") as progress:
        for n in range(PASSES):
            joint.refine()
            progress.at(n + 1)
    figures = joint.figures()
    energy = world.sum({b: np.array([sum(map(_mean_energy, x)), len(x)]) for b, x in mine.items()}, len(blocks))
    beam = {"wavelength": wavelength(energy[0] / energy[1]), "polarization": sources[0].polarization}
    world.once(lambda: _write(out, joint.placed(), beam, figures))
    log.info("shift %s mm, distance %.4f mm, from %d lattices", figures["shift_mm"], figures["distance_mm"], energy[1])


def _write(out: Path, detector: Detector, beam: dict[str, Any], figures: dict[str, Any]) -> None:
    with store.replacing(out.with_suffix(".fit.json")) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n")
    dials.write_expt(out, detector, **beam)


def _copy(frozen: Path, out: Path) -> None:
    with store.replacing(out) as temporary:
        shutil.copyfile(frozen, temporary)


def _shared(index: list[Path], told: list[dict]) -> tuple[Detector, str]:
    """The detector and space group that all runs were indexed with. Raises FileError where they differ."""
    for path, of in zip(index, told, strict=True):
        if of["detector"] != told[0]["detector"]:
            todo = "Refine runs of one detector position together: level0.runs."
            raise FileError(path, f"the detector of {index[0]}", "another one", todo)
        if of["config"]["space_group"] != told[0]["config"]["space_group"]:
            raise FileError(path, "one space group", of["config"]["space_group"], "Index all runs alike.")
    described = told[0]["detector"]
    arrays = {name: np.asarray(described[name], dtype=float) for name in ("origin_mm", "fast", "slow", "pixel_mm")}
    return Detector(**(described | arrays | {"shape": tuple(described["shape"])})), told[0]["config"]["space_group"]


class _Spectra:
    """Spectra of a run by shot_id."""

    def __init__(self, source: Source):
        self.source = source
        self.rows = {int(shot_id): i for i, shot_id in enumerate(source.shots["shot_id"])}

    def of(self, shot_id: int) -> Spectrum | None:
        row = self.rows.get(int(shot_id))
        if row is None:
            raise FileError(self.source.path, f"shot {shot_id}", "no such shot", "Index the run again.")
        return self.source.spectrum(row)


def _lattices(path: Path, part: int, key: str, spectra: _Spectra, section: Level0Section) -> list[Found]:
    """Lattices of one block with enough spots and a readable spectrum."""
    columns = store.read_part(path, "index", part, key, NAMES)
    out = []
    for n, shot in enumerate(columns["lattices/shot"]):
        spectrum = spectra.of(columns["shots/shot_id"][shot])
        of = columns["spots/lattice"]
        at = np.flatnonzero((columns["spots/shot"] == shot) & ((of == n) | (of == -1)))
        hkl = columns["spots/hkl"][at]
        if spectrum is None or np.count_nonzero(hkl.any(axis=1)) < section.min_reflections:
            continue
        live = prediction.compress(spectrum)
        pulse = Pulse(live.energies_ev, live.photons, float(columns["lattices/domain_ang"][n]))
        spots = Spots(*(columns[f"spots/{name}"][at] for name in Spots._fields))
        out.append(Found(columns["lattices/A"][n], float(columns["lattices/eta_rad"][n]), hkl, spots, pulse))
    return out


def _at_most(mine: dict[int, list[Found]], limit: int | None, world: World) -> dict[int, list[Found]]:
    """The first `limit` lattices of all blocks."""
    if limit is None:
        return mine
    before = np.cumsum([0, *world.gather_blocks({b: len(found) for b, found in mine.items()})])
    return {b: found[: max(limit - int(before[b]), 0)] for b, found in mine.items()}


def _mean_energy(found: Found) -> float:
    return float(found.pulse.energies_ev @ found.pulse.photons / found.pulse.photons.sum())


class _Joint:
    """The joint refinement: this rank's blocks of lattices, and the one detector."""

    def __init__(self, mine, n_blocks: int, detector: Detector, space_group: str, section: Level0Section, world: World):
        self.found, self.n_blocks, self.world = mine, n_blocks, world
        self.detector, self.space_group, self.section = detector, space_group, section
        self.free = [i for group in geometry_fit.GROUPS if group in section.refine for i in geometry_fit.GROUPS[group]]
        self.d, self.steps, self.n_used, self.n_outliers = np.zeros(len(geometry_fit.NAMES)), 0, 0, 0
        self.n_lattices = int(self._sum({b: np.array([len(x)]) for b, x in mine.items()})[0])
        self.listed = {b: [_listed(x) for x in found] for b, found in mine.items()}
        self.before = self._rmsd()

    def _sum(self, partials: dict[int, np.ndarray]) -> np.ndarray:
        return self.world.sum(partials, self.n_blocks)

    def placed(self) -> Detector:
        return geometry_fit.placed(self.detector, self.d)

    def _where(self, found: Found) -> dict[str, Any]:
        return {"detector": self.placed(), "pulse": found.pulse, "space_group": self.space_group}

    def refine(self) -> None:
        """One pass: index anew, refine, reject, refine."""
        members = {b: [self._member(x) for x in found] for b, found in self.found.items()}
        members = self._iterate(members)
        z = {b: self._residuals(some) for b, some in members.items()}
        share = max(8, POOLED // self.n_blocks)
        pooled = self.world.gather_blocks({b: rows[:: 1 + len(rows) // share] for b, rows in z.items()})
        cut = geometry_fit.robust_cut(np.concatenate(pooled), self.section.outlier_probability)
        kept = {b: [geometry_fit.reject(self.detector, self.d, m, cut) for m in some] for b, some in members.items()}
        counts = {b: np.array([_valid(members[b]), _valid(kept[b])]) for b in members}
        n_all, self.n_used = (int(n) for n in self._sum(counts))
        self.n_outliers = n_all - self.n_used
        members = self._iterate(kept)
        self.found = {
            b: [x._replace(A=m.A, eta_rad=m.eta_rad) for x, m in zip(self.found[b], some, strict=True)]
            for b, some in members.items()
        }

    def _member(self, found: Found) -> Member:
        where = self._where(found)
        hkl = refinement.assign(found.A, found.eta_rad, found.spots, tolerance_px=TOLERANCE_PX, **where)
        return geometry_fit.member(found.A, found.eta_rad, hkl, found.spots, **where)

    def _residuals(self, members: list[Member]) -> np.ndarray:
        rows = [geometry_fit.normalized(self.detector, self.d, m) for m in members]
        return np.concatenate([np.zeros((0, 2)), *rows])

    def _iterate(self, members: dict[int, list[Member]]) -> dict[int, list[Member]]:
        self.d, members, self.solution, steps = geometry_fit.iterate(
            self.detector, self.d, members, self.free, self._sum
        )
        self.steps += steps
        return members

    def _rmsd(self) -> dict[str, Any]:
        """r.m.s.d. over the spots with I/σ ≥ 5 that `index` indexed: the same before and after."""
        sums = {}
        for b, found in self.found.items():
            rows = [np.zeros((0, 2))]
            for x, hkl in zip(found, self.listed[b], strict=True):
                rows.append(refinement.offsets(x.A, x.eta_rad, hkl, x.spots, detector=self.placed(), pulse=x.pulse))
            away = np.concatenate(rows)
            sums[b] = np.array([*(away**2).sum(axis=0), len(away)])
        radial, transverse, n = self._sum(sums)
        px, size = np.sqrt(np.array([radial, transverse]) / max(n, 1.0)), float(self.detector.pixel_mm)
        keys = ("radial_px", "transverse_px", "radial_mm", "transverse_mm")
        return dict(zip(keys, [*px.tolist(), *(px * size).tolist()], strict=True)) | {"n": int(n)}

    def figures(self) -> dict[str, Any]:
        """Plain numbers for level0.fit.json; σ is 0 for what was not refined."""
        covariance = self.solution.covariance
        sigma = np.zeros(len(self.d))
        sigma[self.free] = np.sqrt(np.diag(covariance))
        scale = sigma[self.free]
        return {
            "shift_mm": self.d[:2].tolist(),
            "shift_sigma_mm": sigma[:2].tolist(),
            "distance_mm": float(geometry.distances_mm(self.placed())[0]),
            "distance_sigma_mm": float(sigma[2]),
            "distance_change_mm": float(self.d[2]),
            "tilt_rad": self.d[3:].tolist(),
            "tilt_sigma_rad": sigma[3:].tolist(),
            "refined": [geometry_fit.NAMES[i] for i in self.free],
            "correlation": (covariance / np.outer(scale, scale)).tolist(),
            "n_lattices": self.n_lattices,
            "n_reflections": self.n_used,
            "n_outliers": self.n_outliers,
            "chi2_reduced": self.solution.chi2 / max(self.solution.freedom, 1),
            "steps": self.steps,
            "rmsd_before": self.before,
            "rmsd_after": self._rmsd(),
        }


def _listed(found: Found) -> np.ndarray:
    """(spot, 3) indices of the spots that count in the r.m.s.d.; 0 0 0 = does not."""
    strong = found.spots.intensity >= refinement.I_OVER_SIGMA * found.spots.sigma
    return np.where(strong[:, None], found.hkl, 0)


def _valid(members: list[Member]) -> int:
    return sum(int(m.observed.valid.sum()) for m in members)
