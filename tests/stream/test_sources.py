"""Sources of shots: what they yield, whoever reads it, and what is wrong with files."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.stream.shots import MOST_CAUSES, Filling, Unreadable
from spreadflow.stream.speckle import SimulatedShots, Speckle, arrivals, components
from spreadflow.stream.stacks import Datasets, Stacks

SPECKLE = Speckle(
    n_shots=300,
    shape=(3, 4),
    mean_photons=2.0,
    decay=0.1,
    n_modes=1,
    stretch=1.0,
    noise="poisson",
    noise_photons=0.0,
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


def any_event(_event) -> bool:
    """Accept every shot."""
    return True


def everything(source, n_readers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and images of all blocks, in the order of the blocks."""
    readers = [
        [
            block._replace(images=block.images.copy())
            for block in source.blocks(k, n_readers, any_event)
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
    for shot_id in distinct[number == 2]:
        first, second = flat[ids == shot_id]
        np.testing.assert_array_equal(first, second)


def test_a_stretched_decay_is_a_sum_of_exponentials():
    for stretch in (0.5, 0.8, 1.0):
        rates, weights = components(0.02, stretch)
        times = np.arange(400)
        field = np.exp(-np.outer(times, rates)) @ weights
        np.testing.assert_allclose(field, np.exp(-((0.02 * times) ** stretch)), atol=2e-3)
        assert (rates > 0).all()


@pytest.mark.stage
def test_simulated_speckle_decays_as_stretched(tmp_path):
    speckle = SPECKLE._replace(
        n_shots=4000,
        shape=(20, 20),
        decay=0.05,
        stretch=0.6,
        noise="none",
        missing=0.0,
        duplicate=0.0,
        disordered=0.0,
        late=0.0,
        n_dead=0,
        n_saturated=0,
    )
    _, images = everything(SimulatedShots(speckle, 500))
    pixels = images.reshape(len(images), -1).astype(float)
    pixels /= pixels.mean()
    for delay in (1, 5, 20, 60):
        contrast = (pixels[:-delay] * pixels[delay:]).mean(axis=0) - 1
        sigma = contrast.std() / len(contrast) ** 0.5
        expected = np.exp(-2 * (0.05 * delay) ** 0.6)
        assert abs(contrast.mean() - expected) < 4 * sigma + 0.002


def test_simulated_noise_is_as_stated():
    quiet = SPECKLE._replace(n_dead=0, n_saturated=0, noise="none")
    _, expected = everything(SimulatedShots(quiet, 32))
    _, noisy = everything(SimulatedShots(quiet._replace(noise="gaussian", noise_photons=0.5), 32))
    _, counted = everything(SimulatedShots(quiet._replace(noise="poisson"), 32))
    n = expected.size
    assert abs((noisy - expected).std() - 0.5) < 4 * 0.5 / (2 * n) ** 0.5
    scatter = ((counted - expected) ** 2 / np.maximum(expected, 1e-3)).mean()
    assert 0.8 < scatter < 1.2
    assert (counted == np.rint(counted)).all()


@pytest.fixture
def stacks(tmp_path):
    """Two HDF5 files of 5 and 4 images with ids and a monitor."""
    images = np.random.default_rng(2).integers(0, 9, (9, 2, 3))
    ids = np.array([3, 4, 7, 6, 8, 20, 21, 22, 23])
    for name, part in (("a.h5", slice(0, 5)), ("b.h5", slice(5, 9))):
        with h5py.File(tmp_path / name, "w") as file:
            file["entry/images"] = images[part]
            file["entry/ids"] = ids[part]
            file["entry/i0"] = ids[part] / 2
    return [str(tmp_path / "a.h5"), str(tmp_path / "b.h5")], ids, images


IDS = Datasets("entry/images", "entry/ids")
COUNTED = Datasets("entry/images")


@pytest.mark.parametrize("n_readers", [1, 2])
def test_blocks_run_over_the_ends_of_files(stacks, n_readers):
    paths, ids, images = stacks
    read_ids, read_images = everything(Stacks(paths, IDS, block_shots=4), n_readers)
    np.testing.assert_array_equal(read_ids, ids)
    np.testing.assert_array_equal(read_images, images)


def test_shots_are_counted_where_no_ids_are_named_and_cut_where_few_are_wanted(stacks):
    paths, _, images = stacks
    read_ids, read_images = everything(Stacks(paths, COUNTED, block_shots=4, n_shots=6))
    np.testing.assert_array_equal(read_ids, np.arange(6))
    np.testing.assert_array_equal(read_images, images[:6])


def test_a_refused_shot_is_not_read(stacks):
    paths, ids, _ = stacks
    source = Stacks(paths, IDS, block_shots=20)
    (block,) = source.blocks(0, 1, lambda event: event.shot_id % 2 == 0)
    np.testing.assert_array_equal(block.is_valid, ids % 2 == 0)


def test_a_shot_is_judged_by_what_was_recorded_with_it(stacks):
    paths, ids, _ = stacks
    source = Stacks(paths, IDS._replace(monitors={"i0": "entry/i0"}), block_shots=20)
    (block,) = source.blocks(0, 1, lambda event: event.monitors["i0"] > 3)
    np.testing.assert_array_equal(block.is_valid, ids > 6)
    assert [event.number for event in block.events] == list(range(9))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (Datasets("entry/nothing"), "images in entry/nothing"),
        (Datasets("entry"), "images in entry, .* a group"),
        (Datasets("entry/ids"), "images in entry/ids, .* int64 of shape"),
        (Datasets("complex"), "images in complex, .* complex128"),
        (Datasets("text"), "images in text, .* object of shape"),
        (Datasets("entry/images", "entry"), "shot_ids"),
        (Datasets("entry/images", "late"), "whole numbers up to 9223372036854775807"),
        (Datasets("entry/images", None, {"x": "entry"}), "monitors.x"),
        (Datasets("entry/images", "entry/i0"), "whole numbers in entry/i0"),
        (Datasets("entry/images", "entry/no"), "entry/no"),
        (Datasets("entry/images", None, {"x": "entry/no"}), "monitors.x"),
        (Datasets("entry/images", None, {"x": "one"}), "for each of 5 images"),
    ],
)
def test_files_without_what_is_named_are_refused(stacks, keys, expected):
    paths, *_ = stacks
    with h5py.File(paths[0], "r+") as file:
        file["one"] = [1]
        file["complex"] = np.ones((5, 2, 3), complex)
        file["text"] = [["a", "b", "c"]] * 5
        file["late"] = np.full(5, 2**63, np.uint64)
    with pytest.raises(FileError, match=expected):
        Stacks(paths, keys, block_shots=4)


@pytest.mark.parametrize("n_readers", [1, 2])
def test_a_damaged_file_costs_one_shot_and_says_why(stacks, tmp_path, n_readers):
    _, ids, images = stacks
    damaged = tmp_path / "a_damaged.h5"
    damaged.write_bytes(b"nothing")
    monitored = IDS._replace(monitors={"i0": "entry/i0"})
    source = Stacks([str(tmp_path / "*.h5")], monitored, 4)
    blocks = [
        block._replace(images=block.images.copy())
        for reader in range(n_readers)
        for block in source.blocks(reader, n_readers, lambda event: event.monitors["i0"] > 0)
    ]
    blocks.sort(key=lambda block: block.events[0].number)
    is_valid = np.concatenate([block.is_valid for block in blocks])
    np.testing.assert_array_equal(is_valid, np.arange(10) != 5)
    found_ids = np.concatenate([block.shot_ids for block in blocks])
    np.testing.assert_array_equal(found_ids[is_valid], ids)
    found = np.concatenate([block.images for block in blocks])
    np.testing.assert_array_equal(found[is_valid], images)
    (problem,) = [line for block in blocks for line in block.problems]
    assert problem.startswith(f"shot 5 can't be read, and is dropped: {damaged}: expected")


def damage(path: Path, dataset: str, chunk: int) -> None:
    """Overwrite a chunk of a dataset that is compressed."""
    with h5py.File(path) as file:
        place = file[dataset].id.get_chunk_info(chunk)
    with open(path, "r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)


def test_damaged_images_and_ids_cost_their_shots(tmp_path):
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("images", data=np.ones((4, 2, 3)), chunks=(1, 2, 3), compression=1)
            file.create_dataset("ids", data=np.arange(4), chunks=(4,), compression=1)
    damage(tmp_path / "a.h5", "images", 2)
    damage(tmp_path / "b.h5", "ids", 0)
    (block,) = Stacks([str(tmp_path / "*.h5")], Datasets("images", "ids"), 8).blocks(
        0, 1, any_event
    )
    assert block.is_valid.tolist() == [True, True, False, True] + 4 * [False]
    assert ["a.h5" in block.problems[0], "b.h5" in block.problems[1]] == [True, True]


def test_an_id_that_no_shot_can_have_costs_its_block(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.ones((8, 2, 3))
        file["ids"] = np.arange(8, dtype=np.uint64)
        file["ids"][5] = 2**64 - 1
    blocks = Stacks([str(tmp_path / "a.h5")], Datasets("images", "ids"), 4).blocks(0, 1, any_event)
    assert [block.is_valid.sum() for block in blocks] == [4, 0]


def test_causes_are_told_once_and_not_too_many():
    filling = Filling(200, (2, 2))
    for number in range(100):
        filling.lose(number, Unreadable("the same"))
        filling.lose(number, Unreadable(f"cause {number}"))
    problems = filling.block().problems
    assert len(problems) == MOST_CAUSES
    assert "other causes" in problems[-1]


def test_where_no_file_can_be_opened_there_is_an_error(tmp_path):
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"a\.h5: expected an HDF5 file"):
        Stacks([str(tmp_path / "*.h5")], COUNTED, block_shots=4)


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(FileError, match=r"no_\*.h5: expected a file"):
        Stacks([str(tmp_path / "no_*.h5")], COUNTED, block_shots=4)
    with pytest.raises(FileError, match=r"no_\*.h5: expected a file"):
        Stacks([str(tmp_path / "no_*.h5")], COUNTED, block_shots=4, follow_s=0.1)


def written(path: Path, images: np.ndarray) -> None:
    """Write a file of images, and rename it into place."""
    unfinished = path.with_suffix(".tmp")
    with h5py.File(unfinished, "w") as file:
        file["entry/images"] = images
    unfinished.rename(path)


@pytest.mark.parametrize("n_readers", [1, 2])
def test_a_folder_is_followed(tmp_path, n_readers):
    images = np.random.default_rng(3).integers(0, 9, (20, 2, 3))
    written(tmp_path / "s0.h5", images[:5])

    def write():
        for k in (1, 2, 3):
            time.sleep(0.1)
            written(tmp_path / f"s{k}.h5", images[5 * k : 5 * k + 5])

    writer = threading.Thread(target=write)
    writer.start()
    sources = [
        Stacks([str(tmp_path / "s*.h5")], COUNTED, block_shots=3, follow_s=0.5)
        for _ in range(n_readers)
    ]
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda k: copied(sources[k], k, n_readers), range(n_readers)))
    writer.join()
    found = dict(pair for part in parts for pair in part)
    assert list(sorted(found)) == list(range(20))
    np.testing.assert_array_equal([found[k] for k in range(20)], images)


def copied(source, reader: int, n_readers: int) -> list[tuple[int, np.ndarray]]:
    """Return number and image of the shots of a reader."""
    return [
        (event.number, image.copy())
        for block in source.blocks(reader, n_readers, any_event)
        for event, image in zip(block.events, block.images, strict=True)
    ]


def test_a_followed_file_ends_with_the_number_of_shots_that_are_wanted(tmp_path):
    written(tmp_path / "s0.h5", np.ones((5, 2, 3)))
    source = Stacks([str(tmp_path / "s*.h5")], COUNTED, 2, n_shots=5, follow_s=60.0)
    assert len(everything(source)[0]) == 5


def test_a_followed_file_that_comes_too_late_is_an_error(tmp_path):
    written(tmp_path / "s1.h5", np.ones((4, 2, 3)))
    source = Stacks([str(tmp_path / "s*.h5")], COUNTED, 4, follow_s=0.5)
    blocks = source.blocks(0, 1, any_event)
    next(blocks)
    written(tmp_path / "s0.h5", np.ones((4, 2, 3)))
    with pytest.raises(FileError, match="in the order in which they come"):
        next(blocks)


def test_a_followed_file_that_stays_unreadable_costs_one_shot(tmp_path):
    for name in ("s1.h5", "s3.h5"):
        (tmp_path / name).write_bytes(b"nothing")
    written(tmp_path / "s2.h5", np.ones((4, 2, 3)))
    source = Stacks([str(tmp_path / "s*.h5")], COUNTED, 4, follow_s=0.2)
    is_valid = [block.is_valid.tolist() for block in source.blocks(0, 1, any_event)]
    assert is_valid == [[False, True, True, True], [True, False]]


GROWING = """
import sys, time
import h5py
import numpy as np

path, n = sys.argv[1], int(sys.argv[2])
with h5py.File(path, "w", libver="latest") as file:
    images = file.create_dataset("images", (0, 2, 3), maxshape=(None, 2, 3), chunks=(1, 2, 3))
    ids = file.create_dataset("ids", (0,), maxshape=(None,), dtype="i8", chunks=(64,))
    file.swmr_mode = True
    print("begun", flush=True)
    for k in range(n):
        for dataset, value in ((images, k), (ids, 3 * k)):
            dataset.resize(k + 1, axis=0)
            dataset[k] = value
            dataset.flush()
        time.sleep(0.01)
"""


@pytest.mark.chain
def test_a_growing_file_is_followed(tmp_path):
    path = tmp_path / "growing.h5"
    command = [sys.executable, "-c", GROWING, str(path), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "begun\n"
        source = Stacks([str(path)], Datasets("images", "ids"), block_shots=8, follow_s=1.0)
        assert source.n_shots < 60
        ids, images = everything(source)
    np.testing.assert_array_equal(ids, 3 * np.arange(60))
    np.testing.assert_array_equal(images[:, 1, 2], np.arange(60))


def test_files_of_images_are_read_in_photons(tiny_run):
    path = tiny_run["manifest"].parent / "tiny.h5"
    source = Stacks([str(path)], Datasets(None), block_shots=8)
    (block,) = source.blocks(0, 1, any_event)
    assert block.images.shape == (8, 1, 512, 512)
    assert block.is_valid.sum() == 7  # one of them does not decompress
    assert abs(np.median(block.images[1]) - 4.0) <= 1.0  # of the background, without the pedestal
