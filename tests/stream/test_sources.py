"""Sources of shots: what they yield, whoever reads it, and what is wrong with files."""

import h5py
import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.stream.speckle import SimulatedShots, Speckle, arrivals
from spreadflow.stream.stacks import Stacks

SPECKLE = Speckle(
    n_shots=300,
    shape=(3, 4),
    mean_photons=2.0,
    decay=0.1,
    n_modes=1,
    is_poisson=True,
    missing=0.2,
    duplicate=0.1,
    disordered=0.2,
    disorder_shots=5,
    late=0.05,
    late_shots=100,
    n_dead=2,
    n_saturated=1,
    saturated=1000.0,
    seed=3,
)


def everything(source, n_readers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and images of all blocks, in the order of the blocks."""
    readers = [
        [
            block._replace(images=block.images.copy())
            for block in source.blocks(k, n_readers, lambda _event: True)
        ]
        for k in range(n_readers)
    ]
    blocks = [
        readers[n % n_readers][n // n_readers] for n in range(sum(len(own) for own in readers))
    ]
    ids = np.concatenate([block.shot_ids for block in blocks])
    return ids, np.concatenate([block.images for block in blocks])


def test_simulated_shots_are_the_same_for_any_number_of_readers():
    source = SimulatedShots(SPECKLE, 32)
    ids, images = everything(source)
    for n_readers in (2, 3):
        other_ids, other_images = everything(source, n_readers)
        np.testing.assert_array_equal(other_ids, ids)
        np.testing.assert_array_equal(other_images, images)
    np.testing.assert_array_equal(ids, arrivals(SPECKLE))


def test_simulated_shots_have_what_goes_wrong():
    ids, images = everything(SimulatedShots(SPECKLE, 32))
    distinct, number = np.unique(ids, return_counts=True)
    assert 220 < len(distinct) < 260  # a fifth is missing
    assert 10 < np.count_nonzero(number == 2) < 45
    behind = np.maximum.accumulate(ids) - ids
    assert np.count_nonzero(behind > 50) > 3  # late
    assert np.count_nonzero((behind > 0) & (behind < 10)) > 20  # out of order
    flat = images.reshape(len(ids), -1)
    assert not flat[:, :2].any()
    assert flat[:, -1].max() == 1000
    for time in distinct[number == 2]:
        first, second = flat[ids == time]
        np.testing.assert_array_equal(first, second)


@pytest.fixture
def stacks(tmp_path):
    """Two HDF5 files of 5 and 4 images with ids."""
    images = np.random.default_rng(2).integers(0, 9, (9, 2, 3))
    ids = np.array([3, 4, 7, 6, 8, 20, 21, 22, 23])
    for name, part in (("a.h5", slice(0, 5)), ("b.h5", slice(5, 9))):
        with h5py.File(tmp_path / name, "w") as file:
            file["entry/images"] = images[part]
            file["entry/ids"] = ids[part]
    return [tmp_path / "a.h5", tmp_path / "b.h5"], ids, images


@pytest.mark.parametrize("n_readers", [1, 2])
def test_blocks_run_over_the_ends_of_files(stacks, n_readers):
    paths, ids, images = stacks
    source = Stacks(paths, dataset="entry/images", shot_ids="entry/ids", block_shots=4)
    read_ids, read_images = everything(source, n_readers)
    np.testing.assert_array_equal(read_ids, ids)
    np.testing.assert_array_equal(read_images, images)


def test_shots_are_counted_where_no_ids_are_named_and_cut_where_few_are_wanted(stacks):
    paths, _, images = stacks
    source = Stacks(paths, dataset="entry/images", shot_ids=None, block_shots=4, n_shots=6)
    read_ids, read_images = everything(source)
    np.testing.assert_array_equal(read_ids, np.arange(6))
    np.testing.assert_array_equal(read_images, images[:6])


def test_a_refused_shot_is_not_read(stacks):
    paths, ids, _ = stacks
    source = Stacks(paths, dataset="entry/images", shot_ids="entry/ids", block_shots=20)
    (block,) = source.blocks(0, 1, lambda event: event.shot_id % 2 == 0)
    np.testing.assert_array_equal(block.is_valid, ids % 2 == 0)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"dataset": "entry/nothing", "shot_ids": None}, "images in entry/nothing"),
        ({"dataset": "entry/images", "shot_ids": "entry/images"}, "5 whole numbers"),
        ({"dataset": "entry/images", "shot_ids": "entry/no"}, "entry/no"),
    ],
)
def test_files_without_what_is_named_are_refused(stacks, keys, expected):
    paths, *_ = stacks
    with pytest.raises(FileError, match=expected):
        Stacks(paths, block_shots=4, **keys)


def test_files_of_images_are_read_in_photons(tiny_run):
    path = tiny_run["manifest"].parent / "tiny.h5"
    source = Stacks([path], dataset=None, shot_ids=None, block_shots=8)
    (block,) = source.blocks(0, 1, lambda _event: True)
    assert block.images.shape == (8, 1, 512, 512)
    assert block.is_valid.sum() == 7  # one of them does not decompress
    assert abs(np.median(block.images[1]) - 4.0) <= 1.0  # of the background, without the pedestal
