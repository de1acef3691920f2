"""The stage mosaic on lattices whose domains are known: what it learns, whom it tells, and that
each has one end.
"""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from spreadflow.config import Stage1Section, for_stage, parse, section
from spreadflow.errors import ConfigError, FileError, LearnedOutcome
from spreadflow.io import mosaic as mosaic_files
from spreadflow.io import shoebox_blocks, store
from spreadflow.parallel import World
from spreadflow.physics import rotation
from spreadflow.products import Annulus, Mosaic, Stage1
from spreadflow.recipes import patch as patches
from spreadflow.recipes import still
from spreadflow.stages import mosaic as stage
from spreadflow.stages import stage1

pytestmark = pytest.mark.stage

KEYS = {"oversample": 1}
"""as the shoeboxes were made"""
BLANK = 5
"""id of the first lattice without photons"""


@pytest.fixture(scope="module")
def run_with_blanks(packed_run, tmp_path_factory) -> SimpleNamespace:
    """The packed run, and two lattices without photons."""
    path = tmp_path_factory.mktemp("mosaic") / "annulus.h5"
    attributes = store.attributes(packed_run.annulus, Annulus)
    rng = np.random.default_rng(2)
    of_run = store.parts_of(packed_run.annulus, Annulus)
    blocks = [of_run[number].read() for number in (0, 1, 1)]
    blank = blocks[2]
    blank.lattices.shot_id = np.array([BLANK, BLANK + 1], np.uint64)
    blank.pixels.photons = rng.poisson(20.0, len(blank.pixels))
    parts = store.Parts(path, Annulus, "begun", [[1, 2], [3, 4], [BLANK, BLANK + 1]])
    for n, block in enumerate(blocks):
        parts.write(n, block)
    also = ("runs", "space_group", "detectors", "polarizations", "config")
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in also})

    config = for_stage(section(parse(packed_run.tree), "simulate", "r"), "simulate")
    patch = patches.patch(still.Simulator(config), 1, d_min=2.3, d_max=4.0)
    domains = path.with_name("domains.h5")
    with h5py.File(domains, "w") as f:
        f["rotations"] = patch.parameters.mosaic.rotations
    return SimpleNamespace(annulus=path, tree=packed_run.tree, domains=domains)


def run(run_with_blanks, out, **keys) -> Mosaic:
    tree = run_with_blanks.tree | {"mosaic": {**KEYS, **keys}}
    config = for_stage(section(parse(tree), "mosaic"), "mosaic")
    stage.run(config, shoeboxes=run_with_blanks.annulus, out=out, world=World())
    return store.read(out, Mosaic)


def refined(run_with_blanks, out, mosaic=None, **keys) -> Stage1:
    tree = run_with_blanks.tree | {"stage1": {**KEYS, **keys}}
    config = for_stage(section(parse(tree), "stage1"), "stage1")
    stage1.run(config, shoeboxes=run_with_blanks.annulus, mosaic=mosaic, out=out, world=World())
    return store.read(out, Stage1, [Stage1.lattices])


@pytest.fixture(scope="module")
def shared(run_with_blanks, tmp_path_factory):
    """Path and product, learned from all lattices together."""
    out = tmp_path_factory.mktemp("shared") / "mosaic.h5"
    return out, run(run_with_blanks, out)


@pytest.fixture(scope="module")
def alone(run_with_blanks, tmp_path_factory):
    """Path and product of each lattice by itself, one in a part."""
    out = tmp_path_factory.mktemp("alone") / "mosaic.h5"
    return out, run(run_with_blanks, out, scope="per_lattice", range="annulus", block_lattices=1)


def test_a_shared_set_is_every_lattices(shared):
    out, found = shared
    assert found.lattices.shot_id.tolist() == [1, 2, 3, 4, BLANK, BLANK + 1]
    assert (
        found.lattices.outcome.tolist() == [LearnedOutcome.LEARNED] * 4 + [LearnedOutcome.LOST] * 2
    )
    assert store.attributes(out, Mosaic)["outcomes"] == {
        "learned": 4,
        "continuous": 0,
        "left_out": 0,
        "lost": 2,
    }
    assert found.lattices.set.tolist() == [0] * 6
    assert found.sets.lattice.tolist() == [-1]
    assert found.sets.is_better[0]
    lost = found.sets.held_out[0] - found.rounds.held_out[-1]
    gain = found.sets.held_out_continuous[0] - found.sets.held_out[0]
    assert lost < max(1.5, 0.01 * gain), "by components that were merged"
    assert len(found.components) < found.rounds.n_nodes[-1]
    assert np.isfinite(found.lattices.A[:4]).all()
    assert np.isnan(found.lattices.A[4:]).all()

    spread = mosaic_files.read_learned(out)(BLANK, 0)
    assert spread.share.sum() == pytest.approx(1.0)
    assert spread.eta_rad == found.sets.eta_rad[0]
    assert (
        rotation.angle(rotation.nearest(np.einsum("n,nij->ij", spread.share, spread.rotations)))
        < 1e-9
    )


def test_refined_with_it_pixels_are_likelier(run_with_blanks, shared, tmp_path):
    """A refinement with the learned domains comes a good part of the way from the continuous
    distribution to the domains that were simulated, though these are hardly narrower.

    η is that of the set, and no unknown.
    """
    smooth = refined(run_with_blanks, tmp_path / "smooth.h5")
    domains = str(run_with_blanks.domains)
    true = refined(run_with_blanks, tmp_path / "true.h5", mosaicity="domains", domains=domains)
    found = refined(run_with_blanks, tmp_path / "stage1.h5", shared[0], mosaicity="learned")
    smooth_loss, true_loss, loss = (
        product.lattices.loss_after[:4].sum() for product in (smooth, true, found)
    )

    assert smooth_loss - loss > 0.3 * (smooth_loss - true_loss) > 20
    assert store.attributes(tmp_path / "stage1.h5", Stage1)["unknowns"][-1] == "n_cells"
    np.testing.assert_array_equal(found.lattices.eta_rad[:4], shared[1].sets.eta_rad[0])


def test_those_that_teach_are_evenly_chosen(run_with_blanks, shared, tmp_path):
    found = run(run_with_blanks, tmp_path / "mosaic.h5", max_lattices=3)
    ends = [LearnedOutcome.LEARNED, LearnedOutcome.LEFT_OUT, LearnedOutcome.LEARNED]
    ends += [LearnedOutcome.LEFT_OUT, LearnedOutcome.LEFT_OUT, LearnedOutcome.LOST]
    assert found.lattices.outcome.tolist() == ends
    assert found.lattices.set.tolist() == [0] * 6
    assert found.sets.held_out[0] < shared[1].sets.held_out[0], "of fewer shoeboxes"


def test_each_lattice_has_its_own_where_it_is_likelier(run_with_blanks, alone, tmp_path):
    out, found = alone
    better = found.sets.is_better
    assert found.sets.lattice.tolist() == [0, 1, 2, 3]
    assert 1 <= better.sum() < 4

    expected = np.where(better, LearnedOutcome.LEARNED, LearnedOutcome.CONTINUOUS)
    np.testing.assert_array_equal(
        found.lattices.outcome, [*expected, LearnedOutcome.LOST, LearnedOutcome.LOST]
    )
    np.testing.assert_array_equal(found.lattices.set[:4], np.where(better, [0, 1, 2, 3], -1))

    is_likelier = found.sets.held_out < found.sets.held_out_continuous
    np.testing.assert_array_equal(better, is_likelier)

    counts = np.bincount(found.components.set, minlength=4)
    assert np.all((counts > 0) == better)

    shares = np.bincount(found.components.set, found.components.share, 4)
    np.testing.assert_allclose(shares, better)

    after = refined(run_with_blanks, tmp_path / "stage1.h5", out, mosaicity="learned")
    names = store.attributes(tmp_path / "stage1.h5", Stage1)["unknowns"]
    assert names[-1] == "eta", "of those that keep the continuous distribution"
    np.testing.assert_array_equal(np.isfinite(after.lattices.values[:4, -1]), ~better)
    np.testing.assert_array_equal(after.lattices.eta_rad[:4][better], found.sets.eta_rad[better])
    has_sigma = np.isfinite(after.lattices.sigma_fisher[:4, :-1])
    keeps_spots = after.lattices.held_out_gain[:4] <= 0
    assert has_sigma[~keeps_spots].all()
    is_of_pixels = [name.split("_")[0] in ("scale", "n") for name in names[:-1]]
    np.testing.assert_array_equal(
        has_sigma[keeps_spots], np.tile(is_of_pixels, (keeps_spots.sum(), 1))
    )


def test_each_lattice_is_told_its_own_set_and_others_are_not_built(alone, monkeypatch):
    out, found = alone
    built = []
    make = mosaic_files.Mosaic
    monkeypatch.setattr(mosaic_files, "Mosaic", lambda **fields: built.append(1) or make(**fields))
    tell = mosaic_files.read_learned(out)

    assert not built, "before anyone asks"

    shot_ids = found.lattices.shot_id[:4].tolist()
    sets = found.lattices.set[:4]
    for shot_id, n in zip(shot_ids, sets, strict=True):
        spread = tell(shot_id, 0)
        rows = found.components.set == n
        if n < 0:
            assert spread.eta_rad is None
            continue
        np.testing.assert_array_equal(spread.share, found.components.share[rows])
        vectors = rotation.vector(spread.rotations)
        np.testing.assert_allclose(vectors, found.components.rotation_rad[rows], atol=1e-12)
        assert spread.eta_rad == found.sets.eta_rad[n]

    assert len(built) == (sets >= 0).sum()


def test_a_stage_goes_on_where_it_was(run_with_blanks, alone):
    out, before = alone
    files = sorted(out.with_suffix(".parts").iterdir())
    assert len(files) == 6, "a lattice each"

    stamps = {path: path.stat().st_mtime_ns for path in files}
    files[1].unlink()
    out.unlink()
    again = run(run_with_blanks, out, scope="per_lattice", range="annulus", block_lattices=1)

    assert {path for path in files if path.stat().st_mtime_ns == stamps[path]} == {*files} - {
        files[1]
    }
    same(again, before)


def test_other_blocks_make_the_same_lattices(run_with_blanks, alone, tmp_path):
    same(
        run(
            run_with_blanks,
            tmp_path / "mosaic.h5",
            scope="per_lattice",
            range="annulus",
            block_lattices=2,
        ),
        alone[1],
    )


def same(ours: Mosaic, theirs: Mosaic) -> None:
    for name, column in theirs.datasets().items():
        if name != Mosaic.lattices.seconds.path:
            np.testing.assert_array_equal(ours.datasets()[name], column, err_msg=name)


def test_stage1_says_what_it_lacks(shared):
    section = Stage1Section(mosaicity="learned")
    with pytest.raises(ConfigError, match="the product of `mosaic`"):
        mosaic_files.mosaic_of_lattices(section)
    with pytest.raises(
        FileError, match=r"lattice 1 of shot 0000000000000007.*same accepted lattices"
    ):
        mosaic_files.mosaic_of_lattices(section, shared[0])(7, 1)


def test_shoeboxes_of_another_range_are_refused(run_with_blanks, tmp_path):
    with pytest.raises(FileError, match="kind 'wide'"):
        run(run_with_blanks, tmp_path / "mosaic.h5", scope="per_lattice")
