"""The stage stage1 on lattices whose truth is known: what was planted is found, and each lattice
has one end.
"""

import csv
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from scipy.ndimage import convolve

from spreadflow.analysis.pixels import lattice_fit
from spreadflow.config import for_stage, parse, section
from spreadflow.errors import ConfigError, FileError, RefinedOutcome
from spreadflow.io import mosaic as mosaic_files
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.shoebox_blocks import read_recording
from spreadflow.models import Noise, Overlap, Shoeboxes
from spreadflow.parallel import World
from spreadflow.physics import mosaic, noise, rotation, unit_cell
from spreadflow.products import Annulus, Stage1, Wide
from spreadflow.recipes import lattice, still
from spreadflow.recipes import patch as patches
from spreadflow.recipes.run_model import run_models
from spreadflow.stages import stage1 as stage
from spreadflow.units import DEG

pytestmark = pytest.mark.stage

KEYS = {"oversample": 1}
"""as the shoeboxes were made"""
BLANK = 5
"""id of a lattice without photons, which can't be refined"""
FEW = 6
"""id of a lattice of few pixels, which can't be refined"""
ATTRIBUTES = ("runs", "space_group", "detectors", "polarizations", "config")
"""attributes that a product of shoeboxes has"""


@pytest.fixture(scope="module")
def perturbed_run(packed_run, tmp_path_factory) -> SimpleNamespace:
    """The packed run with orientations 0.03°, N 20 % and η 40 % off, and two lattices more: one
    without photons, one of few pixels.
    """
    folder = tmp_path_factory.mktemp("stage1")
    rng = np.random.default_rng(2)
    attributes = store.attributes(packed_run.annulus, Annulus)
    path = folder / "annulus.h5"
    of_run = store.parts_of(packed_run.annulus, Annulus)
    blocks = [of_run[number].read() for number in (0, 1, 1)]
    blocks[2].lattices.shot_id = np.array([BLANK, FEW], np.uint64)
    parts = store.Parts(path, Annulus, "begun", [[1, 2], [3, 4], [BLANK, FEW]])

    for n, block in enumerate(blocks):
        sign = np.where(rng.random((2, 3)) < 0.5, -1, 1)
        turns = rotation.from_vector(0.03 * DEG / np.sqrt(3) * sign)
        block.lattices.A = turns @ block.lattices.A
        block.lattices.eta_rad *= 1.4
        block.lattices.domain_ang *= 0.8
        if n == 2:
            _spoil(block, rng)
        parts.write(n, block)
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in ATTRIBUTES})

    config = for_stage(section(parse(packed_run.tree), "simulate", "r"), "simulate")
    simulator = still.Simulator(config)
    lattice_patches = [
        patches.patch(simulator, number, d_min=2.3, d_max=4.0) for number in (1, 2, 3, 4)
    ]
    true = [patch.parameters for patch in lattice_patches]

    domains = folder / "domains.h5"
    zero = rotation.from_vector(np.array([0.01, 0.0, 0.02]))
    with h5py.File(domains, "w") as f:
        f["rotations"] = zero @ true[0].mosaic.rotations
    return SimpleNamespace(annulus=path, tree=packed_run.tree, true=true, domains=domains)


def _spoil(block: Annulus, rng: np.random.Generator) -> None:
    """Leave the first lattice of a block without photons, and the second with 500 pixels."""
    second_lattice = block.reflections.lattice == 1
    border = int(block.reflections.first_pixel[second_lattice][0])
    block.pixels.photons[:border] = rng.poisson(20.0, border)
    pixel = np.arange(len(block.pixels))
    block.pixels.overlap = np.where(pixel < border + 500, 0, Overlap.FOREIGN)


def configured(perturbed_run, **keys):
    tree = perturbed_run.tree | {"stage1": {**KEYS, **keys}}
    return for_stage(section(parse(tree), "stage1"), "stage1")


def run(perturbed_run, out, **keys):
    config = configured(perturbed_run, **keys)
    stage.run(config, shoeboxes=perturbed_run.annulus, out=out, world=World())
    return store.read(out, Stage1)


@pytest.fixture(scope="module")
def refined(perturbed_run, tmp_path_factory):
    """Path and product with the domains given, a lattice in each part."""
    out = tmp_path_factory.mktemp("given") / "stage1.h5"
    return out, run_in_small_parts(perturbed_run, out)


def run_in_small_parts(perturbed_run, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "LATTICES_OF_PART", 1)
        return run(
            perturbed_run,
            out,
            mosaicity="domains",
            domains=str(perturbed_run.domains),
            block_lattices=1,
        )


def test_each_lattice_has_one_end(perturbed_run, refined):
    out, found = refined
    ends = dict(zip(found.lattices.shot_id.tolist(), found.lattices.outcome.tolist(), strict=True))

    assert ends == dict.fromkeys((1, 2, 3, 4), RefinedOutcome.REFINED) | {
        BLANK: RefinedOutcome.LOST,
        FEW: RefinedOutcome.TOO_FEW,
    }

    attributes = store.attributes(out, Stage1)
    assert attributes["outcomes"] == {"refined": 4, "not_converged": 0, "too_few": 1, "lost": 1}

    n = np.bincount(store.read(perturbed_run.annulus, Annulus).reflections.lattice)
    np.testing.assert_array_equal(np.bincount(found.reflections.lattice), n[:4])
    assert np.isnan(found.lattices.A[4:]).all()
    assert np.isfinite(found.lattices.A[:4]).all()


def test_shoeboxes_of_which_no_lattice_can_be_fitted_are_refused(perturbed_run, tmp_path):
    """Not a product of NaN."""
    shoeboxes = perturbed_run.annulus
    block = store.parts_of(shoeboxes, Annulus)[2].read()
    attributes = store.attributes(shoeboxes, Annulus)
    lost = SimpleNamespace(annulus=tmp_path / "annulus.h5", tree=perturbed_run.tree)
    parts = store.Parts(lost.annulus, Annulus, "lost", [[BLANK, FEW]])
    parts.write(0, block)
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in ATTRIBUTES})

    with pytest.raises(FileError, match="can be fitted; found none: 1 too_few, 1 lost"):
        run(lost, tmp_path / "stage1.h5")
    assert not (tmp_path / "stage1.h5").exists()


def test_shoeboxes_of_the_wider_range_are_refined_where_that_is_asked_for(
    perturbed_run, refined, tmp_path
):
    """The same shoeboxes under the kind `wide` give the same lattices, and one kind is not taken
    for the other.
    """
    attributes = store.attributes(perturbed_run.annulus, Annulus)
    part = store.parts_of(perturbed_run.annulus, Annulus)[0]
    parts = store.Parts(tmp_path / "wide.h5", Wide, "wide", [[1, 2]])
    parts.write(0, Wide(**part.read().tables))
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in ATTRIBUTES})
    domains = str(perturbed_run.domains)
    config = configured(perturbed_run, range="wide", mosaicity="domains", domains=domains)
    out = tmp_path / "stage1.h5"
    stage.run(config, shoeboxes=tmp_path / "wide.h5", out=out, world=World())
    found = store.read(out, Stage1, [Stage1.lattices])

    np.testing.assert_array_equal(found.lattices.values, refined[1].lattices.values[:2])
    with pytest.raises(FileError, match="kind 'wide'"):
        stage.run(config, shoeboxes=perturbed_run.annulus, out=out, world=World())


def test_what_was_planted_is_found_within_its_uncertainty(perturbed_run, refined):
    """The domains are those simulated, from another zero of their rotations; each of four lattices
    has 11 unknowns.
    """
    out, found = refined
    names = store.attributes(out, Stage1)["unknowns"]
    pulls = []
    assert names == [
        "scale",
        *(f"rotation_{i}" for i in (1, 2, 3)),
        *(f"cell_{i}" for i in range(1, 7)),
        "n_cells",
    ]

    for i, true in enumerate(perturbed_run.true):
        sigma = dict(zip(names, found.lattices.sigma_fisher[i], strict=True))
        value = dict(zip(names, found.lattices.values[i], strict=True))
        ratio = found.lattices.A[i] @ np.linalg.inv(true.crystal.A)
        turned = rotation.vector(rotation.nearest(ratio))
        assert np.linalg.norm(turned) < 0.004 * DEG, "of 0.03°"

        away = {f"rotation_{k + 1}": turned[k] for k in range(3)}
        away["scale"] = value["scale"] - np.log(true.scale)
        away["n_cells"] = value["n_cells"] - np.log(true.crystal.n_cells[0])
        pulls += [away[name] / sigma[name] for name in away]

        cell = found.lattices.cell[i] - unit_cell.cell_of(true.crystal.A)
        cell_sigma = found.lattices.cell_sigma[i]
        assert np.all(np.abs(cell) < 5 * cell_sigma)
        assert np.all(cell_sigma < [0.02] * 3 + [0.05 * DEG] * 3)

    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.6
    assert np.abs(pulls).max() < 4.5

    fine = found.lattices.outcome == RefinedOutcome.REFINED
    assert np.all(np.abs(found.lattices.sigma_z[fine] - 1) < 0.05)
    assert np.all(found.lattices.loss_after[fine] < found.lattices.loss_before[fine])

    begin = np.linalg.norm(found.lattices.misset_rad[fine], axis=1) / DEG
    np.testing.assert_allclose(begin, 0.03, atol=0.003)


def test_model_centroids_are_where_the_photons_are(perturbed_run, refined):
    """They are compared with the true centroids of the strong shoeboxes, which the packed run holds
    as observed.
    """
    found = refined[1].reflections.as_dict()
    strong = np.isfinite(found["fast_obs"])
    # but where none of the pixels that may be used has any of the photons
    lit = np.isfinite(found["fast"])

    assert (strong & lit).sum() > 30
    assert (strong & ~lit).sum() <= 2

    strong &= lit
    for axis in ("fast", "slow"):
        away = found[axis][strong] - found[f"{axis}_obs"][strong]
        assert np.sqrt(np.mean(away**2)) < 0.1, "px"
        floor = found[f"{axis}_floor"][strong]
        assert 0.02 < np.sqrt(np.mean(floor**2)) < 1.0


def test_samples_are_pixels_of_the_annulus(perturbed_run, refined):
    annulus = store.read(perturbed_run.annulus, Annulus)
    found = refined[1]
    for row, first, (f0, f1, s0, s1) in zip(
        found.samples.reflection,
        found.samples.first_pixel,
        found.samples.bbox,
        strict=True,
    ):
        is_row = (annulus.reflections.hkl == found.reflections.hkl[row]).all(axis=1)
        is_row &= annulus.reflections.lattice == found.reflections.lattice[row]
        n_pixels = (f1 - f0) * (s1 - s0)
        box = slice(first, first + n_pixels)
        start = int(annulus.reflections.first_pixel[is_row][0])
        theirs = annulus.pixels.photons[start : start + n_pixels]
        data = found.sample_pixels.data[box]
        model = found.sample_pixels.model[box]
        counts = np.isfinite(data)
        np.testing.assert_array_equal(data[counts], theirs[counts])
        assert np.std((data - model)[counts] / np.sqrt(model[counts] + 1)) < 1.5

    assert len(found.samples.reflection) == 4 * stage.N_SAMPLES


def test_the_table_says_the_same(refined):
    out, found = refined
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [int(row["shot_id"], 16) for row in rows] == found.lattices.shot_id.tolist()
    assert [row["outcome"] for row in rows] == ["refined"] * 4 + ["lost", "too_few"]

    cells = unit_cell.degrees(found.lattices.cell)
    for row, cell, n in zip(rows, cells, found.lattices.n_cells, strict=True):
        listed = [float(row["a"]), float(row["beta_deg"])]
        np.testing.assert_allclose(listed, cell[[0, 4]], rtol=1e-12)
        np.testing.assert_allclose(float(row["n_cells_b"]), n[1], rtol=1e-12)


def test_a_stage_goes_on_where_it_was(perturbed_run, refined):
    out, before = refined
    files = sorted(out.with_suffix(".parts").iterdir())
    assert len(files) == 6, "a lattice each"

    stamps = {path: path.stat().st_mtime_ns for path in files}
    files[3].unlink()
    out.unlink()
    again = run_in_small_parts(perturbed_run, out)

    assert {path for path in files if path.stat().st_mtime_ns == stamps[path]} == {*files} - {
        files[3]
    }
    for name, column in before.datasets().items():
        if name != Stage1.lattices.seconds.path:
            np.testing.assert_array_equal(again.datasets()[name], column, err_msg=name)


def test_other_blocks_make_the_same_lattices(perturbed_run, refined, tmp_path):
    """In one part, from three pieces."""
    found = run(
        perturbed_run,
        tmp_path / "stage1.h5",
        mosaicity="domains",
        domains=str(perturbed_run.domains),
        block_lattices=2,
    )

    for name, column in refined[1].datasets().items():
        if not name.startswith("sample") and name != Stage1.lattices.seconds.path:
            np.testing.assert_array_equal(found.datasets()[name], column, err_msg=name)


def test_a_continuous_spread_has_its_width_as_unknown(perturbed_run, tmp_path):
    out = tmp_path / "stage1.h5"
    found = run(perturbed_run, out, refine=["scale", "rotation", "n_cells", "eta"])
    assert store.attributes(out, Stage1)["unknowns"][-1] == "eta"

    fine = found.lattices.outcome == RefinedOutcome.REFINED
    assert fine.sum() == 4 and np.isnan(found.lattices.cell_sigma).all(), "held"

    true = np.sqrt(np.mean(rotation.angle(perturbed_run.true[0].mosaic.rotations) ** 2))
    ratio = found.lattices.eta_rad[fine] / true
    assert 0.7 < np.median(ratio) < 1.4 and np.all((ratio > 0.5) & (ratio < 2)), (
        "nine domains are no Gaussian"
    )


def test_a_spread_by_axis_has_an_unknown_for_each(perturbed_run, tmp_path):
    """Of a width in between, which is the r.m.s. total rotation; the next refinement starts with
    all three.
    """
    out = tmp_path / "stage1.h5"
    keys = {"refine": ["scale", "rotation", "n_cells", "eta"], "eta_axes": 3}
    found = run(perturbed_run, out, **keys)
    assert store.attributes(out, Stage1)["unknowns"][-3:] == ["eta_1", "eta_2", "eta_3"]

    fine = found.lattices.outcome == RefinedOutcome.REFINED
    assert fine.sum() == 4
    by_axis = found.lattices.eta_axes_rad[fine]
    np.testing.assert_allclose(found.lattices.values[fine, -3:], np.log(by_axis))
    assert (by_axis.max(axis=1) > 1.05 * by_axis.min(axis=1)).all(), "nine domains are not alike"
    mean_square = found.lattices.eta_rad[fine] ** 2
    np.testing.assert_allclose(mean_square, (by_axis**2).mean(axis=1))
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    listed = [[float(row[f"eta_{axis}_deg"]) for axis in "xyz"] for row in rows]
    np.testing.assert_allclose(np.array(listed)[fine], by_axis / DEG)

    part = store.parts_of(perturbed_run.annulus, Annulus)[0]
    packed = lattice.unpack(part.read(), 0)
    how = configured(perturbed_run, **keys)
    run_model = run_models(how, read_recording(perturbed_run.annulus, "annulus"), "stage1")[0]
    first = found.lattices.as_dict()
    start = lattice.Start(*(first[name][0] for name in lattice.Start._fields))
    problem = lattice.problem_of(packed, mosaic.continuous(), run_model, how.stage1, start)
    np.testing.assert_array_equal(problem.start.crystal.eta_rad, by_axis[0])


def test_what_is_known_holds_in_the_units_it_is_told_in(perturbed_run, tmp_path):
    """Restraints are in cells, degrees, Å or relative. One without a centre holds the value that
    the fit starts from. The product records them.
    """
    out = tmp_path / "stage1.h5"
    cell = 1.002 * unit_cell.degrees(unit_cell.cell_of(perturbed_run.true[0].crystal.A))
    restraints = {
        "n_cells": {"centre": 17.0, "sigma": 1.7e-5},
        "eta": {"sigma": 1e-6},
        "rotation": {"sigma": 1e-6},
        "cell": {"centre": cell.tolist(), "sigma": 1e-7},
        "scale": {"centre": 80.0, "sigma": 1e-6},
    }
    tree = perturbed_run.tree | {"index": {"space_group": "P 1"}}
    found = run(
        SimpleNamespace(annulus=perturbed_run.annulus, tree=tree),
        out,
        restraints=restraints,
        target="poisson",
    )
    attributes = store.attributes(out, Stage1)

    assert attributes["config"]["restraints"]["n_cells"] == restraints["n_cells"]
    assert attributes["config"]["target"] == "poisson"
    assert attributes["config"]["minimizer"] == "levenberg"

    fine = np.arange(6) < 4  # the fifth has no photons
    assert (found.lattices.outcome[fine] == RefinedOutcome.REFINED).all()
    np.testing.assert_allclose(found.lattices.n_cells[fine], 17.0, atol=1e-3)
    np.testing.assert_allclose(found.lattices.scale[fine], 80.0, rtol=1e-4)
    np.testing.assert_allclose(
        found.lattices.cell[fine], np.tile(unit_cell.radians(cell), (4, 1)), rtol=1e-5
    )
    assert np.linalg.norm(found.lattices.misset_rad[fine], axis=1).max() < 1e-5 * DEG, (
        "though 0.03° off"
    )

    start = store.read(perturbed_run.annulus, Annulus).lattices.eta_rad[:4]
    np.testing.assert_allclose(found.lattices.eta_rad[fine], start, rtol=1e-3)

    sigma = dict(zip(attributes["unknowns"], found.lattices.sigma_fisher[fine].T, strict=True))
    for name, most in (
        ("n_cells", 1e-6),
        ("scale", 1e-6),
        ("rotation_1", 1e-6 * DEG),
        ("cell_1", 1e-7),
    ):
        np.testing.assert_array_less(sigma[name], most * (1 + 1e-6), err_msg=name)
        np.testing.assert_array_less(0.5 * most, sigma[name], err_msg=name)


def test_what_is_known_stays_where_it_is_in_later_refinements(perturbed_run):
    """The refinements of `spread` begin where stage 1 ended, but the orientation is restrained to
    the one that was indexed.
    """
    part = store.parts_of(perturbed_run.annulus, Annulus)[0]
    first_lattice = lattice.unpack(part.read(), 0)
    restraints = {"rotation": {"sigma": 0.01}, "n_cells": {"sigma": 2.0}}
    how = configured(perturbed_run, restraints=restraints)
    run_model = run_models(how, read_recording(perturbed_run.annulus, "annulus"), "stage1")[0]
    turn = rotation.from_vector(np.array([2e-4, -1e-4, 3e-4]))
    turned = lattice.Start(turn @ first_lattice.A, np.full(3, 17.0), np.full(3, 2e-3), 90.0)
    centres = []
    for start in (None, turned):
        problem = lattice.problem_of(
            first_lattice, mosaic.continuous(), run_model, how.stage1, start
        )
        model = lattice_fit.Model(problem, tuple(how.stage1.refine))
        restraint = model.restraint()
        n = model.slices["n_cells"]
        centres.append(model.parameters(restraint.centre).crystal)
        np.testing.assert_allclose(restraint.precision[1:4], (0.01 * DEG) ** -2)
        np.testing.assert_allclose(
            restraint.precision[n], (2.0 / centres[0].n_cells[0]) ** -2, rtol=1e-3
        )

    assert np.abs(centres[0].A / first_lattice.A - 1.0).max() < 1e-6
    for one, other in zip(*centres, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6 if one.ndim else 1.0)


def test_a_minimizer_that_may_not_look_often_enough_has_not_converged(perturbed_run, tmp_path):
    lbfgs = run(perturbed_run, tmp_path / "lbfgs.h5", minimizer="lbfgs", max_iterations=100)
    short = run(perturbed_run, tmp_path / "short.h5", minimizer="lbfgs", max_iterations=8)
    usual = run(perturbed_run, tmp_path / "usual.h5")
    fine = usual.lattices.outcome == RefinedOutcome.REFINED

    assert fine.sum() == 4
    assert (lbfgs.lattices.outcome == usual.lattices.outcome).all()
    assert (short.lattices.outcome[fine] == RefinedOutcome.NOT_CONVERGED).all()

    loss, usual_loss = (end.lattices.loss_after[fine] for end in (lbfgs, usual))
    np.testing.assert_allclose(loss, usual_loss, rtol=0, atol=0.1)

    n_lbfgs, n_short, n_usual = (end.lattices.n_evaluations[fine] for end in (lbfgs, short, usual))
    assert (n_lbfgs > n_usual).all()
    assert (n_short < n_lbfgs).all()

    sigma, usual_sigma = (end.lattices.sigma_fisher[fine] for end in (lbfgs, usual))
    np.testing.assert_allclose(sigma, usual_sigma, rtol=0.05)


def test_the_model_of_a_pixel_is_the_mean_over_its_points(perturbed_run):
    """The model is compared with that of pixels of half the size, each taken at a single point."""
    true = perturbed_run.true[0]
    bbox = np.array([[10, 60, 20, 50], [100, 140, 90, 121]])
    panel = np.array([0, 1])
    rng = np.random.default_rng(0)
    fine = true._replace(
        detector=true.detector._replace(
            pixel_mm=0.5 * true.detector.pixel_mm, shape=tuple(2 * n for n in true.detector.shape)
        )
    )
    shapes = [(50, 30), (40, 31)]
    n = [width * height for width, height in shapes]
    ends = np.cumsum([0, *n])
    valid = rng.random(sum(n)) > 0.1

    def model(p, boxes, valid, oversample):
        hkl = np.zeros((2, 3), np.int32)
        photons = np.zeros(len(valid))
        shoeboxes = Shoeboxes(hkl, panel, boxes, photons, valid)
        problem = lattice_fit.problem(p, "P 1", shoeboxes, Noise(1.0, 0.0), oversample)
        fit_model = lattice_fit.Model(problem, ("rotation", "n_cells"), dtype="float64")
        return fit_model(np.zeros(4))

    pixel_models = model(true, bbox, valid, 2)
    point_models = model(fine, 2 * bbox, np.ones(4 * sum(n), bool), 1)
    for ours, points in zip(pixel_models, point_models, strict=True):
        ours = ours.reshape(len(ours), -1)
        points = points.reshape(len(points), -1)
        sums = []
        for k, (width, height) in enumerate(shapes):
            box = points[4 * ends[k] : 4 * ends[k + 1]]
            quarters = box.reshape(height, 2, width, 2, -1)
            sums.append(quarters.sum(axis=(1, 3)).reshape(height * width, -1))
        expected = np.concatenate(sums)[valid]
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("rotations", "words"),
    [
        (None, "an HDF5 file with a dataset `rotations`"),
        (np.eye(3), r"shape \(domain, 3, 3\)"),
        (np.array([np.eye(3), 1.01 * np.eye(3)]), "rotation matrices"),
        (np.array([np.eye(3), -np.eye(3)]), "rotation matrices"),
        (rotation.from_vector(np.array([[0.2, 0, 0], [-0.2, 0, 0]])), "within 5°"),
    ],
    ids=["none", "one matrix", "scaled", "a mirror", "far apart"],
)
def test_rotations_that_are_none_are_refused(tmp_path, rotations, words):
    path = tmp_path / "domains.h5"
    with h5py.File(path, "w") as f:
        if rotations is not None:
            f["rotations"] = rotations
    with pytest.raises(FileError, match=words):
        mosaic_files.read_rotations(path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"cell": [48.0, 36.0, 30.0, 80.0, 108.0, 95.0]}, "cell.*of the lattices"),
        (
            {"cell": [40.0, 36.0, 30.0, 90.0, 108.0, 90.0], "space_group": "P 1 2 1"},
            "space_group.*point group",
        ),
        ({"d_min": 2.6}, "d_min"),
    ],
)
def test_structure_factors_of_another_crystal_are_refused(perturbed_run, tmp_path, keys, words):
    with pytest.raises(ConfigError, match=words):
        run(perturbed_run, tmp_path / "stage1.h5", structure_factors=keys)


def test_spectra_padded_for_another_run_are_as_they_were():
    spectrum = lattice.without_padding(
        still.Spectrum(
            np.array([7100.0, 7101.0, 7102.0, 7102.0, 7102.0]), np.array([1, -1, 2, 0, 0])
        )
    )

    assert spectrum.energies_ev.tolist() == [
        7100.0,
        7101.0,
        7102.0,
    ]
    assert spectrum.photons.tolist() == [1.0, 0.0, 2.0]


def test_a_point_spread_is_undone(perturbed_run):
    """Lattices are fitted to the photons as they were before the spread, also beside pixels of
    other lattices; the readout noise grows.
    """
    part = store.parts_of(perturbed_run.annulus, Annulus)[0]
    annulus = part.read()
    annulus.pixels.valid = np.ones_like(annulus.pixels.valid)
    annulus.pixels.overlap = np.where(np.arange(len(annulus.pixels)) % 7, 0, Overlap.FOREIGN)
    run_model = run_models(
        configured(perturbed_run), read_recording(perturbed_run.annulus, "annulus"), "stage1"
    )[0]
    counted = lattice.unpack(annulus, 0)
    boxes = counted.boxes
    kernel = noise.gauss_kernel(0.4, float(run_model.detector.pixel_mm), 10)
    ends = np.cumsum(boxes.n_pixels)
    widths = boxes.bbox[:, 1] - boxes.bbox[:, 0]
    images = [
        convolve(photons.reshape(-1, width).astype(float), kernel, mode="reflect").ravel()
        for photons, width in zip(np.split(boxes.photons, ends[:-1]), widths, strict=True)
    ]
    blurred = counted._replace(boxes=boxes._replace(photons=np.concatenate(images)))
    before = lattice.problem_of(
        counted, mosaic.continuous(), run_model, configured(perturbed_run).stage1
    )
    how = configured(perturbed_run).stage1
    keys = {"psf": "gauss", "psf_fwhm_mm": 0.4}
    blurring = run_model._replace(recording=run_model.recording.model_copy(update=keys))
    after = lattice.problem_of(blurred, mosaic.continuous(), blurring, how)

    assert not boxes.valid.all()
    assert np.abs(blurred.boxes.photons - boxes.photons).max() > 30
    np.testing.assert_allclose(after.boxes.photons, before.boxes.photons, atol=1e-3)
    assert set(np.flatnonzero(after.boxes.valid)) < set(np.flatnonzero(before.boxes.valid))
    assert after.noise.readout_photons > 1.5 * before.noise.readout_photons
