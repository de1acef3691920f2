"""`spreadflow export`: which lattices and reflections of each product are written, and what can't
be.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from spreadflow import cli
from spreadflow.errors import FileError, RefinedOutcome, SpreadOutcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.io.lattices.pairs import Pair
from spreadflow.io.lattices.product import ProductLattices
from spreadflow.models import Choice, ReflectionFlag
from spreadflow.parallel import World
from spreadflow.physics import geometry
from spreadflow.products import Predict, Reindex, Stage1
from spreadflow.units import wavelength

pytestmark = pytest.mark.stage


@pytest.fixture
def trial(refined_run, tmp_path) -> Path:
    """A folder as that of a trial, with the products of one run."""
    folder = tmp_path / "trial"
    (folder / "tiny").mkdir(parents=True)
    shutil.copy(refined_run.reindex, folder / "tiny" / "reindex.h5")
    parts = refined_run.reindex.with_suffix(".parts")
    shutil.copytree(parts, folder / "tiny" / "reindex.parts")
    return folder


def exported(product: Path, out: Path, *more: object) -> Pair:
    words = ["export", product, "--to", "dials", "--out", out, *more]
    assert cli.main([*map(str, words)]) == 0
    return Pair(f"{out}.expt", f"{out}.refl")


def test_lattices_of_reindex_are_written_with_their_sound_reflections(trial, refined_run, capsys):
    """Observed where a spot has their Miller index, with its variance."""
    pair = exported(trial / "tiny" / "reindex.h5", trial / "ours")
    assert capsys.readouterr().out.split() == [f"{trial}/ours.expt", f"{trial}/ours.refl"]
    product = store.read(refined_run.reindex, Reindex)
    source = Source(refined_run.manifest)
    assert len(pair) == len(product.lattices) == 4
    for row in range(4):
        lattice = pair[row]
        shot = product.lattices.shot[row]
        assert (
            lattice.identifier == f"{product.lattices.shot_id[row]:016x}-{product.lattices.k[row]}"
        )
        assert lattice.image == refined_run.manifest.parent / "tiny.h5"
        assert lattice.frame == source.shots["frame"][shot]
        assert lattice.wavelength == wavelength(product.shots.mean_energy_ev[shot])
        np.testing.assert_allclose(lattice.A, product.lattices.A[row], rtol=0, atol=1e-15)
        own = product.reflections[product.reflections.lattice == row]
        own = own[own.flags & ReflectionFlag.FAILED == 0]
        np.testing.assert_array_equal(lattice.reflections.hkl, own.hkl)
        np.testing.assert_array_equal(lattice.reflections.intensity, own.intensity)
        spots = product.spots[product.spots.lattice == row]
        by_index = {
            tuple(hkl): position
            for hkl, *position in zip(spots.hkl.tolist(), spots.fast, spots.slow, strict=True)
        }
        at = zip(own.hkl.tolist(), own.fast, own.slow, strict=True)
        expected = [by_index.get(tuple(hkl), position) for hkl, *position in at]
        columns = (lattice.reflections.fast_obs, lattice.reflections.slow_obs)
        np.testing.assert_array_equal(np.stack(columns, axis=1), expected)
        assert len(set(by_index) & set(map(tuple, own.hkl.tolist()))) > 10


def test_variances_are_those_of_the_spots(refined_run):
    """They are in px², and there is none where there is no spot."""
    product = store.read(refined_run.reindex, Reindex)
    first = next(iter(ProductLattices(refined_run.reindex))).reflections
    spots = product.spots[product.spots.lattice == 0]
    known = dict(zip(map(tuple, spots.hkl.tolist()), spots.variance_slow, strict=True))
    expected = [known.get(tuple(hkl), np.nan) for hkl in first.hkl.tolist()]
    np.testing.assert_array_equal(first.variance_obs[:, 1], expected)
    np.testing.assert_array_equal(np.isfinite(first.fast_obs), np.isfinite(expected))


def plant_stage1(trial: Path, refined_run, filled) -> None:
    """Write a product of stage 1 with three reflections of its second lattice, one of them without
    photons, and the detector 2 mm farther away.
    """
    lattices = store.read(refined_run.stage1, Stage1).lattices
    names = ("outcome", "shot_id", "k", "A")
    planted = {f"lattices/{name}": lattices.as_dict()[name] for name in names}
    planted |= {
        "lattices/values": np.array([[0.0, 2.0]] * 4),
        "reflections/lattice": [1, 1, 1],
        "reflections/hkl": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "reflections/fast": [10.0, np.nan, 30.0],
        "reflections/slow": [11.0, np.nan, 31.0],
        "reflections/fast_obs": [np.nan, np.nan, 30.5],
        "reflections/slow_obs": [np.nan, np.nan, 31.5],
    }
    sizes = {"lattices": 4, "reflections": 3, "unknown": 2}
    parts = store.Parts(trial / "stage1.h5", Stage1, "planted", [[1]])
    parts.write(0, filled("stage1", sizes, planted))
    parts.finish(World(), unknowns=["scale", "distance"], runs=["tiny"])


def test_refined_lattices_of_stage_1_are_written(trial, refined_run, filled):
    """Two of four, with the reflections that the model has photons of and the detector where the
    lattice has it.
    """
    plant_stage1(trial, refined_run, filled)
    pair = exported(trial / "stage1.h5", trial / "ours")
    lattices = store.read(refined_run.stage1, Stage1).lattices
    rows = np.flatnonzero(lattices.outcome == RefinedOutcome.REFINED)
    assert len(pair) == len(rows) == 2 and rows[0] == 1
    assert pair[0].reflections.hkl.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert pair[0].reflections.fast_obs.tolist() == [10.0, 30.5]
    assert pair[0].reflections.intensity is None
    detector = Source(refined_run.manifest).detector
    away = geometry.distances_mm(pair[0].detector) - geometry.distances_mm(detector)
    np.testing.assert_allclose(away, 2.0)


def test_stage_2_has_those_of_predict_that_it_used(trial, refined_run, filled):
    """The reflections are those that predict chose."""
    lattices = store.read(refined_run.stage1, Stage1).lattices
    rows = np.flatnonzero(lattices.outcome == RefinedOutcome.REFINED)
    identity = {f"lattices/{name}": lattices.as_dict()[name][rows] for name in ("shot_id", "k")}
    planted = identity | {
        "lattices/A": lattices.A[rows],
        "reflections/lattice": [0, 1, 1],
        "reflections/choice": [Choice.STRONG, Choice.WEAK, Choice.LEFT_OUT],
        "reflections/hkl": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    }
    parts = store.Parts(trial / "predict.h5", Predict, "planted", [[1]])
    parts.write(0, filled("predict", {"lattices": 2, "reflections": 3}, planted))
    parts.finish(World(), runs=["tiny"])
    used = identity | {"lattices/outcome": [SpreadOutcome.LOST, SpreadOutcome.USED]}
    store.write(trial / "stage2.h5", filled("stage2", {"lattices": 2}, used), key="stage2")
    assert len(exported(trial / "predict.h5", trial / "ours")) == 2
    pair = exported(trial / "stage2.h5", trial / "ours")
    assert len(pair) == 1
    assert pair[0].identifier == f"{lattices.shot_id[rows[1]]:016x}-{lattices.k[rows[1]]}"
    assert pair[0].reflections.hkl.tolist() == [[4, 5, 6]]


def test_images_that_were_moved_are_named(trial, refined_run, tmp_path):
    """By the manifest where it is now."""
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(refined_run.manifest, moved)
    product = trial / "tiny" / "reindex.h5"
    pair = exported(product, trial / "ours", "--images", moved / "manifest.json")
    assert pair[0].image == moved / "tiny.h5"
    with pytest.raises(FileError, match="a manifest for each of 1 runs; found 2"):
        ProductLattices(product, images=[moved / "manifest.json"] * 2)


def test_products_and_images_of_another_run_are_refused(trial, refined_run, filled, tmp_path):
    plant_stage1(trial, refined_run, filled)
    product = store.read(trial / "stage1.h5", Stage1)
    product.lattices.shot_id = product.lattices.shot_id + np.uint64(1)
    parts = store.Parts(trial / "stage1.h5", Stage1, "other", [[1]])
    parts.write(0, product)
    parts.finish(World(), unknowns=["scale", "distance"], runs=["tiny"])
    with pytest.raises(FileError, match=r"reindex.h5: expected shot \w{16} of the product"):
        list(ProductLattices(trial / "stage1.h5"))
    text = refined_run.manifest.read_text().replace('"run": "tiny"', '"run": "other"')
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(FileError, match=r"the manifest of run 'tiny'.*found run 'other'"):
        ProductLattices(trial / "stage1.h5", images=[tmp_path / "other.json"])


def test_what_has_no_lattices_is_refused(trial, refined_run, filled, capsys):
    store.write(trial / "merge.h5", filled("merge", {}, {}), key="merge")
    assert cli.main(["export", f"{trial}/merge.h5", "--to", "dials"]) == 4
    assert "a product of index, reindex, stage1, predict, stage2" in capsys.readouterr().err
    assert cli.main(["export", f"{trial}/nothing.h5", "--to", "dials"]) == 4
    assert "a product; found nothing" in capsys.readouterr().err
    plant_stage1(trial, refined_run, filled)
    (trial / "tiny" / "reindex.h5").unlink()
    assert cli.main(["export", f"{trial}/stage1.h5", "--to", "dials"]) == 4
    assert "tiny/reindex.h5" in capsys.readouterr().err
