"""What was found in a run beside what was simulated. Tables are the columns of schemas 'reindex'
and 'truth'.
"""

import json
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from scipy.spatial import cKDTree

from spreadflow.errors import FileError, LearnedOutcome, RefinedOutcome
from spreadflow.io import images as io_images
from spreadflow.io import schema
from spreadflow.io.nexus import NexusFile
from spreadflow.io.schema import KINDS
from spreadflow.models import Detector, Mosaic, ReflectionFlag
from spreadflow.physics import mosaic, rotation, symmetry, unit_cell
from spreadflow.units import DEG

SINGLE, BLANK, DOUBLE = (KINDS.index(kind) for kind in ("single", "blank", "double"))
"""Kinds of simulated shots."""

RIGHT_RAD = 1.0 * DEG
"""A lattice closer than this to a simulated one is that one."""

BRIGHT = 0.1
"""A simulated reflection explains a spot if it holds at least this fraction of the spot's photons
"""


class Match(NamedTuple):
    """Found lattices beside the simulated ones of their shots."""

    kind: np.ndarray
    """(shot found,) kind that was simulated; −1 = no truth for this shot"""
    row: np.ndarray
    """(lattice found,) row of the truth's lattices, each at most once a shot; −1 = none left in
    this shot
    """
    angle: np.ndarray
    """(lattice found,) misorientation, rad; NaN where row is −1"""
    to_truth: np.ndarray
    """(lattice found, 3, 3) integers: simulated hkl = to_truth · found hkl"""

    @property
    def right(self) -> np.ndarray:
        """(lattice found,) bool: is a simulated lattice."""
        return (self.row >= 0) & (np.nan_to_num(self.angle, nan=np.inf) < RIGHT_RAD)


class Pair(NamedTuple):
    """A run's product, its truth, and how their lattices belong together."""

    found: dict
    truth: dict
    match: Match


def match(found: dict, truth: dict, space_group: str) -> Match:
    """Return pair each found lattice with the closest simulated one of its shot, best pairs
    first.
    """
    ids = {int(i): n for n, i in enumerate(truth["shots/shot_id"])}
    shot = np.array([ids.get(int(i), -1) for i in found["shots/shot_id"]], dtype=int)
    kind = np.where(shot >= 0, truth["shots/kind"][shot].astype(int) if len(ids) else -1, -1)
    n = len(found["lattices/shot"])
    out = Match(
        kind,
        np.full(n, -1),
        np.full(n, np.nan),
        np.broadcast_to(np.eye(3, dtype=int), (n, 3, 3)).copy(),
    )
    true_shot = shot[found["lattices/shot"]] if n else np.empty(0, int)
    for s in np.unique(true_shot[true_shot >= 0]):
        mine = np.flatnonzero(true_shot == s)
        theirs = np.flatnonzero(truth["lattices/shot"] == s)
        A = found["lattices/A"]
        A_true = truth["lattices/A"]
        angle = np.array(
            [[symmetry.misorientation(A[i], A_true[j], space_group) for j in theirs] for i in mine]
        )
        while angle.size and np.isfinite(angle).any():
            i, j = np.unravel_index(np.nanargmin(angle), angle.shape)
            out.row[mine[i]], out.angle[mine[i]] = theirs[j], angle[i, j]
            out.to_truth[mine[i]] = symmetry.same_indices(
                A[mine[i]], A_true[theirs[j]], space_group
            )
            angle[i, :], angle[:, j] = np.inf, np.inf
    return out


def counts(pair: Pair) -> dict:
    """Return lattices found on the shots of each kind."""
    found = pair.found
    matched = pair.match
    indexed = np.bincount(found["lattices/shot"], minlength=len(matched.kind)) > 0
    right = np.bincount(found["lattices/shot"][matched.right], minlength=len(matched.kind))
    return {
        "n_singles": int((matched.kind == SINGLE).sum()),
        "n_singles_indexed": int((right[matched.kind == SINGLE] >= 1).sum()),
        "n_blanks": int((matched.kind == BLANK).sum()),
        "n_blanks_with_lattice": int(indexed[matched.kind == BLANK].sum()),
        "n_doubles": int((matched.kind == DOUBLE).sum()),
        "n_doubles_both": int((right[matched.kind == DOUBLE] >= 2).sum()),
        "n_lattices_wrong": int(
            (~matched.right & (matched.kind[found["lattices/shot"]] >= 0)).sum()
        ),
    }


def orientations(matched: Match) -> dict:
    """Return misorientation of all lattices that have a partner, degrees."""
    angle = np.rad2deg(matched.angle[matched.row >= 0])
    median, p95 = np.percentile(angle, [50, 95]) if len(angle) else (None, None)
    return {"misorientation_deg_median": median, "misorientation_deg_p95": p95}


def indices(pair: Pair) -> dict:
    """Return Miller indices of spots: right if the nearest simulated reflection bright enough for
    the spot has that index.
    """
    found, truth, matched = pair
    n_right = n_all = 0
    rows = _by(truth["reflections/lattice"], len(truth["lattices/shot"]))
    spots = _by(found["spots/lattice"], len(matched.row))
    for i in np.flatnonzero(matched.row >= 0):
        mine = spots[i]
        theirs = rows[matched.row[i]]
        n_all += len(mine)
        for panel in np.unique(found["spots/panel"][mine]):
            here = mine[found["spots/panel"][mine] == panel]
            there = theirs[truth["reflections/panel"][theirs] == panel]
            claimed = found["spots/hkl"][here] @ matched.to_truth[i].T
            n_right += _explained(found, truth, here, there, claimed)
    return {"n_spots_indexed": n_all, "miller_right": n_right / n_all if n_all else None}


def _explained(
    found: dict, truth: dict, spots: np.ndarray, reflections: np.ndarray, claimed: np.ndarray
) -> int:
    """Return how many spots of one panel lie nearest to the reflection they claim to be."""
    where = _positions(truth, reflections)
    bright = truth["reflections/photons"][reflections]
    right = 0
    for position, intensity, hkl in zip(
        _positions(found, spots, "spots"), found["spots/intensity"][spots], claimed, strict=True
    ):
        distance = np.where(
            bright >= BRIGHT * intensity, np.linalg.norm(where - position, axis=1), np.inf
        )
        if len(distance) and np.isfinite(distance.min()):
            right += int((truth["reflections/hkl"][reflections[distance.argmin()]] == hkl).all())
    return right


def pulls(pair: Pair) -> np.ndarray:
    """Return (n,) (I − I_true)/σ of the unflagged reflections of the right lattices of single
    shots.
    """
    found, truth, _ = pair
    out = [np.empty(0)]
    for mine, theirs in _common(pair):
        clean = found["reflections/flags"][mine] == 0
        difference = found["reflections/intensity"][mine] - truth["reflections/photons"][theirs]
        out.append((difference / found["reflections/sigma"][mine])[clean])
    return np.concatenate(out)


def recall(pair: Pair, d_min: float, shape: tuple[int, int]) -> dict:
    """Return share of the simulated reflections above 3 σ, on the panel and d ≥ d_min, that were
    predicted.

    σ² = I_true + the background variance of the nearest predicted reflection of the lattice.
    """
    found, truth, matched = pair
    n_strong = n_found = 0
    rows = _by(truth["reflections/lattice"], len(truth["lattices/shot"]))
    predicted = _by(found["reflections/lattice"], len(matched.row))
    lattices = np.flatnonzero(matched.right & (matched.kind[found["lattices/shot"]] == SINGLE))
    common = _common(pair)
    for i, (_, theirs) in zip(lattices, common, strict=True):
        every = rows[matched.row[i]]
        mine = predicted[i]
        mine = mine[found["reflections/flags"][mine] & ReflectionFlag.FAILED == 0]
        if not len(mine):
            continue
        _, near = cKDTree(_positions(found, mine)).query(_positions(truth, every))
        variance = found["reflections/sigma"][mine[near]] ** 2 - np.maximum(
            found["reflections/intensity"][mine[near]], 0
        )
        photons = truth["reflections/photons"][every]
        fast, slow = _positions(truth, every).T
        strong = photons > 3 * np.sqrt(photons + np.maximum(variance, 0))
        strong &= (
            unit_cell.spacing(truth["lattices/A"][matched.row[i]], truth["reflections/hkl"][every])
            >= d_min
        )
        strong &= (fast >= 0) & (fast < shape[1]) & (slow >= 0) & (slow < shape[0])
        n_strong += int(strong.sum())
        n_found += int(np.isin(every[strong], theirs).sum())
    return {
        "n_strong_true": n_strong,
        "prediction_recall": n_found / n_strong if n_strong else None,
    }


def _common(pair: Pair) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return per right lattice of a single shot: rows of the reflections that are in both tables,
    found and simulated.
    """
    found, truth, matched = pair
    rows = _by(truth["reflections/lattice"], len(truth["lattices/shot"]))
    predicted = _by(found["reflections/lattice"], len(matched.row))
    out = []
    for i in np.flatnonzero(matched.right & (matched.kind[found["lattices/shot"]] == SINGLE)):
        mine = predicted[i]
        theirs = rows[matched.row[i]]
        number = {
            tuple(h): t
            for h, t in zip(truth["reflections/hkl"][theirs].tolist(), theirs, strict=True)
        }
        claimed = (found["reflections/hkl"][mine] @ matched.to_truth[i].T).tolist()
        partner = np.array([number.get(tuple(h), -1) for h in claimed], dtype=int)
        out.append((mine[partner >= 0], partner[partner >= 0]))
    return out


def _positions(table: dict, rows: np.ndarray, of: str = "reflections") -> np.ndarray:
    return np.stack([table[f"{of}/fast"][rows], table[f"{of}/slow"][rows]], axis=1)


def _by(owner: np.ndarray, n: int) -> list[np.ndarray]:
    """Return rows of a table, per owner 0 … n − 1 (rows of owner −1 are nobody's)."""
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(n + 1))
    return [order[a:b] for a, b in pairwise(edges)]


class Refinement(NamedTuple):
    """Refined lattices of stage 1 that are simulated ones."""

    angle: np.ndarray
    """(lattice,) misorientation, rad"""
    angle_before: np.ndarray
    """(lattice,) the same of the orientation the fit began with"""
    ratios: dict[str, np.ndarray]
    """scale, n_cells, eta → (lattice,) found over true"""
    pulls: dict[str, dict[str, np.ndarray]]
    """sandwich, fisher → kind of unknown → (n,) (found − true)/σ"""
    true_mosaicity: np.ndarray
    """(different, 2) N and η (degrees) that were simulated"""


def refinement(found: dict, told: dict, truths: list[dict | None]) -> Refinement | None:
    """Return columns of schema 'stage1' and its attributes beside the truths of its runs; None
    without any.
    """
    parts = [_refined(found, told, r, true) for r, true in enumerate(truths) if true is not None]
    if not parts:
        return None
    return Refinement(
        np.concatenate([p.angle for p in parts]),
        np.concatenate([p.angle_before for p in parts]),
        _end_to_end([p.ratios for p in parts]),
        {name: _end_to_end([p.pulls[name] for p in parts]) for name in parts[0].pulls},
        np.unique(np.concatenate([p.true_mosaicity for p in parts]), axis=0),
    )


def _end_to_end(dicts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays of a name from all that have it: a run need not have every kind."""
    return {
        name: np.concatenate([d[name] for d in dicts if name in d])
        for name in dict.fromkeys(chain(*dicts))
    }


def _refined(found: dict, told: dict, run: int, truth: dict) -> Refinement:
    """Return the comparison of one run."""
    mine = (found["lattices/run"] == run) & (found["lattices/outcome"] == RefinedOutcome.REFINED)
    t = {name.split("/")[1]: c[mine] for name, c in found.items() if name.startswith("lattices/")}
    shots, shot = np.unique(t["shot_id"], return_inverse=True)
    of = {"shots/shot_id": shots, "lattices/shot": shot, "lattices/A": t["A"]}
    matched = match(of, truth, told["space_group"])
    t = {name: column[matched.right] for name, column in t.items()}
    row = matched.row[matched.right]
    A = truth["lattices/A"][row] @ matched.to_truth[matched.right]
    turned = np.array(
        [
            rotation.vector(rotation.nearest(a @ np.linalg.inv(b)))
            for a, b in zip(t["A"], A, strict=True)
        ]
    )
    began = rotation.from_vector(-t["misset_rad"]) @ t["A"] @ np.linalg.inv(A)
    true = {"n_cells": truth["lattices/n_cells"][row].mean(axis=1)}
    true |= {"eta": truth["lattices/eta_rad"][row], "scale": truth["lattices/scale"][row]}
    ratios = {"n_cells": t["n_cells"].mean(axis=1), "eta": t["eta_rad"], "scale": t["scale"]}
    ratios = {name: value / true[name] for name, value in ratios.items()}
    off = {name: np.log(ratios[name])[:, None] for name in ("scale", "eta")} | {
        "rotation": turned.reshape(-1, 3)
    }
    off["n_cells"] = np.log(
        t["n_cells"] / true["n_cells"][:, None]
    )  # simulated domains have as many along each axis
    pulls = {
        kind: _over(off, t[f"sigma_{kind}"], told["unknowns"]) for kind in ("sandwich", "fisher")
    }
    cell = np.array([unit_cell.cell_of(a) for a in A]).reshape(-1, 6)
    quoted = np.where(t["cell_sigma"] > 1e-9, t["cell_sigma"], np.nan)
    of_cell = ((t["cell"] - cell) / quoted).ravel()
    if np.isfinite(of_cell).any():
        pulls[told["config"]["uncertainty"]]["cell"] = _finite(of_cell)
    angle = np.linalg.norm(turned.reshape(-1, 3), axis=1)
    before = rotation.angle(rotation.nearest(began))
    mosaicity = np.stack([true["n_cells"], true["eta"] / DEG], axis=1)
    return Refinement(angle, before, ratios, pulls, mosaicity)


def _over(
    off: dict[str, np.ndarray], sigma: np.ndarray, unknowns: list[str]
) -> dict[str, np.ndarray]:
    """Return kind of unknown → deviations (lattice, of the kind) over σ (lattice, unknown), all in
    one row.
    """
    kinds = [name if name in off else name.rpartition("_")[0] for name in unknowns]
    columns = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in off}
    return {
        name: _finite((off[name][:, : len(c)] / sigma[:, c]).ravel())
        for name, c in columns.items()
        if c
    }


def _finite(values: np.ndarray) -> np.ndarray:
    """Return values without the unknowns that a lattice does not have."""
    return values[np.isfinite(values)]


class TrueMosaic(NamedTuple):
    """How domains are turned that were simulated."""

    mosaic: Mosaic
    """of all lattices that taught a set"""
    domain_rad: float
    """angular standard deviation of one domain at the highest resolution"""


def mosaics(found: dict, told: dict, truths: list[dict | None]) -> dict[int, TrueMosaic]:
    """Return the truth of the sets in columns of schema 'mosaic' that lattices were found to have:
    set → truth.
    """
    taught: dict[int, list[TrueMosaic]] = {}
    for run, truth in enumerate(truths):
        rows = np.flatnonzero(
            (found["lattices/run"] == run) & (found["lattices/outcome"] == LearnedOutcome.LEARNED)
        )
        if truth is None or not len(rows):
            continue
        shots, shot = np.unique(found["lattices/shot_id"][rows], return_inverse=True)
        of = {
            "shots/shot_id": shots,
            "lattices/shot": shot,
            "lattices/A": found["lattices/A"][rows],
        }
        matched = match(of, truth, told["space_group"])
        for row, partner in zip(rows[matched.right], matched.row[matched.right], strict=True):
            taught.setdefault(int(found["lattices/set"][row]), []).append(
                _true_mosaic(truth, partner, told["d_min"])
            )
    return {n: _joined(every) for n, every in taught.items()}


def _true_mosaic(truth: dict, row: int, d_min: float) -> TrueMosaic:
    """Return the true mosaicity of one lattice."""
    turned = truth["domains/rotation"][truth["domains/lattice"] == row]
    edge = np.mean(truth["lattices/n_cells"][row] * unit_cell.cell_of(truth["lattices/A"][row])[:3])
    spread = mosaic.domains(turned) if len(turned) else mosaic.continuous()
    spread = spread._replace(eta_rad=truth["lattices/eta_rad"][row])
    return TrueMosaic(spread, float(np.sqrt(mosaic.GAUSS / 4) * d_min / edge))


def _joined(every: list[TrueMosaic]) -> TrueMosaic:
    """Return the mean of distributions; once, where all are the same."""
    one = every[0]
    if all(np.array_equal(other.mosaic.rotations, one.mosaic.rotations) for other in every):
        return one
    rotations, width, share = (
        np.concatenate(of) for of in zip(*(other.mosaic[:3] for other in every), strict=True)
    )
    return one._replace(mosaic=Mosaic(rotations, width, share / len(every), one.mosaic.eta_rad))


def true_detector(manifest: Path) -> Detector | None:
    """Return where the detector of a simulated run truly was; None where that is not known."""
    told = _of_run(manifest, lambda truth: truth.attrs.get("detector"))
    return None if told is None else Detector.from_json(json.loads(told))


class Curve(NamedTuple):
    """f' + i f'' of a simulated site."""

    energies_ev: np.ndarray
    """(channel,)"""
    values: np.ndarray
    """(channel,) complex128, e"""

    def at(self, energies_ev: np.ndarray) -> np.ndarray:
        """Return (2, n) f' and f'', linear between channels."""
        return np.array(
            [
                np.interp(energies_ev, self.energies_ev, v)
                for v in (self.values.real, self.values.imag)
            ]
        )


def true_curves(manifest: Path) -> dict[str, Curve]:
    """Return atom → curve of each site of a simulated run; empty where they are not known."""
    return _of_run(manifest, _curves) or {}


def _curves(truth: h5py.Group) -> dict[str, Curve] | None:
    if "curves" not in truth:
        return None
    site, energy, fp, fdp = (truth[name][()] for name in schema.FILES["true_curves"])
    names = json.loads(truth.attrs["sites"])
    return {
        name: Curve(energy[site == s], (fp + 1j * fdp)[site == s]) for s, name in enumerate(names)
    }


def _of_run(manifest: Path, told: Callable[[h5py.Group], Any]) -> Any:
    """Return what is told of all shots by the truth of the first file that can be opened; None
    without truth.
    """
    for entry in io_images.read_manifest(manifest).files:
        try:
            file = NexusFile(manifest.parent / entry.path)
        except FileError:
            continue
        with file:
            return None if file.truth is None else told(file.truth)
    return None
