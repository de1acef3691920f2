"""One run with every kind of shot: each ends in its own outcome, and the lattices are the true
ones.
"""

import json
import os
import shutil

import h5py
import numpy as np
import pytest

from spreadflow.config import STAGE_CONFIGS, IndexSection, NoiseSection
from spreadflow.errors import FileError, Outcome
from spreadflow.io import images, store
from spreadflow.io.images import Source
from spreadflow.io.lattices import dials_writer
from spreadflow.models import ReflectionFlag
from spreadflow.parallel import World
from spreadflow.physics import geometry, rotation, symmetry
from spreadflow.products import Index, Reindex
from spreadflow.recipes import shot as recipe
from spreadflow.recipes.shot_rows import tables_of
from spreadflow.stages import index, shots

pytestmark = pytest.mark.stage

OUTCOMES = [
    Outcome.INDEXED,
    Outcome.BLANK,
    Outcome.SATURATED,
    Outcome.EMPTY,
    Outcome.UNREADABLE,
    Outcome.BAD_SPECTRUM,
    Outcome.INDEXED,
    Outcome.INDEXED,
]


RECORDING = NoiseSection(calibration_error=0.0)


def section(tiny_run, **changes) -> IndexSection:
    how = {
        "d_min": 2.4,
        "domain_ang": 1500.0,
        "block_shots": 3,
        "n_directions": 4096,
    }
    return IndexSection(
        cell=tiny_run["cell"], space_group=tiny_run["space_group"], **(how | changes)
    )


def run(tiny_run, out, word="index", geometry=None, **changes):
    config = STAGE_CONFIGS[word](**{word: section(tiny_run, **changes)}, recording=RECORDING)
    index.run(
        config, images=tiny_run["manifest"], geometry=geometry, out=out, world=World(1), word=word
    )


@pytest.fixture(scope="module")
def product(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "index.h5"
    run(tiny_run, out)
    return out


def test_every_shot_has_its_outcome(product):
    indexed = store.read(product, Index)
    attributes = store.attributes(product, Index)
    assert [Outcome(x) for x in indexed.shots.outcome] == OUTCOMES
    assert attributes["outcomes"] == {
        o.name.lower(): OUTCOMES.count(o) for o in sorted(set(OUTCOMES))
    }
    assert sum(attributes["outcomes"].values()) == len(OUTCOMES)
    assert list(indexed.shots.n_lattices) == [1, 0, 0, 0, 0, 0, 2, 1]
    assert np.all(indexed.shots.seconds > 0)


def test_tables_refer_to_each_other(product):
    indexed = store.read(product, Index)
    n = np.bincount(indexed.spots.shot, minlength=len(OUTCOMES))
    np.testing.assert_array_equal(n, indexed.shots.n_spots)
    np.testing.assert_array_equal(indexed.lattices.shot, [0, 6, 6, 7])
    np.testing.assert_array_equal(indexed.lattices.k, [0, 0, 1, 0])
    np.testing.assert_array_equal(
        indexed.lattices.shot_id, indexed.shots.shot_id[indexed.lattices.shot]
    )

    lattice = indexed.spots.lattice
    np.testing.assert_array_equal(
        np.bincount(lattice[lattice >= 0], minlength=4), indexed.lattices.n_indexed
    )
    np.testing.assert_array_equal(
        indexed.lattices.shot[lattice[lattice >= 0]], indexed.spots.shot[lattice >= 0]
    )
    assert np.all(indexed.spots.hkl.any(axis=1) == (lattice >= 0))
    assert set(indexed.reflections.lattice) == {0, 1, 2, 3}


def partners(indexed, tiny_run):
    """Return for each lattice found the nearest true matrix of its shot, the photons of that one
    by Miller index, the angle between the two in degrees, and the row of the true one.
    """
    out = []
    for A, shot in zip(indexed.lattices.A, indexed.lattices.shot, strict=True):
        angles = [
            symmetry.misorientation(A, true, tiny_run["space_group"])
            for true in tiny_run["A"][shot]
        ]
        best = int(np.argmin(angles))
        out.append(
            (
                tiny_run["A"][shot][best],
                tiny_run["photons"][shot][best],
                np.rad2deg(angles[best]),
                best,
            )
        )
    return out


def test_lattices_are_the_true_ones(product, tiny_run):
    found = partners(store.read(product, Index), tiny_run)
    assert max(angle for _, _, angle, _ in found) < 0.03
    assert {best for *_, best in found[1:3]} == {0, 1}, "the double hit is two crystals"


def test_intensities_are_the_true_ones(product, tiny_run):
    indexed = store.read(product, Index)
    pulls = []
    for k, (A, photons, _, _) in enumerate(partners(indexed, tiny_run)):
        turn = symmetry.same_indices(indexed.lattices.A[k], A, tiny_run["space_group"])
        rows = (indexed.reflections.lattice == k) & (indexed.reflections.flags == 0)
        expected = np.array(
            [photons.get(tuple(turn @ h), 0.0) for h in indexed.reflections.hkl[rows]]
        )
        pulls.append(
            (indexed.reflections.intensity[rows] - expected) / indexed.reflections.sigma[rows]
        )
    pulls = np.concatenate(pulls)

    assert len(pulls) > 150
    assert abs(np.mean(pulls)) < 0.25
    assert 0.8 < np.std(pulls) < 1.2


def test_lattices_of_a_shot_know_each_other(product, tiny_run):
    """Crossing footprints are flagged on the double hit."""
    indexed = store.read(product, Index)
    double = np.isin(indexed.reflections.lattice, [1, 2])
    overlaps = (indexed.reflections.flags & ReflectionFlag.OVERLAP) > 0
    assert overlaps[double].mean() > overlaps[~double].mean()
    assert overlaps[double].any()


def test_a_lattice_without_signal_is_refused_and_counted(tiny_run, monkeypatch):
    """One that is turned by 1.5° fits some spots: alone it leaves the shot without a lattice,
    beside the true one it is left out.
    """
    source = Source(tiny_run["manifest"])
    still = source.read(0)
    how = (section(tiny_run), RECORDING, source.detector, source.polarization)
    true = recipe.index(still, *how)
    (lattice,) = true.lattices
    assert true.n_refused == 0 and true.evidences[0].share_signal > 0.6

    turn = rotation.from_vector(np.deg2rad([0.9, -0.9, 0.8]))
    wrong = lattice._replace(A=turn @ lattice.A)
    monkeypatch.setattr(recipe, "_find_lattices", lambda *_: [wrong])
    alone = recipe.index(still, *how)
    assert alone.outcome == Outcome.NO_LATTICE
    assert alone.n_refused == 1 and not alone.lattices

    monkeypatch.setattr(recipe, "_find_lattices", lambda *_: [wrong, lattice])
    both = recipe.index(still, *how)
    assert both.outcome == Outcome.INDEXED
    assert both.n_refused == 1
    np.testing.assert_array_equal(both.lattices[0].A, lattice.A)
    np.testing.assert_array_equal(both.reflections.intensity, true.reflections.intensity)
    (share,) = tables_of(both, {"shot_id": 7}, Index).lattices.share_signal
    assert share == true.evidences[0].share_signal


def test_lattices_that_contradict_the_section_are_told():
    def values(*counts: int) -> list:
        warnings = shots.warnings_of(shots.LatticeCounts(*counts), 3000.0)
        return [warning.value for warning in warnings]

    assert values(1, 3, 0) == values(4, 100, 10) == values(0, 0, 0) == []
    assert values(6, 94, 0) == ["6 of 100"]
    assert values(0, 100, 60) == ["60 of 100"]


def test_reflections_beyond_the_signal_are_flagged(product):
    indexed = store.read(product, Index)
    limit = indexed.lattices.d_min[indexed.reflections.lattice]
    is_beyond = indexed.reflections.flags & ReflectionFlag.BEYOND != 0
    np.testing.assert_array_equal(is_beyond, indexed.reflections.d < limit - 1e-6)


def test_attributes_describe_the_run(product, tiny_run):
    attributes = store.attributes(product, Index)
    assert attributes["run"] == "tiny"
    assert attributes["manifest"] == str(tiny_run["manifest"])
    assert attributes["config"] == json.loads(section(tiny_run).model_dump_json())
    assert attributes["inputs"]["images"] == Source(tiny_run["manifest"]).identity
    assert attributes["inputs"]["geometry"] is None

    detector = Source(tiny_run["manifest"]).detector
    np.testing.assert_allclose(attributes["detector"]["origin_mm"], detector.origin_mm)


def test_reindex_takes_geometry_and_its_own_section(tiny_run, tmp_path):
    """A geometry moved by half a pixel moves the lattices; the section is reindex's."""
    moved = geometry.shifted(Source(tiny_run["manifest"]).detector, 0.15, 0.0, 0.0)
    dials_writer.write_expt(tmp_path / "level0.expt", moved, wavelength=1.743)
    run(
        tiny_run,
        tmp_path / "reindex.h5",
        "reindex",
        tmp_path / "level0.expt",
        block_shots=8,
        max_lattices=1,
    )
    indexed = store.read(tmp_path / "reindex.h5", Reindex)
    attributes = store.attributes(tmp_path / "reindex.h5", Reindex)

    np.testing.assert_allclose(attributes["detector"]["origin_mm"], moved.origin_mm)
    assert len(store.parts_of(tmp_path / "reindex.h5", Reindex)) == 1
    assert indexed.shots.n_lattices.max() == 1

    angles = [angle for *_, angle, _ in partners(indexed, tiny_run)]
    assert min(angles) > 0.01, "the wrong geometry shows"


def test_finished_parts_are_not_touched(tiny_run, tmp_path):
    out = tmp_path / "index.h5"
    run(tiny_run, out)
    parts = sorted(out.with_suffix(".parts").iterdir())
    assert len(parts) == 3

    before = [p.stat().st_mtime_ns for p in parts]
    whole = store.read(out, Index)
    os.unlink(out)
    os.unlink(parts[1])
    run(tiny_run, out)
    after = [p.stat().st_mtime_ns for p in parts]

    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]

    again = store.read(out, Index)
    whole.shots.seconds = again.shots.seconds
    for path, column in whole.datasets().items():
        np.testing.assert_array_equal(again.datasets()[path], column, err_msg=path)


def test_another_config_remakes_every_part(tiny_run, tmp_path):
    out = tmp_path / "index.h5"
    run(tiny_run, out, max_lattices=1)
    run(tiny_run, out, spots={"min_spots": 1000})
    outcomes = store.read(out, Index, [Index.shots.outcome]).shots.outcome
    assert [Outcome(x) for x in outcomes[[0, 6, 7]]] == [Outcome.BLANK] * 3


def test_limits_on_spots_and_lattices(tiny_run, tmp_path):
    run(tiny_run, tmp_path / "a.h5", spots={"max_spots": 15, "min_spots": 1})
    outcomes = store.read(tmp_path / "a.h5", Index, [Index.shots.outcome]).shots.outcome
    assert Outcome(outcomes[0]) == Outcome.OVERFLOW

    run(tiny_run, tmp_path / "b.h5", min_indexed=500)
    indexed = store.read(tmp_path / "b.h5", Index)
    assert [Outcome(x) for x in indexed.shots.outcome[[0, 1, 6]]] == [
        Outcome.NO_LATTICE,
        Outcome.BLANK,
        Outcome.NO_LATTICE,
    ]
    assert len(indexed.lattices) == 0
    assert len(indexed.reflections) == 0


def test_wrong_input_is_an_error(tiny_run, tmp_path):
    with pytest.raises(FileError, match="manifest"):
        run({**tiny_run, "manifest": tmp_path / "none.json"}, tmp_path / "index.h5")
    with h5py.File(tmp_path / "mask.h5", "w") as f:
        f["mask"] = np.zeros((3, 4))
    with pytest.raises(FileError, match="mask"):
        run(tiny_run, tmp_path / "index.h5", mask=tmp_path / "mask.h5")
    assert not (tmp_path / "index.h5").exists()


def test_files_without_spectra_show_their_bandwidth(tiny_run, product, tmp_path):
    """The pulses of 0.20 % FWHM are told from the spots of four lattices, with a warning; files
    with spectra are not asked.
    """
    stills = tmp_path / "tiny.h5"
    shutil.copyfile(tiny_run["manifest"].parent / "tiny.h5", stills)
    with h5py.File(stills, "r+") as f:
        beam = f["entry/instrument/beam"]
        for name in ("", "_weight", "_weights"):
            del beam[f"incident_wavelength_1Dspectrum{name}"]
    images.write_manifest(tmp_path / "manifest.json", "tiny", [stills])
    run(tiny_run | {"manifest": tmp_path / "manifest.json"}, tmp_path / "index.h5")
    attributes = store.attributes(tmp_path / "index.h5", Index)

    assert attributes["bandwidth"]["n_lattices"] >= 3
    assert attributes["bandwidth"]["fwhm"] == pytest.approx(0.0020, rel=0.3)
    (warning,) = attributes["warnings"]
    assert "--bandwidth" in warning["todo"]

    with_spectra = store.attributes(product, Index)
    assert with_spectra["bandwidth"] is None
    assert with_spectra["warnings"] == []


def test_hot_pixels_do_not_hide_lattices(tiny_run, product, tmp_path):
    """Forty pairs of them, in the same places in all images and in no mask."""
    stills = tmp_path / "tiny.h5"
    shutil.copyfile(tiny_run["manifest"].parent / "tiny.h5", stills)
    rows = [row for row, end in enumerate(OUTCOMES) if end == Outcome.INDEXED]
    with h5py.File(stills, "r+") as f:
        frames = f["entry/data/data"]
        hot = f["entry/instrument/detector/saturation_value"][()] - 1
        rng = np.random.default_rng(5)
        n_slow, n_fast = frames.shape[1:]
        places = np.column_stack([rng.integers(5, n_slow - 5, 40), rng.integers(5, n_fast - 5, 40)])
        for row in rows:
            frame = frames[row]
            for slow, fast in places:
                frame[slow, fast : fast + 2] = hot
            frames[row] = frame
    images.write_manifest(tmp_path / "manifest.json", "tiny", [stills])
    run(tiny_run | {"manifest": tmp_path / "manifest.json"}, tmp_path / "index.h5")
    tables = [Index.shots, Index.lattices]
    spoilt = store.read(tmp_path / "index.h5", Index, tables)
    sound = store.read(product, Index, tables)
    n_more = spoilt.shots.n_spots[rows] - sound.shots.n_spots[rows]
    assert (n_more > 20).all()
    assert spoilt.lattices.shot.tolist() == sound.lattices.shot.tolist()
    for spoilt_A, sound_A in zip(spoilt.lattices.A, sound.lattices.A, strict=True):
        turn = symmetry.misorientation(spoilt_A, sound_A, tiny_run["space_group"])
        assert np.rad2deg(turn) < 0.02
