"""The stage predict: each lattice has one end, what is predicted is what stage 1 says, and DIALS
reads it.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.still.prediction import MosaicLattice, predict
from spreadflow.config import for_stage, overlay, parse, section
from spreadflow.errors import ConfigError, FileError, PredictedOutcome, RefinedOutcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.io.lattices import reflections
from spreadflow.io.lattices.dials import ExperimentList
from spreadflow.models import CHOSEN, Choice, ReflectionFlag
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Predict, Reindex, Stage1
from spreadflow.products.predict import Reflections
from spreadflow.stages import predict as stage
from spreadflow.units import DEG

pytestmark = pytest.mark.stage

PREDICTED, NEIGHBOUR, NOT_REFINED, NO_SCALE, SMEARED = PredictedOutcome


def configured(tree: dict, **keys):
    return for_stage(section(parse(overlay(tree, {"predict": keys})), "predict"), "predict")


def run(inputs: SimpleNamespace, out, **keys) -> Predict:
    stage.run(
        configured(inputs.tree, **keys),
        images=[inputs.manifest],
        reindex=[inputs.reindex],
        stage1=inputs.stage1,
        out=out,
        world=World(),
    )
    return store.read(out, Predict)


@pytest.fixture(scope="module")
def predicted(refined_run, tmp_path_factory) -> SimpleNamespace:
    """The product, and those of the stages before it."""
    out = tmp_path_factory.mktemp("predict") / "predict.h5"
    return SimpleNamespace(
        path=out,
        product=run(refined_run, out),
        reindex=store.read(refined_run.reindex, Reindex),
        stage1=store.read(refined_run.stage1, Stage1, [Stage1.lattices]),
    )


def own(predicted, row: int) -> Reflections:
    """Return the reflections of a lattice."""
    reflections = predicted.product.reflections
    return reflections[reflections.lattice == row]


def test_each_lattice_has_one_end(predicted):
    """The lattice without a refined companion is not predicted; the other is a neighbour."""
    c = predicted.product
    np.testing.assert_array_equal(c.lattices.shot_id, predicted.reindex.lattices.shot_id)
    np.testing.assert_array_equal(c.lattices.k, predicted.reindex.lattices.k)
    refined = predicted.stage1.lattices.outcome == RefinedOutcome.REFINED
    ends = c.lattices.outcome
    assert (ends[refined] == PREDICTED).all() and refined.sum() == 2
    assert ends[~refined].tolist() == [NOT_REFINED, NEIGHBOUR]

    outcomes = store.attributes(predicted.path, Predict)["outcomes"]
    assert sum(outcomes.values()) == len(ends)
    assert outcomes["predicted"] == refined.sum()
    has_reflections = np.bincount(c.reflections.lattice, minlength=len(ends)) > 0
    np.testing.assert_array_equal(has_reflections, ends != NOT_REFINED)
    np.testing.assert_array_equal(np.isfinite(c.lattices.scale), ends == PREDICTED)


def test_reflections_are_those_of_the_refined_lattice(predicted, refined_run):
    """Predicted again, with N of stage 1 as the size of the domains."""
    source = Source(refined_run.manifest)
    c = predicted.product
    row = int(np.argmax(c.lattices.outcome == PREDICTED))
    n_cells = predicted.stage1.lattices.n_cells[row]
    A = predicted.stage1.lattices.A[row]
    domain_ang = n_cells[0] * unit_cell.volume(unit_cell.cell_of(A)) ** (1 / 3)
    assert c.lattices.domain_ang[row] == pytest.approx(domain_ang)
    lattice = MosaicLattice(A, c.lattices.eta_rad[row], domain_ang)
    shot = source.read(int(c.lattices.shot[row]))
    assert shot.shot_id == c.lattices.shot_id[row]
    again = predict(lattice, shot.spectrum, source.detector, space_group="P 43 21 2", d_min=2.5)
    found = own(predicted, row)
    np.testing.assert_array_equal(found.hkl, again.hkl)
    np.testing.assert_allclose(found.fast, again.fast)
    np.testing.assert_allclose(found.partiality, again.partiality, rtol=1e-6)


def test_what_becomes_of_a_reflection_is_written_with_it(predicted):
    c = predicted.product
    choice = c.reflections.choice
    ends = c.lattices.outcome[c.reflections.lattice]
    np.testing.assert_array_equal(choice == Choice.NEIGHBOUR, ends == NEIGHBOUR)
    np.testing.assert_array_equal(np.isnan(c.reflections.expected), ends == NEIGHBOUR)
    rows = choice < Choice.OUTSIDE
    np.testing.assert_array_equal(choice == Choice.OUTSIDE, (c.reflections.d >= 20.0) & (ends == 0))
    ratio = c.reflections.expected / c.reflections.noise
    np.testing.assert_array_equal(ratio[rows] >= 0.5, choice[rows] == Choice.STRONG)
    assert (c.reflections.d >= 2.5 - 1e-6).all()


def test_what_has_signal_is_chosen(predicted):
    """Even though nothing is chosen by its own intensity."""
    c = predicted.product
    is_sound = c.reflections.flags & (ReflectionFlag.FAILED | ReflectionFlag.OVERLAP) == 0
    bright = c.reflections.intensity > 3 * c.reflections.sigma
    rows = is_sound & bright & (c.reflections.choice != Choice.NEIGHBOUR)
    assert rows.sum() > 200
    assert np.isin(c.reflections.choice[rows], CHOSEN).mean() >= 0.98


def test_observed_spots_are_matched(predicted):
    """Most spots of refined lattices, each to the reflection whose index reindex gave it."""
    c = predicted.product
    spots = {
        (int(shot), fast, slow): tuple(hkl)
        for shot, fast, slow, hkl in zip(
            predicted.reindex.spots.shot,
            predicted.reindex.spots.fast,
            predicted.reindex.spots.slow,
            predicted.reindex.spots.hkl.tolist(),
            strict=True,
        )
    }
    has_spot = np.isfinite(c.reflections.fast_spot)
    rows = has_spot & (c.reflections.choice != Choice.NEIGHBOUR)
    shot = c.lattices.shot[c.reflections.lattice]
    agree = [
        spots[int(shot[row]), c.reflections.fast_spot[row], c.reflections.slow_spot[row]]
        == tuple(c.reflections.hkl[row])
        for row in np.flatnonzero(rows)
    ]
    is_predicted = c.lattices.outcome == PREDICTED
    assert len(agree) > 0.9 * c.lattices.n_spots[is_predicted].sum() > 50
    assert np.mean(agree) > 0.9
    assert store.attributes(predicted.path, Predict)["warnings"] == []


NAMES = (
    "miller_index",
    "panel",
    "xyzobs.px.value",
    "xyzcal.px",
    "delpsical.rad",
    "is_strong",
    "flags",
)


def test_dials_reads_it(predicted):
    """An experiment for each lattice, and its chosen reflections; Δψ by DIALS' own formula."""
    c = predicted.product
    experiments = ExperimentList(predicted.path.with_suffix(".expt"))
    table = reflections.read(predicted.path.with_suffix(".refl"), NAMES)
    lattices = np.flatnonzero(c.lattices.outcome == PREDICTED)
    assert len(experiments) == len(lattices)
    assert len(table.columns["id"]) == np.isin(c.reflections.choice, CHOSEN).sum()
    for number, row in enumerate(lattices):
        experiment = experiments[number]
        rows = table.rows_of(experiment.identifier, -1)
        of_lattice = own(predicted, row)
        chosen = np.isin(of_lattice.choice, CHOSEN)
        found = {name: column[rows] for name, column in table.columns.items()}
        np.testing.assert_allclose(experiment.A, c.lattices.A[row], atol=1e-12)
        np.testing.assert_array_equal(found["miller_index"], of_lattice.hkl[chosen])
        np.testing.assert_array_equal(found["xyzcal.px"][:, 0], of_lattice.fast[chosen])
        is_matched = np.isfinite(of_lattice.slow_spot[chosen])
        np.testing.assert_array_equal(found["is_strong"], is_matched)
        expected = np.where(is_matched, of_lattice.slow_spot[chosen], of_lattice.slow[chosen])
        np.testing.assert_array_equal(found["xyzobs.px.value"][:, 1], expected)
        by_hand = [
            delta_psi(experiment.A @ hkl, experiment.wavelength) for hkl in found["miller_index"]
        ]
        np.testing.assert_allclose(found["delpsical.rad"], by_hand, atol=2e-7)


def delta_psi(q: np.ndarray, wavelength: float) -> float:
    """Return Δψ of a node as DIALS' predictor of stills does (Sauter et al. 2014): the angle from
    where the Ewald sphere passes to the node.
    """
    s0 = np.array([0.0, 0.0, -1.0])
    normal = np.cross(q, s0) / np.linalg.norm(np.cross(q, s0))
    across = np.cross(s0, normal)
    along = 0.5 * wavelength * q @ q
    on_sphere = -along * s0 + np.sqrt(q @ q - along**2) * across
    unit = q / np.linalg.norm(q)
    third = np.cross(unit, normal)
    return -np.arctan2(on_sphere @ third, on_sphere @ unit)


def test_another_seed_draws_other_weak_ones_and_nothing_else(refined_run, tmp_path):
    other = SimpleNamespace(**vars(refined_run))
    other.tree = refined_run.tree | {"seed": 4}
    first, second = (
        run(inputs, tmp_path / f"{number}.h5", min_expected=20.0).reflections.choice
        for number, inputs in enumerate((refined_run, other))
    )
    differs = first != second
    assert differs.any()
    assert np.isin(first[differs], (Choice.WEAK, Choice.LEFT_OUT)).all()
    assert 0 < (first == Choice.WEAK).sum() < 0.3 * (first == Choice.LEFT_OUT).sum()


def test_structure_factors_must_reach_as_far(refined_run, tmp_path):
    message = r"structure_factors\.d_min: expected at most predict\.d_min, 2\.2"
    with pytest.raises(ConfigError, match=message):
        run(refined_run, tmp_path / "predict.h5", d_min=2.2)


def changed(refined_run, folder, unknowns=("scale",), **columns) -> SimpleNamespace:
    """Return the inputs with columns of the lattices of stage 1 replaced."""
    product = store.read(refined_run.stage1, Stage1)
    for name, column in columns.items():
        product.lattices.put(name, column)
    parts = store.Parts(folder / "stage1.h5", Stage1, "other", [[1]])
    parts.write(0, product)
    parts.finish(World(), unknowns=list(unknowns), runs=["tiny"])
    other = SimpleNamespace(**vars(refined_run))
    other.stage1 = folder / "stage1.h5"
    return other


def test_a_smeared_lattice_is_a_neighbour(predicted, refined_run, tmp_path):
    """With a mosaic spread of 1° it would light the whole image: it is taken as reindex had it."""
    eta_rad = predicted.stage1.lattices.eta_rad.copy()
    eta_rad[1] = 1.0 * DEG
    c = run(changed(refined_run, tmp_path, eta_rad=eta_rad), tmp_path / "predict.h5")
    assert c.lattices.outcome.tolist() == [NOT_REFINED, SMEARED, NOT_REFINED, PREDICTED]
    assert c.lattices.eta_rad[1] < 0.5 * DEG
    assert (c.reflections.lattice == 3).all(), "the shot of the smeared one is not opened"


def test_a_lattice_is_predicted_where_stage_1_moved_the_detector(predicted, refined_run, tmp_path):
    """By 0.9 mm in 90 mm: spots move away from the beam by a hundredth of their distance."""
    values = np.full((4, 1), 0.9)
    other = changed(refined_run, tmp_path, ["distance"], values=values)
    moved = run(other, tmp_path / "predict.h5")
    before = positions(predicted.product)
    after = positions(moved)
    common = before.keys() & after.keys()
    assert len(common) > 300
    old, new = (np.array([table[key] for key in common]) - 256.0 for table in (before, after))
    np.testing.assert_allclose(new, 1.01 * old, atol=0.05)


def positions(product: Predict) -> dict:
    """Return lattice and Miller index → predicted fast, of refined lattices."""
    refined = product.reflections[product.reflections.choice != Choice.NEIGHBOUR]
    keys = np.column_stack([refined.lattice, refined.hkl])
    return dict(zip(map(tuple, keys.tolist()), refined.fast, strict=True))


def test_lattices_of_another_trial_are_refused(predicted, refined_run, tmp_path):
    shot_id = predicted.stage1.lattices.shot_id + np.uint64(1)
    with pytest.raises(FileError, match="lattices of reindex; found 4 not_refined"):
        run(changed(refined_run, tmp_path, shot_id=shot_id), tmp_path / "predict.h5")
    assert not (tmp_path / "predict.h5").exists()
