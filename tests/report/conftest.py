"""A small trial on disk: images with truth, and finished products of the stages."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
from spreadflow.config import AnnulusConfig, AnnulusSection, IndexSection
from spreadflow.errors import (
    AdoptOutcome,
    LatticeOutcome,
    LearnedOutcome,
    Outcome,
    PredictedOutcome,
    RefinedOutcome,
    SpreadOutcome,
)
from spreadflow.io import images, nexus_writer, store
from spreadflow.io.truth import FileTruth, TrueIntensities, read_truth
from spreadflow.models import Choice, Detector
from spreadflow.parallel import World
from spreadflow.physics import anomalous, geometry, rotation, unit_cell
from spreadflow.products import BY_KIND, Annulus, Mosaic, Predict, Reindex, Stage1, Table
from spreadflow.products.annulus import Lattices, Reflections
from spreadflow.report import summary
from spreadflow.stages import annulus

DETECTOR = Detector(
    origin_mm=np.array([[-10.0, 10.0, -60.0], [1.0, 10.0, -60.0]]),
    fast=np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0], [0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.1),
    shape=(200, 100),
)
"""Two panels beside each other, normal to the beam."""

CELL = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
"""The cell, Å and degrees."""

UNIQUE = Unique(CELL, "C 1 2 1", 7.0)
"""Unique reflections of the crystals, Friedel mates apart, as far as stage 2 refines them."""


def true_intensities(rng: np.random.Generator) -> np.ndarray:
    """Intensities of these, none weak; mates differ by 4 %, r.m.s."""
    intensity = 100.0 + rng.gamma(2.0, 200.0, len(UNIQUE))
    minus = UNIQUE.friedel < 0
    intensity[minus] = intensity[UNIQUE.mate[minus]] * rng.normal(1.0, 0.04, minus.sum())
    return intensity


TRUE = true_intensities(np.random.default_rng(21))
"""Their intensities."""

PULLS = np.random.default_rng(22).standard_normal((2, len(UNIQUE)))
"""Deviations of those of stage 2 and of the merge, in their σ."""

ETA = 1e-3
"""η, rad."""

DOMAINS = np.array([[1e-3, 0.0, 2e-4], [-1e-3, 0.0, -2e-4]])
"""Rotation vectors of the only two domains, rad."""

N_SHOTS = 12
"""Shots of a run."""

N_LATTICES = 9
"""Lattices of a run."""

N_REFLECTIONS = 40
"""Reflections of a lattice."""

OUTCOMES = [Outcome.INDEXED] * 9 + [Outcome.NO_LATTICE, Outcome.BLANK, Outcome.OVERFLOW]
"""Outcome of each shot."""

SHOT = [0, 1, 2, 3, 4, 5, 6, 7, 8]
"""Shot of each lattice."""

ENERGIES = 7100.0 + np.arange(20)
"""Energies of the channels, eV."""

ENERGIES_OF_SHOTS = [7110.0, 7112.0] * 5 + [7108.0, np.nan]
"""Mean energy of each shot, eV; that of the last one was not read."""

REDUCED = anomalous.site("Fe", "reduced", ENERGIES)
"""Curve of the second site."""


@pytest.fixture(scope="session")
def trial(tmp_path_factory, filled) -> SimpleNamespace:
    """Folder of the trial, with its manifests and products of each stage: two runs of equal numbers
    and different content.
    """
    folder = tmp_path_factory.mktemp("trial")
    runs = ["one", "two"]
    trial = SimpleNamespace(folder=folder, runs=runs, manifests=[], reindex=[], index=[])
    trial.unique, trial.intensity, trial.pulls = UNIQUE, TRUE, PULLS
    for r, run in enumerate(runs):
        rng = np.random.default_rng(r)
        manifest = _images(folder / "data" / run, run, rng, filled)
        trial.manifests.append(manifest)
        ids = images.Source(manifest).shots["shot_id"]
        truth = read_truth(manifest)
        for stage in ("index", "reindex"):
            trial.__dict__[stage].append(
                _indexed(folder / run, stage, run, rng, filled, ids, truth, manifest)
            )
    trial.adopt = _adopt(folder, trial, filled)
    trial.cells = _cells(folder, trial, filled)
    trial.annulus = _annulus(folder, trial)
    trial.merge = _merge(folder, filled)
    trial.ladder = _ladder(folder, trial, filled)
    trial.mosaic = _mosaic(folder, trial, filled)
    trial.stage1 = _stage1(folder, trial, filled)
    trial.predict = _predict(folder, trial, filled)
    trial.stage2 = _stage2(folder, trial, filled)
    trial.spread = _spread(folder, trial, filled)
    trial.level0 = _level0(folder)
    return trial


@pytest.fixture(scope="session")
def summaries(trial) -> dict[str, Path]:
    """stage → its summary, beside its picture; those of `index` are made without images."""
    products = {"index": trial.index, "reindex": trial.reindex}
    products |= {"simulate": trial.manifests, "level0": [trial.level0], "adopt": [trial.adopt]}
    pixels = ("annulus", "ladder", "mosaic", "stage1", "predict", "stage2", "spread")
    for stage in ("cells", "merge", *pixels):
        products[stage] = [getattr(trial, stage)]
    out = {stage: trial.folder / f"{stage}.json" for stage in products}
    for stage, path in out.items():
        manifests = [] if stage == "index" else trial.manifests
        summary.run(stage, products=products[stage], images=manifests, out=path)
    return out


def _copied(table: Table, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of a table of another product, by their names in a file."""
    return {f"{table.table_name}/{name}": table.as_dict()[name] for name in names}


def _images(folder: Path, run: str, rng, filled) -> Path:
    """The images of a run and their truth; the manifest."""
    n = N_LATTICES * N_REFLECTIONS
    B = unit_cell.reciprocal(unit_cell.radians(CELL))
    truth = {
        "shots/shot_id": np.arange(N_SHOTS),
        "shots/kind": [0] * 10 + [1, 0],
        "lattices/shot": SHOT,
        "lattices/A": [rotation.random(rng) @ B for _ in SHOT],
        "lattices/n_cells": np.full((len(SHOT), 3), 57.0),
        "lattices/eta_rad": np.full(len(SHOT), 8e-4),
        "lattices/scale": rng.uniform(80.0, 100.0, len(SHOT)),
        "domains/lattice": np.repeat(SHOT, 2),
        "domains/rotation": np.tile(rotation.from_vector(DOMAINS), (len(SHOT), 1, 1)),
        "reflections/lattice": np.repeat(SHOT, N_REFLECTIONS),
        "reflections/hkl": np.concatenate([_indices(rng) for _ in SHOT]),
        "reflections/panel": rng.integers(0, 2, n),
        "reflections/fast": rng.uniform(5, 95, n),
        "reflections/slow": rng.uniform(5, 195, n),
        "reflections/photons": rng.uniform(50, 500, n),
    }
    sizes = {"shots": N_SHOTS, "lattices": N_LATTICES, "domains": 2 * N_LATTICES, "reflections": n}
    folder.mkdir(parents=True)
    stills = nexus_writer.Stills(
        images=rng.poisson(20, (N_SHOTS, 2, *DETECTOR.shape)).astype(np.int32),
        shot_ids=np.arange(N_SHOTS),
        energies_ev=ENERGIES,
        photons=rng.uniform(1e9, 1e10, (N_SHOTS, 20)),
    )
    instrument = nexus_writer.Instrument(DETECTOR, saturation_adu=60000)
    file_truth = FileTruth(
        shots=lambda: filled("truth", sizes, truth),
        detector=geometry.shifted(DETECTOR, 0.03, -0.02, 0.05),
        curves={"FE1": anomalous.site("Fe", "oxidized", ENERGIES), "FE2": REDUCED},
        intensities=TrueIntensities(_signed(UNIQUE), TRUE),
    )
    nexus_writer.write(folder / "stills.nxs", stills, instrument, truth=file_truth)
    images.write_manifest(folder / "manifest.json", run, [folder / "stills.nxs"])
    return folder / "manifest.json"


def _indices(rng) -> np.ndarray:
    """Different Miller indices of a lattice, −10 to 10."""
    numbers = rng.choice(21**3 // 2, N_REFLECTIONS, replace=False)  # h < 0 or so: never 0 0 0
    digits = [numbers // 441, numbers // 21 % 21, numbers % 21]
    return np.stack(digits, axis=1) - 10


def _indexed(folder, stage, run, rng, filled, ids, truth, manifest) -> Path:
    """The product of `index` or `reindex` of a run: lattices a little off the truth."""
    n = N_LATTICES * N_REFLECTIONS
    cells = CELL + rng.standard_normal((N_LATTICES, 6)) * [0.05, 0.04, 0.03, 0, 0.05, 0]
    turns = rotation.from_vector(rng.normal(0, 2e-4, (N_LATTICES, 3)))
    position = np.stack([truth.reflections.fast, truth.reflections.slow], axis=1)
    observed = position + rng.normal(0, 0.3, (n, 2))
    corner = np.clip(np.round(position).astype(int) - 4, 0, None)
    lattice = truth.reflections.lattice
    photons = truth.reflections.photons
    sigma = np.sqrt(photons + 100)
    low_fast, low_slow = corner.T
    planted = {
        "shots/shot_id": ids,
        "shots/outcome": OUTCOMES,
        "shots/n_spots": np.bincount(lattice, minlength=N_SHOTS),
        "shots/mean_energy_ev": ENERGIES_OF_SHOTS,
        "shots/seconds": rng.uniform(0.1, 0.3, N_SHOTS),
        "lattices/shot": SHOT,
        "lattices/shot_id": ids[SHOT],
        "lattices/A": turns @ truth.lattices.A,
        "lattices/cell": [unit_cell.radians(cell) for cell in cells],
        "lattices/eta_rad": rng.uniform(5e-4, 1e-3, N_LATTICES),
        "lattices/n_indexed": np.full(N_LATTICES, N_REFLECTIONS),
        "lattices/rmsd_radial_mm": rng.uniform(0.02, 0.05, N_LATTICES),
        "lattices/rmsd_transverse_mm": rng.uniform(0.01, 0.03, N_LATTICES),
        "lattices/n_rmsd": rng.integers(10, 40, N_LATTICES),
        "spots/shot": lattice,
        "spots/lattice": lattice,
        "spots/hkl": truth.reflections.hkl,
        "spots/panel": truth.reflections.panel,
        "spots/fast": observed[:, 0],
        "spots/slow": observed[:, 1],
        "spots/intensity": photons,
        "reflections/lattice": lattice,
        "reflections/hkl": truth.reflections.hkl,
        "reflections/d": rng.uniform(2.0, 3.0, n),
        "reflections/panel": truth.reflections.panel,
        "reflections/fast": position[:, 0],
        "reflections/slow": position[:, 1],
        "reflections/fast_obs": observed[:, 0],
        "reflections/slow_obs": observed[:, 1],
        "reflections/intensity": photons + sigma * rng.standard_normal(n),
        "reflections/sigma": sigma,
        "reflections/bbox": np.stack([low_fast, low_fast + 8, low_slow, low_slow + 8], axis=1),
        "reflections/flags": (rng.random(n) < 0.05) * 4,
    }
    sizes = {"shots": N_SHOTS, "spots": n, "lattices": N_LATTICES, "reflections": n}
    parts = store.Parts(folder / f"{stage}.h5", BY_KIND[stage], run + stage, [ids])
    parts.write(0, filled(stage, sizes, planted))
    parts.finish(
        World(),
        run=run,
        config=IndexSection().model_dump(mode="json"),
        detector=DETECTOR._asdict(),
        manifest=str(manifest),
    )
    return folder / f"{stage}.h5"


def _adopt(folder, trial, filled) -> Path:
    """The lattices of run two, and three lines that were not adopted."""
    outcomes = [AdoptOutcome.ADOPTED] * N_LATTICES
    outcomes += [AdoptOutcome.NO_SHOT, AdoptOutcome.OTHER_CELL, AdoptOutcome.OTHER_CELL]
    planted = {
        "lines/line": np.arange(1, len(outcomes) + 1),
        "lines/n_reflections": [40] * N_LATTICES + [0, 30, 30],
        "lines/n_agree": [36] * N_LATTICES + [0, 10, 0],
        "lines/outcome": outcomes,
    }
    path = folder / "two" / "adopt.h5"
    store.write(path, filled("adopt", {"lines": len(outcomes)}, planted), key="a", run="two")
    return path


def _cells(folder, trial, filled) -> Path:
    """The lattices of both runs, of which three are not accepted."""
    wanted = [Reindex.lattices.shot_id, Reindex.lattices.cell]
    runs = [store.read(path, Reindex, wanted).lattices for path in trial.reindex]
    shot_id = np.concatenate([lattices.shot_id for lattices in runs])
    cell = np.concatenate([lattices.cell for lattices in runs])
    n = len(shot_id)
    outcome = np.full(n, LatticeOutcome.ACCEPTED)
    outcome[2] = LatticeOutcome.NOISE
    outcome[7] = LatticeOutcome.CELL_OUTLIER
    outcome[11] = LatticeOutcome.OTHER_CLUSTER
    planted = {
        "lattices/run": np.repeat([0, 1], N_LATTICES),
        "lattices/shot_id": shot_id,
        "lattices/cell": unit_cell.degrees(cell),
        "lattices/outcome": outcome,
        "lattices/setting": np.tile(np.eye(3), (n, 1, 1)),
        "clusters/n": [n - 1, 1],
        "clusters/mean": [CELL, CELL],
        "clusters/location": [CELL[:3], CELL[:3]],
        "clusters/covariance": [np.diag([0.05, 0.04, 0.03]) ** 2] * 2,
    }
    attributes = {
        "runs": trial.runs,
        "space_group": "C 1 2 1",
        "features": ["a", "b", "c"],
        "chosen": 0,
        "config": {"runs": None, "eps_ang": None},
        "eps_ang": 0.2,
        "min_samples": 3,
        "forbidden_strain": {"size": 2e-5, "sigma": 1e-5},
    }
    cells = filled("cells", {"lattices": n, "clusters": 2, "features": 3}, planted)
    store.write(folder / "cells.h5", cells, key="cells", **attributes)
    return folder / "cells.h5"


def _annulus(folder, trial) -> Path:
    """What the stage itself makes of the stand-ins before it."""
    config = AnnulusConfig(annulus=AnnulusSection())
    out = folder / "annulus.h5"
    annulus.run(
        config,
        images=trial.manifests,
        reindex=trial.reindex,
        cells=trial.cells,
        out=out,
        world=World(),
    )
    return out


def _merge(folder, filled) -> Path:
    """Merged intensities with noise, of Friedel mates one after the other."""
    rng = np.random.default_rng(9)
    n = 300
    true = rng.gamma(1.0, 100.0, (n, 1))
    half = true + rng.normal(0, 20, (n, 2))
    half[:30] = np.nan
    sign = np.tile([1, -1], n // 2)
    pair = np.arange(n // 2)
    hkl = np.stack([pair, pair % 7, pair % 5], axis=1).repeat(2, axis=0)
    planted = {
        "merged/hkl": hkl,
        "merged/friedel": sign,
        "merged/intensity": np.nan_to_num(half, nan=100.0).mean(axis=1),
        "merged/sigma": np.full(n, 14.0),
        "merged/half": half,
        "merged/n": rng.integers(1, 9, n),
        "lattices/scale": rng.uniform(0.5, 2, 15),
        "lattices/b": rng.normal(0, 2, 15),
        "lattices/used": np.arange(15) < 13,
        "bins/d_max": [np.inf, 3.0, 2.3],
        "bins/d_min": [3.0, 2.3, 2.0],
        "bins/n_possible": [120, 130, 140],
        "bins/n_measured": [110, 100, 90],
        "bins/n_observations": [600, 500, 400],
        "bins/i_over_sigma": [9.0, 5.0, 2.0],
        "bins/cc_half": [0.9, 0.8, np.nan],
        "bins/cc_ano": [0.2, np.nan, 0.0],
    }
    merge = filled("merge", {"merged": n, "lattices": 15, "bins": 3}, planted)
    attributes = {
        "runs": ["one", "two"],
        "wilson_b": 21.0,
        "scaling": "mark0 against model.mtz",
        "n_lattices_in": 15,
    }
    store.write(folder / "merge.h5", merge, key="merge", **attributes)
    return folder / "merge.h5"


def _level0(folder) -> Path:
    """The figures that the stage leaves beside its detector."""
    fit = {
        "shift_mm": [0.031, -0.021],
        "shift_sigma_mm": [0.001, 0.002],
        "distance_mm": 60.04,
        "distance_sigma_mm": 0.01,
        "header_distance_mm": 60.0,
        "n_in": 20,
        "n_lattices": 18,
        "outcomes": {"used": 18, "too_few": 1, "unlike": 1},
        "n_reflections": 700,
        "n_outliers": 20,
        "refined": ["shift_fast_mm", "distance_mm"],
        "correlation": [[1.0, 0.2], [0.2, 1.0]],
    }
    for name, scale in (("rmsd_before", 2.0), ("rmsd_after", 1.0)):
        fit[name] = {"radial_px": 0.4 * scale, "transverse_px": 0.2 * scale, "n": 464}
    (folder / "level0.fit.json").write_text(json.dumps(fit))
    (folder / "level0.expt").write_text("{}")
    return folder / "level0.expt"


def _ladder(folder, trial, filled) -> Path:
    """Fifteen lattices of which three are modelled, with arbitrary sums; on rung 3A one of them is
    missing.
    """
    rng = np.random.default_rng(8)
    rungs = ["00", "1", "2", "3", "3A", "3B", "4"]
    pairs = [(lattice, rung) for lattice in range(3) for rung in range(1, 7)]
    rows = [(lattice, rung) for lattice, rung in pairs if (lattice, rungs[rung]) != (2, "3A")]
    n = len(rows)
    z = np.stack([rng.normal(0, 50, n), rng.uniform(1500, 4000, n)], axis=1)
    planted = {
        "lattices/run": [0] * 7 + [1] * 8,
        "lattices/n_flagged": np.arange(15),
        "lattices/n_counted": np.arange(15),
        "rungs/lattice": [lattice for lattice, _ in rows],
        "rungs/rung": [rung for _, rung in rows],
        "rungs/n": rng.integers(5, 30, n),
        "rungs/radial": rng.uniform(0.1, 1.0, n) / [rung**2 for _, rung in rows],
        "rungs/transverse": rng.uniform(0.1, 1.0, n),
        "rungs/n_pixels": np.full(n, 1000),
        "rungs/z": z,
        "rungs/z_published": 2 * z,
        "rungs/seconds": rng.random(n),
        "compared/n_spots": [10, 10, 20],
        "compared/n_fell": [10, 9, 16],
        "compared/planes": [1e-8, 3e-8, 2e-8],
        "compared/pixels": [1e-4, 2e-3, 1e-5],
        "samples/bbox": [[0, 4, 0, 5], [0, 5, 0, 4], [3, 8, 2, 6]],
        "samples/first_pixel": [0, 20, 40],
        "pixels/photons": np.where(rng.random(60) > 0.1, rng.poisson(20, 60), np.nan),
        "pixels/model": rng.uniform(10, 30, (60, 3)),
    }
    sizes = {"lattices": 15, "rungs": n, "compared": 3, "samples": 3, "pixels": 60}
    ladder = filled("ladder", sizes, planted)
    reading = {
        "n_read": 15,
        "n_others": 0,
        "n_accepted": 15,
        "growth_percent": 0.5,
        "seconds_per_lattice": 0.01,
    }
    attributes = {
        "reading": reading,
        "rungs": rungs,
        "pictured": ["2", "3B", "4"],
        "n_modelled": 3,
        "runs": trial.runs,
        "detectors": [DETECTOR._asdict()] * 2,
        "config": {"misset_deg": 0.02, "n_domains": 25},
    }
    store.write(folder / "ladder.h5", ladder, key="ladder", **attributes)
    return folder / "ladder.h5"


def _mosaic(folder, trial, filled) -> Path:
    """A set of two components for each of three lattices of the annulus; two others keep the
    continuous distribution.

    The components of the first set are the truth's; the others have all their weight where no
    domain is.
    """
    annulus_attributes = store.attributes(trial.annulus, Annulus)
    lattices = store.read(trial.annulus, Annulus, [Annulus.lattices]).lattices
    n = len(lattices)
    outcomes = [LearnedOutcome.LEARNED] * 3 + [LearnedOutcome.CONTINUOUS] * 2
    outcomes += [LearnedOutcome.LOST] * (n - 5)
    planted = {
        **_copied(lattices, ("run", "shot_id", "k", "A")),
        "lattices/outcome": outcomes,
        "lattices/set": [0, 1, 2] + [-1] * (n - 3),
        "lattices/seconds": np.arange(n) / 10,
        "sets/lattice": np.arange(5),
        "sets/eta_rad": np.full(5, ETA),
        "sets/held_out_continuous": [100.0, 200.0, 300.0, 400.0, 500.0],
        "sets/held_out": [90.0, 180.0, 299.0, 401.0, 502.0],
        "sets/is_better": [True] * 3 + [False] * 2,
        "rounds/set": np.arange(5).repeat(2),
        "rounds/step_rad": np.tile([0.4 * ETA, 0.2 * ETA], 5),
        "rounds/n_grid": np.tile([500, 900], 5),
        "rounds/n_nodes": np.tile([60, 90], 5),
        "rounds/held_out": [95.0, 90.0, 190.0, 180.0, 300.0, 299.0, 402.0, 401.0, 503.0, 502.0],
        "components/set": [0, 0, 1, 1, 2, 2],
        "components/rotation_rad": [*DOMAINS, *(-2.0 * DOMAINS), *(-2.0 * DOMAINS)],
        "components/share": np.full(6, 0.5),
    }
    sizes = {"lattices": n, "sets": 5, "rounds": 10, "components": 6}
    attributes = {name: annulus_attributes[name] for name in ("runs", "space_group")}
    attributes |= {"config": {"scope": "per_lattice"}, "shoeboxes": "wide", "d_min": 2.0}
    parts = store.Parts(folder / "mosaic.h5", Mosaic, "mosaic", [[1]])
    parts.write(0, filled("mosaic", sizes, planted))
    parts.finish(World(), **attributes)
    return folder / "mosaic.h5"


def _stage1(folder, trial, filled) -> Path:
    """The lattices of the annulus, deviating from the truth as their σ say; the last two could not
    be refined.
    """
    rng = np.random.default_rng(7)
    annulus_attributes = store.attributes(trial.annulus, Annulus)
    annulus = store.read(trial.annulus, Annulus, [Annulus.lattices, Annulus.reflections])
    n = len(annulus.lattices)
    is_fitted = annulus.reflections.lattice < n - 2
    planted = _fitted_lattices(trial, annulus.lattices, rng)
    planted |= _fitted_centroids(annulus.reflections[is_fitted], rng)
    planted |= {
        "lattices/misset_rad": rng.normal(0, 1e-4, (n, 3)),
        "lattices/sigma_z": rng.uniform(0.95, 1.1, n),
        "lattices/seconds": rng.uniform(0.2, 0.4, n),
        "samples/reflection": [0, 1],
        "samples/bbox": [[0, 4, 0, 5], [0, 5, 0, 4]],
        "samples/first_pixel": [0, 20],
        "sample_pixels/data": np.where(rng.random(40) > 0.1, rng.poisson(20, 40), np.nan),
        "sample_pixels/model": rng.uniform(15, 30, 40),
        "sample_pixels/background": np.full(40, 15.0),
        "sample_pixels/z": rng.standard_normal(40),
    }
    sizes = {
        "lattices": n,
        "unknown": 5,
        "reflections": is_fitted.sum(),
        "samples": 2,
        "sample_pixels": 40,
    }
    parts = store.Parts(folder / "stage1.h5", Stage1, "stage1", [[1]])
    parts.write(0, filled("stage1", sizes, planted))
    attributes = {name: annulus_attributes[name] for name in ("runs", "space_group", "detectors")}
    attributes["unknowns"] = ["scale", "rotation_1", "rotation_2", "rotation_3", "n_cells"]
    attributes["config"] = {"mosaicity": "continuous", "uncertainty": "sandwich"}
    parts.finish(World(), **attributes)
    return folder / "stage1.h5"


def _fitted_lattices(trial, lattices: Lattices, rng) -> dict:
    """Columns of refined lattices: five unknowns with their σ, the cell, and −ln L."""
    n = len(lattices)
    truth = [read_truth(manifest) for manifest in trial.manifests]
    run_and_row = [
        (run, list(truth[run].shots.shot_id).index(shot_id))
        for run, shot_id in zip(lattices.run, lattices.shot_id, strict=True)
    ]
    A = np.array([truth[run].lattices.A[row] for run, row in run_and_row])
    scale = np.array([truth[run].lattices.scale[row] for run, row in run_and_row])
    sigma = np.tile([0.1, 2e-5, 2e-5, 2e-5, 0.03], (n, 1))
    deviation = sigma * rng.standard_normal((n, 5))
    true = np.stack([np.log(scale), *np.zeros((3, n)), np.full(n, np.log(57.0))], axis=1)
    values = true + deviation
    outcomes = [RefinedOutcome.REFINED] * (n - 2) + [RefinedOutcome.TOO_FEW, RefinedOutcome.LOST]
    return {
        **_copied(lattices, ("run", "shot_id", "k")),
        "lattices/outcome": outcomes,
        "lattices/A": rotation.from_vector(deviation[:, 1:4]) @ A,
        "lattices/cell": [unit_cell.cell_of(a) for a in A],
        "lattices/cell_sigma": np.full((n, 6), np.nan),
        "lattices/n_cells": np.exp(values[:, 4:]).repeat(3, axis=1),
        "lattices/eta_rad": np.full(n, 8e-4),
        "lattices/eta_axes_rad": np.full((n, 3), 8e-4),
        "lattices/scale": np.exp(values[:, 0]),
        "lattices/values": values,
        "lattices/sigma_fisher": 0.5 * sigma,
        "lattices/sigma_sandwich": sigma,
        "lattices/loss_before": np.arange(n) + 5.0,
        "lattices/loss_after": np.where(np.arange(n) == 3, 100.0, np.arange(n)),
    }


def _fitted_centroids(reflections: Reflections, rng) -> dict:
    """Columns of these reflections: centroids before and after, observed ones, and what noise alone
    would do.
    """
    position = np.stack([reflections.fast, reflections.slow], axis=1)
    after = position + rng.normal(0, 0.2, position.shape)
    before = position + rng.normal(0, 0.4, position.shape)
    observed = np.where(rng.random((len(reflections), 1)) < 0.7, position, np.nan)
    return {
        **_copied(reflections, ("lattice", "hkl", "d", "panel")),
        "reflections/fast": after[:, 0],
        "reflections/slow": after[:, 1],
        "reflections/fast_before": before[:, 0],
        "reflections/slow_before": before[:, 1],
        "reflections/fast_obs": observed[:, 0],
        "reflections/slow_obs": observed[:, 1],
        "reflections/fast_floor": observed[:, 0] - position[:, 0] + 0.1,
        "reflections/slow_floor": observed[:, 1] - position[:, 1] + 0.1,
    }


def _predict(folder, trial, filled) -> Path:
    """All lattices of reindex, those that stage 1 refined predicted; every fifth reflection is left
    out, and every tenth is weak and chosen. Each second one has a spot, 3-4-5 tenths of a px off.
    """
    lattices = store.read(trial.stage1, Stage1, [Stage1.lattices]).lattices
    refined = lattices.shot_id[lattices.outcome == RefinedOutcome.REFINED]
    parts = store.Parts(folder / "predict.h5", Predict, "predict", [[0], [1]])
    for run, path in enumerate(trial.reindex):
        reindex = store.read(path, Reindex, [Reindex.lattices, Reindex.reflections])
        is_predicted = np.isin(reindex.lattices.shot_id, refined)
        reflections = reindex.reflections[is_predicted[reindex.reflections.lattice]]
        n = len(reflections)
        number = np.arange(n)
        choice = np.where(number % 5 == 0, Choice.LEFT_OUT, Choice.STRONG)
        choice[number % 10 == 5] = Choice.WEAK
        planted = {
            **_copied(reflections, tuple(reflections.as_dict())),
            **_copied(reindex.lattices, ("shot_id", "k", "A", "shot")),
            "lattices/run": np.full(N_LATTICES, run),
            "lattices/outcome": np.where(
                is_predicted, PredictedOutcome.PREDICTED, PredictedOutcome.NOT_REFINED
            ),
            "lattices/scale": np.where(is_predicted, 2.0, np.nan),
            "lattices/n_spots": np.full(N_LATTICES, N_REFLECTIONS),
            "reflections/expected": np.full(n, 100.0),
            "reflections/noise": np.where(choice == Choice.STRONG, 10.0, 400.0),
            "reflections/choice": choice,
            "reflections/fast_spot": np.where(number % 2, reflections.fast + 0.3, np.nan),
            "reflections/slow_spot": np.where(number % 2, reflections.slow + 0.4, np.nan),
        }
        parts.write(run, filled("predict", {"lattices": N_LATTICES, "reflections": n}, planted))
    parts.finish(
        World(),
        config={"d_min": 2.0, "d_max": 20.0},
        runs=trial.runs,
        detectors=[DETECTOR._asdict()] * 2,
    )
    return folder / "predict.h5"


def _signed(unique: Unique) -> np.ndarray:
    """Indices of unique reflections, a Friedel mate under its own."""
    return np.where(unique.friedel < 0, -1, 1)[:, None] * unique.hkl


def _stage2(folder, trial, filled) -> Path:
    """Intensities that deviate from the truth as their σ say, on another scale than the merge's,
    which deviate three times as much; the merge lacks ten of them. Of 15 lattices 13 are used.
    """
    rng = np.random.default_rng(13)
    n = len(UNIQUE)
    sigma = 0.02 * TRUE
    ours, merge = TRUE + np.array([[1.0], [3.0]]) * PULLS * sigma
    merge[:10] = np.nan
    half = 2.0 * (TRUE[:, None] + 2.0 * sigma[:, None] * rng.standard_normal((n, 2)))
    stage1 = store.read(trial.stage1, Stage1, [Stage1.lattices])
    bins = {
        "bins/d_max": [np.inf, 9.0],
        "bins/d_min": [9.0, 7.0],
        "bins/n_possible": [300, n - 300],
        "bins/n_measured": [200, 100],
        "bins/i_over_sigma": [9.0, 3.0],
        "bins/cc_half": [0.9, 0.8],
        "bins/n_pairs": [200, 100],
        "bins/cc_ano": [0.4, np.nan],
        "bins/n_pairs_ano": [90, 1],
    }
    of_merge = bins | {
        "bins/i_over_sigma": [6.0, 3.0],
        "bins/cc_half": [0.6, np.nan],
        "bins/cc_ano": [0.1, 0.4],
        "bins/n_pairs_ano": [20, 10],
    }
    planted = {
        **bins,
        **{name.replace("bins/", "merge_bins/"): column for name, column in of_merge.items()},
        "merged/hkl": UNIQUE.hkl,
        "merged/friedel": UNIQUE.friedel,
        "merged/intensity": 2.0 * ours,
        "merged/sigma": 2.0 * sigma,
        "merged/half": half,
        "merged/n": rng.integers(1, 9, n),
        "merged/merge": 5.0 * merge,
        "merged/merge_sigma": np.where(np.isfinite(merge), 5.0 * 3.0 * sigma, np.nan),
        **_copied(stage1.lattices, ("run", "shot_id", "k")),
        "lattices/outcome": [SpreadOutcome.USED] * 13 + [SpreadOutcome.NOT_REFINED] * 2,
        "lattices/log_volume": np.append(np.linspace(11.0, 12.0, 13), [np.nan] * 2),
        "lattices/model_error": np.append(np.full(13, 0.02), [np.nan] * 2),
        "lattices/sigma_z": np.append(np.linspace(1.0, 1.1, 13), [np.nan] * 2),
        "lattices/seconds": np.linspace(0.2, 0.4, 15),
        "cycles/n_lattices": [13, 13],
        "cycles/change": [2.0, 0.05],
        "cycles/spread": [0.4, 0.3],
        "cycles/scatter": [0.04, 0.03],
        "cycles/held_out": [100.0, 90.0],
        "cycles/held_out_before": [np.nan, 99.0],
        "cycles/model_error": [0.02, 0.02],
        "cycles/seconds": [1.3, 2.6],
        "shells/sigma_z": [1.05, np.nan],
        "shells/n_pixels": [5000, 0],
        "sites/height": [12.0, 9.0],
        "sites/height_merge": [6.0, np.nan],
    }
    sizes = {"merged": n, "bins": 2, "merge_bins": 2, "lattices": 15, "cycles": 2, "shells": 2}
    attributes = {
        "runs": trial.runs,
        "space_group": "C 1 2 1",
        "cell": CELL,
        "d_min": UNIQUE.d_min,
        "mosaicity": "continuous",
        "sites": ["FE1", "FE2"],
        "sigma_kind": "fisher with scatter among lattices",
        "converged": True,
        "reduced_bytes": 123456,
        "n_reductions": 78,
    }
    stage2 = filled("stage2", sizes | {"sites": 2}, planted)
    store.write(folder / "stage2.h5", stage2, key="stage2", **attributes)
    return folder / "stage2.h5"


def _spread(folder, trial, filled) -> Path:
    """Curves that deviate from the truth as the sandwich's σ say; of 15 lattices two were not
    refined, and one is lost.
    """
    rng = np.random.default_rng(12)
    nodes = np.arange(7096.0, 7121.0, 2.0)
    n = 4 * len(nodes)
    stage1 = store.read(trial.stage1, Stage1, [Stage1.lattices])
    outcomes = [SpreadOutcome.USED] * 12 + [SpreadOutcome.LOST] + [SpreadOutcome.NOT_REFINED] * 2
    planted = {
        **_fitted_curves(nodes, rng),
        **_copied(stage1.lattices, ("run", "shot_id", "k", "sigma_z", "seconds")),
        "lattices/outcome": outcomes,
        "lattices/loss_start": np.arange(15) + 10.0,
        "lattices/loss": np.arange(15) * 0.5,
        "edges/fit": [0, 0, 1, 1],
        "edges/site": [0, 1, 0, 1],
        "edges/energy_ev": [7118.2, 7115.9, 7118.0, 7116.0],
        "edges/sigma_ev": [0.3, 0.4, 0.2, 0.2],
        "edges/difference_ev": [[0, 2.3], [-2.3, 0], [0, 2.0], [-2.0, 0]],
        "edges/difference_sigma_ev": [[0, 0.5], [0.5, 0], [0, 0.3], [0.3, 0]],
        "channels/energy_ev": ENERGIES,
        "channels/photons": rng.uniform(1e9, 1e10, 20),
        "channels/residual": np.append(rng.normal(0, 0.01, 19), np.nan),
        "channels/residual_sigma": np.append(np.full(19, 0.01), np.nan),
        "sites/site": [0, 0, 1, 1],
        "sites/unknown": [0, 1, 0, 1],
        "sites/value": [0.02, -0.7, -0.01, 0.4],
        "sites/sigma": [0.01, 0.3, 0.01, 0.2],
        "sites/prior_sigma": [0.1, 1.0, 0.1, 1.0],
        **_constants(),
        **_x(rng),
    }
    sizes = {
        "curves": 6 * len(nodes),
        "values": 3 * n,
        "value": n,
        "edges": 4,
        "site": 2,
        "channels": 20,
        "lattices": 15,
        "constants": 6,
        "sites": 4,
        "reflections": 60,
        "shells": 2,
    }
    controls = [
        {
            "name": "start swapped",
            "passed": True,
            "figure": 1e-3,
            "what": "largest distance from the quoted curves, σ",
            "bar": "at most 0.05",
        },
        {
            "name": "half sets",
            "passed": False,
            "figure": 2.5,
            "what": "standard deviation of their difference over its σ",
            "bar": "0.6 to 1.4",
        },
    ]
    attributes = {
        "config": {"shoeboxes": "wide", "d_max": 4.0, "restraint": "none", "band_sigma_e": 0.5},
        "runs": trial.runs,
        "d_min": 2.1,
        "mosaicity": "continuous",
        "fits": ["free", "kramers_kronig", "smooth"],
        "sites": ["FE1", "FE2"],
        "site_unknowns": ["x", "B"],
        "elements": ["Fe", "Fe"],
        "weak": [],
        "sigma_kinds": ["sandwich", "scaled", "fisher"],
        "sigma_over": "reflections",
        "unknown_f": "complex",
        "log_scale": [0.001, -0.02],
        "cost_of_x": {"fp": 1.25, "fdp": 1.2},
        "scatter": 0.12,
        "x_at_rest": True,
        "n_parameters": n,
        "n_undetermined": 3,
        "changes": [3.0, 0.01],
        "converged": True,
        "controls": controls,
        "lattices_for_goal": {"fp": 1234.2, "fdp": None},
    }
    spread = filled("spread", sizes, planted)
    store.write(folder / "spread.h5", spread, key="spread", **attributes)
    return folder / "spread.h5"


def _constants() -> dict:
    """Means of the curves of two sites in three fits, and their σ."""
    return {
        "constants/fit": [0, 0, 1, 1, 2, 2],
        "constants/site": [0, 1, 0, 1, 0, 1],
        "constants/fp": [-6.0, -7.0, -6.5, -6.6, -6.0, -6.0],
        "constants/fp_start": np.full(6, -6.2),
        "constants/fp_sigma": [0.4, 0.5, 0.1, 0.2, 0.3, 0.3],
        "constants/fp_shape_sigma": [0.6, 0.8, 0.2, 0.2, 0.2, 0.2],
        "constants/fdp": [2.5, 2.0, 2.4, 2.1, 2.4, 2.1],
        "constants/fdp_start": np.full(6, 2.2),
        "constants/fdp_sigma": np.full(6, 0.1),
        "constants/fdp_shape_sigma": np.full(6, 0.7),
    }


def _x(rng) -> dict:
    """X of sixty reflections in two shells, every tenth of them centric."""
    is_centric = np.arange(60) % 10 == 0
    b = np.where(is_centric, np.nan, rng.normal(0, 10, 60))
    return {
        "reflections/hkl": np.stack([np.arange(60), np.zeros(60), np.ones(60)], axis=1),
        "reflections/d": np.linspace(4.0, 2.1, 60),
        "reflections/is_centric": is_centric,
        "reflections/shell": np.repeat([0, 1], 30),
        "reflections/n_shoeboxes": rng.integers(1, 4, 60),
        "reflections/f_model": rng.uniform(20, 200, 60),
        "reflections/prior_sigma": np.repeat([40.0, 50.0], 30),
        "reflections/a": rng.normal(0, 30, 60),
        "reflections/a_sigma": np.full(60, 12.0),
        "reflections/b": b,
        "reflections/b_sigma": np.where(is_centric, np.nan, 25.0),
        "reflections/f_start": rng.uniform(20, 200, 60),
        "reflections/f": rng.uniform(20, 200, 60),
        "reflections/phase_deg": rng.normal(0, 12, 60),
        "shells/d_max": [4.0, 3.0],
        "shells/d_min": [3.05, 2.1],
        "shells/n": [30, 30],
        "shells/model_rms": [130.0, 110.0],
        "shells/first_rms": [19.5, 16.5],
        "shells/prior_rms": [40.0, 50.0],
        "shells/a_rms": [30.0, 28.0],
        "shells/b_rms": [9.0, 11.0],
        "shells/correlation": [0.95, np.nan],
        "shells/phase_moved_deg": [8.0, 12.0],
    }


def _fitted_curves(nodes: np.ndarray, rng) -> dict:
    """Columns of three fits of the curves of two sites at nodes (eV): the same values, with σ of 1,
    0.5 and 0.3 times those of the first.
    """
    metallic = anomalous.site("Fe", "metallic", nodes)
    start = np.array([[metallic.real, metallic.imag]] * 2)
    n = start.size
    mixed = np.eye(n) - 0.3 * np.eye(n, k=1) - 0.3 * np.eye(n, k=-1)
    scale = np.tile(np.where(nodes > 7116, 0.8, 0.3), 4)
    fisher = scale[:, None] * mixed * scale
    true = [anomalous.site("Fe", name, nodes) for name in ("oxidized", "reduced")]
    true_values = np.array([[curve.real, curve.imag] for curve in true])
    deviation = 1.2 * scale * (np.linalg.cholesky(mixed) @ rng.standard_normal(n))
    values = true_values + deviation.reshape(true_values.shape)
    sigma = np.sqrt(np.diag(fisher)).reshape(true_values.shape)
    covariances = np.concatenate([fisher * factor for factor in (1.0, 0.25, 0.1)])
    columns = {
        "curves/fit": np.repeat([0, 1, 2], 2 * len(nodes)),
        "curves/site": np.tile(np.repeat([0, 1], len(nodes)), 3),
        "curves/energy_ev": np.tile(nodes, 6),
        "values/fit": np.repeat([0, 1, 2], n),
        "values/fisher": covariances,
        "values/sandwich": 1.44 * covariances,
    }
    for kind, key in enumerate(("fp", "fdp")):
        sigma_of_kind = sigma[:, kind].ravel()
        bound = np.concatenate([factor * sigma_of_kind for factor in (1.0, 0.5, 0.3)])
        columns[f"curves/{key}"] = np.tile(values[:, kind].ravel(), 3)
        columns[f"curves/{key}_start"] = np.tile(start[:, kind].ravel(), 3)
        columns[f"curves/{key}_fisher"] = bound
        columns[f"curves/{key}_sigma"] = 1.2 * bound
    return columns
