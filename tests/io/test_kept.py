"""What is used again from shot to shot, and from file to file: no shot has pixels of another, no
file the mask of another.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow.config import IndexSection, NoiseSection
from spreadflow.errors import Outcome
from spreadflow.io import images, nexus_writer
from spreadflow.io.images import KeptArrays, Source, stored_masks
from spreadflow.models import Detector, Shot
from spreadflow.products import Index
from spreadflow.recipes import shot as recipe
from spreadflow.recipes.shot_rows import tables_of

ENERGIES_EV = np.array([7100.0, 7110.0])
SHAPE = (2, 24, 40)
MASK = "entry/instrument/detector/pixel_mask"
DETECTOR = Detector(
    origin_mm=np.array([[-2.0, 1, -100], [2.2, 1, -100]]),
    fast=np.tile([1.0, 0, 0], (2, 1)),
    slow=np.tile([0, -1.0, 0], (2, 1)),
    pixel_mm=0.1,
    shape=SHAPE[1:],
)


def frames(n: int, seed: int) -> np.ndarray:
    """ADU (frame, panel, slow, fast) about a level of their own in each frame."""
    rng = np.random.default_rng(seed)
    levels = 20 + 50 * np.arange(n)
    return (rng.poisson(3.0, (n, *SHAPE)) + levels[:, None, None, None]).astype(np.int32)


def mask(seed: int) -> np.ndarray:
    """Pixels that may be used, other ones for each seed."""
    return np.random.default_rng(seed).random(SHAPE) > 0.2


def write(path: Path, adu: np.ndarray, good: np.ndarray, corrupt=()) -> Path:
    """Write an image file, its mask compressed in chunks."""
    n = len(adu)
    stills = nexus_writer.Stills(
        images=adu,
        shot_ids=np.arange(n, dtype=np.uint64),
        energies_ev=ENERGIES_EV,
        photons=np.ones((n, 2)),
        corrupt=corrupt,
    )
    instrument = nexus_writer.Instrument(DETECTOR, 5000, offset_adu=10, mask=good)
    nexus_writer.write(path, stills, instrument)
    return path


def source_of(folder: Path, *files: Path) -> Source:
    """The shots of some files as a run."""
    images.write_manifest(folder / "manifest.json", "run", list(files), offset_adu=10)
    return Source(folder / "manifest.json")


def assert_same(shot: Shot, other: Shot) -> None:
    """Fail where two shots have other pixels."""
    assert shot.shot_id == other.shot_id
    np.testing.assert_array_equal(shot.image, other.image)
    np.testing.assert_array_equal(shot.mask, other.mask)


@pytest.fixture
def run(tmp_path) -> Source:
    """Two files of other pixels and masks; the second frame of the first can't be read, and the
    second file's is one number.
    """
    second = frames(3, 2)
    second[1] = 77
    return source_of(
        tmp_path,
        write(tmp_path / "0.nxs", frames(3, 1), mask(1), corrupt=[1]),
        write(tmp_path / "1.nxs", second, mask(2)),
    )


def test_shots_in_kept_arrays_are_as_in_new_ones(run):
    """In turns, with shots between them that can't be used."""
    kept = KeptArrays()
    for number in (0, 1, 2, 3, 4, 5, 0, 5, 4, 2):
        alone = Source(run.path).read(number)
        shot = run.read(number, kept)
        if isinstance(alone, Outcome):
            assert shot is alone
        else:
            assert isinstance(shot, Shot)
            assert_same(shot, alone)


def test_a_shot_lasts_until_the_next_one_is_read_into_the_same_arrays(run):
    kept = KeptArrays()
    first = run.read(0, kept)
    copy = first._replace(image=first.image.copy(), mask=first.mask.copy())
    assert run.read(1, kept) is Outcome.UNREADABLE
    assert_same(first, copy)
    second = run.read(5, kept)
    assert np.shares_memory(first.image, second.image)
    assert np.shares_memory(first.mask, second.mask)


def test_shots_read_without_kept_arrays_are_the_readers(run):
    """They outlive all others, as do the arrays of another reader."""
    other = KeptArrays()
    first, second = run.read(0), run.read(2, other)
    copies = [np.copy(array) for array in (first.image, first.mask, second.image, second.mask)]
    for number in range(6):
        run.read(number)
        run.read(number, KeptArrays())
    for copy, array in zip(
        copies, (first.image, first.mask, second.image, second.mask), strict=True
    ):
        np.testing.assert_array_equal(array, copy)


def test_frames_of_readers_last(run):
    """Those of a sample, from which a detector is judged, are arrays of their own."""
    path = run.path.parent / "1.nxs"
    file = images.open_image(path)
    held = [file.frame(number) for number in range(3)]
    kept = KeptArrays()
    for number, frame in enumerate(held):
        np.testing.assert_array_equal(file.frame(number, kept), frame)
    assert not np.shares_memory(held[0], held[1])
    np.testing.assert_array_equal(held[0], frames(3, 2)[0])


def test_rows_of_a_shot_outlive_it(run):
    """What indexing returns of a shot holds nothing of the arrays that it was read into."""
    kept = KeptArrays()
    section = IndexSection(cell=[67.2, 59.8, 47.2, 90, 110.3, 90], space_group="C 1 2 1")

    def tables(number: int) -> Index:
        shot = run.read(number, kept)
        shot.image[0, 8:10, 8:10] += 900.0
        result = recipe.index(shot, section, NoiseSection(), run.detector, run.polarization)
        return tables_of(result, {"shot_id": number}, Index)

    first = tables(0)
    copies = {name: column.copy() for name, column in first.spots.as_dict().items()}
    assert len(copies["fast"])
    tables(2)
    kept.empty("image", SHAPE, np.float32)[:] = np.nan
    for name, column in first.spots.as_dict().items():
        np.testing.assert_array_equal(column, copies[name])


def test_arrays_of_other_shapes_and_types_are_new():
    kept = KeptArrays()
    one = kept.empty("adu", (2, 3), np.int32)
    assert kept.empty("adu", (2, 3), np.int32) is one
    assert kept.empty("image", (2, 3), np.int32) is not one
    for other in (kept.empty("adu", (3, 2), np.int32), kept.empty("adu", (3, 2), np.float32)):
        assert not np.shares_memory(one, other)


# ---------------------------------------------------------------- masks


def test_the_same_mask_is_unpacked_once(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{k}.nxs", frames(1, k), mask(3)) for k in range(4)]
    unpacked = []
    numbers = stored_masks.numbers
    monkeypatch.setattr(stored_masks, "numbers", lambda item: unpacked.append(1) or numbers(item))
    monkeypatch.setattr(stored_masks, "LEAST_RATIO", 1)
    stored_masks._held.clear()
    for path in paths:
        file = images.open_image(path)
        np.testing.assert_array_equal(file.mask, mask(3))
        file.mask[:] = False
        file.close()
    assert len(unpacked) == 1


def test_masks_that_differ_anywhere_are_not_shared(tmp_path, monkeypatch):
    """In one pixel, in the type of numbers, in how they are stored; in turns, many of them."""
    monkeypatch.setattr(stored_masks, "LEAST_RATIO", 1)
    values = np.zeros(SHAPE, np.uint32)
    values[0, 3, 4] = 1
    moved = np.roll(values, 20, axis=2)
    stored = {
        "first": (values, {}),
        "another pixel": (moved, {}),
        "another type": (moved.astype(np.uint16), {}),
        "other chunks": (moved, {"chunks": (2, 24, 20)}),
        "no shuffling": (values, {"shuffle": False}),
        "as one": (moved, {"chunks": None, "compression": None, "shuffle": False}),
        "nothing stored": (np.zeros(SHAPE, np.uint32), {}),
    }
    usual = {"chunks": (1, 24, 40), "compression": "gzip", "shuffle": True}
    with h5py.File(tmp_path / "masks.h5", "w") as f:
        for name, (content, settings) in stored.items():
            if name == "nothing stored":
                f.create_dataset(name, SHAPE, np.uint32, fillvalue=7, **usual | settings)
            else:
                f.create_dataset(name, data=content, **usual | settings)
        for _ in range(2):
            for name, (content, _) in stored.items():
                expected = np.ones(SHAPE, bool) if name == "nothing stored" else content != 0
                is_bad = stored_masks.is_nonzero(f[name])
                np.testing.assert_array_equal(is_bad, expected, name)
    assert len(stored_masks._held) <= stored_masks.N_HELD


def test_files_of_a_run_keep_their_own_masks(tmp_path):
    """One file in two has another mask; all of one mask with a pixel of its own for the run."""
    files = [write(tmp_path / f"{k}.nxs", frames(1, k), mask(k % 2)) for k in range(4)]
    run = source_of(tmp_path, *files)
    for number in (0, 1, 2, 3, 1, 0):
        shot = run.read(number)
        np.testing.assert_array_equal(shot.mask, mask(number % 2))

    own = np.zeros(SHAPE, np.uint8)
    own[1, 5, 6] = 1
    with h5py.File(tmp_path / "mask.h5", "w") as f:
        f["mask"] = own
    tree = json.loads(run.path.read_text())
    run.path.write_text(json.dumps(tree | {"mask": "mask.h5"}))
    masked = Source(run.path)
    for number in range(4):
        np.testing.assert_array_equal(masked.read(number).mask, mask(number % 2) & (own == 0))
