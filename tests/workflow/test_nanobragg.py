"""The workflow on stills of another simulator, from `index` to `annulus`, and `stage1` on their
pixels, against their truth.
"""

import json
from pathlib import Path

import gemmi
import h5py
import numpy as np
import pytest
from scipy.stats import spearmanr

from spreadflow import cli
from spreadflow.analysis.merging.merging import Unique
from spreadflow.config import Config, for_stage, parse, section
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.parallel import World
from spreadflow.physics import geometry, rotation, symmetry
from spreadflow.products import BY_KIND, Children, Merge, Reindex, Stage1
from spreadflow.report import stage1 as report
from spreadflow.report.checks import collect
from spreadflow.stages import mosaic, stage1

pytestmark = pytest.mark.chain
GROUP = "C 1 2 1"
STAGES = ("index", "level0", "reindex", "cells", "merge", "annulus")
"""those whose summaries are made"""
SITES = [{"atom": ["FE1"], "curve": "oxidized"}, {"atom": ["FE2"], "curve": "reduced"}]
"""in both chains of the model, as in config/nanobragg.yaml"""


@pytest.fixture(scope="module")
def truth(shared_data) -> dict:
    return json.loads((shared_data / "nanobragg_c2" / "truth.json").read_text())


@pytest.fixture(scope="module")
def trial(shared_data, chain, tmp_path_factory) -> Path:
    """The folder of the trial: index with β 3° wrong and the geometry of the file, and all that
    follows as far as shoeboxes.
    """
    folder = tmp_path_factory.mktemp("nanobragg")
    manifest = [
        "--run",
        "nanobragg_c2",
        "--offset-adu",
        "10",
        "--out",
        str(folder / "data/nanobragg_c2/manifest.json"),
    ]
    assert cli.main(["manifest", str(shared_data / "nanobragg_c2" / "*.nxs"), *manifest]) == 0
    model = f"structure_factors={{model: {shared_data / 'nanobragg_c2' / 'model.pdb'}, k_sol: 0.0}}"
    ends = (f"results/nanobragg/{stage}.json" for stage in STAGES)
    chain(folder, "nanobragg", *ends, "--config", model)
    return folder / "results" / "nanobragg"


@pytest.fixture(scope="module")
def run(trial) -> Path:
    """The folder with index.h5 and reindex.h5."""
    return trial / "nanobragg_c2"


def misorientations(product, truth) -> np.ndarray:
    """Return the misorientation of each lattice found, degrees; the rows of shots are those of the
    images of the truth.
    """
    lattices = store.read(product, BY_KIND[product.stem]).lattices
    true = [np.array(image["lattices"][0]["A"]) for image in truth["images"]]
    angles = [
        symmetry.misorientation(A, true[shot], GROUP)
        for A, shot in zip(lattices.A, lattices.shot, strict=True)
    ]
    return np.rad2deg(angles)


@pytest.mark.parametrize(("stage", "worst_median"), [("index", 0.06), ("reindex", 0.01)])
def test_single_lattices_in_their_true_orientation(run, truth, stage, worst_median):
    found = store.read(run / f"{stage}.h5", BY_KIND[stage]).shots.n_lattices
    assert (found == 1).sum() >= 23 and found.max() <= 1, "there is one crystal on every image"
    angles = misorientations(run / f"{stage}.h5", truth)
    assert np.median(angles) <= worst_median
    assert angles.max() < 0.2


def test_level0_finds_the_beam(run, truth):
    """The header is wrong by half a pixel in both directions."""
    detector = store.attributes(run / "reindex.h5", Reindex)["detector"]
    shift = np.array(detector["origin_mm"][0]) - truth["true_panel_origin_mm"]
    assert np.all(np.abs(shift[:2]) < 0.003)
    assert abs(shift[2]) < 0.06


def test_miller_indices_are_right(run, truth):
    """Indices of strong spots against the true lattice, put on the same axes by the point group."""
    reindex = store.read(run / "reindex.h5", Reindex)
    spots_of_lattice = Children(reindex.spots.lattice)
    detector = Source(run.parents[2] / "data" / "nanobragg_c2" / "manifest.json").detector
    true_detector = detector._replace(origin_mm=np.array([truth["true_panel_origin_mm"]]))
    right = total = 0
    for k, shot in enumerate(reindex.lattices.shot):
        A = np.array(truth["images"][shot]["lattices"][0]["A"])
        spots = reindex.spots[spots_of_lattice[k]]
        s1 = geometry.direction(true_detector, spots.panel, spots.fast, spots.slow)
        q = (s1 - geometry.S0) / (truth["hc_eV_angstrom"] / reindex.shots.mean_energy_ev[shot])
        expected = np.rint(q @ np.linalg.inv(A).T).astype(int)
        claimed = spots.hkl @ symmetry.same_indices(reindex.lattices.A[k], A, GROUP).T
        right += int((claimed == expected).all(axis=1).sum())
        total += len(claimed)

    assert total > 2000
    assert right / total >= 0.999


def test_cell_and_residuals(run):
    lattices = store.read(run / "reindex.h5", Reindex, [Reindex.lattices]).lattices
    cell = np.median(lattices.cell, axis=0)
    np.testing.assert_allclose(cell[:3], [67.2, 59.8, 47.2], atol=0.03)
    assert np.rad2deg(cell[4]) == pytest.approx(110.3, abs=0.02)
    pixel_mm = 0.177
    assert np.median(lattices.rmsd_radial_mm) < 0.5 * pixel_mm
    assert np.median(lattices.rmsd_transverse_mm) < 0.2 * pixel_mm


def test_friedel_mates_have_the_right_hand(run, shared_data, truth):
    """log of I over the mean of the true mates follows the true difference with slope 1; a mirror
    would give −1.
    """
    true = gemmi.read_mtz_file(str(shared_data / "nanobragg_c2" / "truth_F.mtz"))
    unique = Unique(np.array(truth["cell"]), GROUP, 1.8)
    squared = np.full(len(unique), np.nan)
    hkl = true.make_miller_array()
    for sign, label in ((1, "F(+)"), (-1, "F(-)")):
        rows = unique.rows(sign * hkl)
        is_unique = rows >= 0
        amplitude = np.array(true.column_with_label(label).array)
        squared[rows[is_unique]] = amplitude[is_unique] ** 2
    mates = 0.5 * (squared + squared[unique.mate])

    reflections = store.read(run / "reindex.h5", Reindex, [Reindex.reflections]).reflections
    row = unique.rows(reflections.hkl)
    is_strong = (reflections.flags == 0) & (reflections.intensity > 10 * reflections.sigma)
    is_good = is_strong & (row >= 0) & (unique.friedel[row] != 0)
    row = row[is_good]
    good = reflections[is_good]
    lattice = good.lattice
    expected = good.partiality * good.lorentz * good.polarization * mates[row]
    measured = np.log(good.intensity / expected)
    difference = (squared / mates - 1.0)[row]
    for k in np.unique(lattice):
        measured[lattice == k] -= np.median(measured[lattice == k])
    is_close = np.abs(measured) < 0.7

    assert is_close.sum() > 1500
    assert difference[is_close].std() > 0.05

    x = difference[is_close]
    slope = x @ measured[is_close] / (x @ x)
    assert slope == pytest.approx(1.0, abs=0.25)


def test_merged_intensities_are_the_true_ones(trial, shared_data):
    """All of them to 2.1 Å, most measured once: mates averaged against |F|² at 7120 eV."""
    found = store.read(trial / "merge.h5", Merge, [Merge.merged]).merged
    attributes = store.attributes(trial / "merge.h5", Merge)
    unique = Unique(np.array(attributes["cell"]), GROUP, 2.1)
    file = gemmi.read_mtz_file(str(shared_data / "nanobragg_c2" / "truth_F.mtz"))
    hkl = file.make_miller_array()
    plus, minus = (np.array(column) ** 2.0 for column in file.columns if column.type == "G")
    true = 0.5 * (unique.values(hkl, plus) + unique.values(hkl, np.where(minus > 0, minus, plus)))
    sign = np.where(found.friedel < 0, -1, 1)
    row = unique.rows(found.hkl * sign[:, None])
    row = np.where(unique.friedel[row] < 0, unique.mate[row], row)
    is_used = (row >= 0) & np.isfinite(true[row])

    weight = is_used * found.sigma**-2.0
    row = np.where(is_used, row, 0)
    total = np.bincount(row, weight, len(unique))
    measured = np.flatnonzero(total > 0)
    weighted = np.bincount(row, weight * found.intensity, len(unique))
    merged = weighted[measured] / total[measured]
    truth = true[measured]
    scale = (merged @ truth) / (merged @ merged)
    is_positive = merged > 0
    logs = np.log(merged[is_positive]), np.log(truth[is_positive])

    assert len(measured) > 1400
    assert spearmanr(merged, truth)[0] >= 0.975
    assert np.corrcoef(*logs)[0, 1] >= 0.975
    assert np.abs(scale * merged - truth).sum() / truth.sum() <= 0.28
    assert attributes["warnings"] == []


def test_the_chain_loses_nothing(trial):
    figures = {stage: json.loads((trial / f"{stage}.json").read_text()) for stage in STAGES}
    found = collect(figures)
    assert len(found) >= 6 and all(check.holds for check in found), found
    assert figures["cells"]["n_kept"] >= 22
    assert figures["annulus"]["n_reflections"] > 100
    assert figures["level0"]["true_shift_mm"] is None
    assert figures["reindex"]["misorientation_deg_median"] is None
    assert (trial / "merge.mtz").exists()


def configuration(shared_data: Path, **sections: dict) -> Config:
    """Return the configuration of the trial, its model that of the truth, with some sections."""
    model = str(shared_data / "nanobragg_c2" / "model.pdb")
    structure_factors = {"model": model, "k_sol": 0.0, "sites": SITES}
    runs = {"nanobragg_c2": {"simulate": {}}}
    return parse({"runs": runs, "structure_factors": structure_factors, **sections})


def refined(config: Config, trial: Path, out: Path, **inputs: Path) -> dict:
    """Refine the pixels of the trial by `stage1`. Returns the figures of its summary."""
    stage1.run(
        for_stage(section(config, "stage1"), "stage1"),
        shoeboxes=trial / "annulus.h5",
        out=out,
        world=World(),
        **inputs,
    )
    figures, _ = report.make("stage1", [out], [])
    return figures


def test_pixels_of_another_simulator_are_explained_to_the_noise(
    trial, truth, shared_data, tmp_path
):
    """The model and the mosaic domains are those that the other simulator used; nothing of
    spreadflow made these pixels.
    """
    with h5py.File(tmp_path / "domains.h5", "w") as f:
        f["rotations"] = rotation.from_vector(np.array(truth["mosaic_rotation_vectors_rad_lab"]))
    domains = {"mosaicity": "domains", "domains": str(tmp_path / "domains.h5")}
    out = tmp_path / "stage1.h5"
    with_domains = refined(configuration(shared_data, stage1=domains), trial, out)
    smooth = refined(configuration(shared_data), trial, tmp_path / "smooth.h5")

    for f in (with_domains, smooth):
        assert f["n_refined"] == f["n_lattices"] >= 22
        assert f["n_worse"] == 0
    assert with_domains["radial_rmsd_mm"] < 0.35 * with_domains["radial_rmsd_mm_before"], (
        "of the prediction by spots"
    )
    assert with_domains["radial_rmsd_mm"] < 1.3 * with_domains["radial_floor_mm"]
    assert 0.98 < with_domains["sigma_z_median"] < 1.02
    assert smooth["sigma_z_median"] > 1.1, "a smooth distribution is not these 25 domains"

    lattices = store.read(out, Stage1, [Stage1.lattices]).lattices
    np.testing.assert_allclose(
        np.median(lattices.n_cells), 57, rtol=0.03
    )  # theirs are means of 3 x 3 points
    np.testing.assert_allclose(np.median(lattices.scale), 93.75, rtol=0.08)

    true = [np.array(image["lattices"][0]["A"]) for image in truth["images"]]
    angles = [min(symmetry.misorientation(A, theirs, GROUP) for theirs in true) for A in lattices.A]

    assert np.rad2deg(np.median(angles)) < 0.001


@pytest.mark.long
def test_domains_learned_from_another_simulators_pixels_explain_them(trial, shared_data, tmp_path):
    """Only the model of the crystal is taken from the truth, and the radial residuals are as small
    as with the true domains.
    """
    learned = {"oversample": 1, "mosaicity": "learned"}
    config = configuration(shared_data, mosaic={"max_lattices": 8}, stage1=learned)
    distribution = tmp_path / "mosaic.h5"
    mosaic.run(
        for_stage(section(config, "mosaic"), "mosaic"),
        shoeboxes=trial / "annulus.h5",
        out=distribution,
        world=World(),
    )
    f = refined(config, trial, tmp_path / "stage1.h5", mosaic=distribution)

    assert f["n_refined"] == f["n_lattices"] >= 22
    assert f["n_worse"] == 0
    assert f["radial_rmsd_mm"] < 0.5 * f["radial_rmsd_mm_before"], "of the prediction by spots"
    assert 0.98 < f["sigma_z_median"] < 1.03


def test_time_per_shot(run):
    """Processor seconds, without the shots that compile; the bar of the project is 0.5 s on a quiet
    machine.
    """
    shots = store.read(run / "reindex.h5", Reindex, [Reindex.shots.seconds]).shots
    assert np.median(shots.seconds) < 1.0
