"""Masks, colours and outputs of the correlation in time."""

import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io import g2
from spreadflow.io.colours import read_pixels

SHAPE = (2, 3)


def saved(folder, name: str, numbers) -> object:
    """Return the path of an array that was saved."""
    path = folder / f"{name}.npy"
    np.save(path, np.array(numbers))
    return path


def test_pixels_are_those_of_the_mask_with_a_colour(tmp_path):
    mask = saved(tmp_path, "mask", [[1, 1, 0], [1, 1, 1]])
    colours = saved(tmp_path, "colours", [[1, 0, 2], [2, 2, 1]])
    fine = saved(tmp_path, "fine", [[5, 0, 0], [6, 7, 5]])
    pixels = read_pixels(SHAPE, mask, colours, fine)
    np.testing.assert_array_equal(pixels.places, [0, 3, 4, 5])
    np.testing.assert_array_equal(pixels.colours, [1, 2, 2, 1])
    np.testing.assert_array_equal(pixels.fine_colours, [5, 6, 7, 5])
    assert pixels.n_masked_in == 5
    assert len(read_pixels(SHAPE, None, None, None).places) == 6


def test_pixels_without_a_colour_count_in_the_mean_of_their_fine_colour(tmp_path):
    """Not those of a fine colour that no pixel with a colour has, nor those that are masked."""
    mask = saved(tmp_path, "mask", [[1, 1, 0], [1, 1, 1]])
    colours = saved(tmp_path, "colours", [[0, 1, 1], [0, 0, 2]])
    fine = saved(tmp_path, "fine", [[5, 5, 6], [6, 7, 8]])
    pixels = read_pixels(SHAPE, mask, colours, fine)
    np.testing.assert_array_equal(pixels.places, [0, 1, 3, 5])
    np.testing.assert_array_equal(pixels.colours, [0, 1, 0, 2])
    np.testing.assert_array_equal(pixels.fine_colours, [5, 5, 6, 8])
    np.testing.assert_array_equal(pixels.distinct_colours, [1, 2])


ONES = [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("mask", "colours", "fine", "found"),
    [
        ([[2, 1, 1], [1, 1, 1]], ONES, ONES, "values"),
        ([[0, 0, 0], [0, 0, 0]], ONES, ONES, "values"),
        ([[1.0, 1, 1], [1, 1, 1]], ONES, ONES, "float64"),
        ([1, 1], ONES, ONES, "shape"),
        (ONES, [[-1, 1, 1], [1, 1, 1]], ONES, "from -1"),
        (ONES, [[1 << 15, 1, 1], [1, 1, 1]], ONES, "32768"),
        (ONES, ONES, [[0, 1, 1], [1, 1, 1]], "1 pixels without"),
        (ONES, [[0, 0, 0], [0, 0, 0]], ONES, "none"),
    ],
)
def test_other_masks_and_colours_are_refused(tmp_path, mask, colours, fine, found):
    paths = [
        saved(tmp_path, name, numbers)
        for name, numbers in (("mask", mask), ("colours", colours), ("fine", fine))
    ]
    with pytest.raises(FileError, match=found):
        read_pixels(SHAPE, *paths)


def test_names_have_the_time_and_the_next_free_number(tmp_path):
    name = str(tmp_path / "g_%T_%C.h5")
    first = g2.resolved(name, clock=0.0)
    assert first.name.startswith("g_19") or first.name.startswith("g_20")
    assert first.name.endswith("_000.h5")
    g2.in_progress(first).touch()
    second = g2.resolved(name, clock=0.0)
    assert second.name.endswith("_001.h5")
    second.touch()
    assert g2.resolved(name, clock=0.0).name.endswith("_002.h5")


def test_an_output_replaces_another_only_where_it_may_and_none_in_progress(tmp_path):
    path = tmp_path / "g.h5"
    file = g2.G2File(path, is_replacing=False)
    with pytest.raises(FileError, match="inprogress"):
        g2.G2File(path, is_replacing=True)
    assert not path.exists()
    file.finish()
    with pytest.raises(FileError, match="--overwrite"):
        g2.G2File(path, is_replacing=False)
    g2.G2File(path, is_replacing=True).finish()
    assert [file.name for file in tmp_path.iterdir()] == ["g.h5"]


@pytest.mark.parametrize(
    ("other", "n_lines"),
    [
        ([1.0, np.nan, 3.0], 0),
        ([1.0 + 1e-9, np.nan, 3.0], 0),
        ([1.0, np.nan, 3.1], 1),
        ([1.0, 2.0, 3.0], 1),
        ([np.nan, np.nan, 3.0], 1),
        ([1.0, np.nan], 1),
    ],
)
def test_a_comparison_sees_what_differs_and_what_is_no_number(tmp_path, other, n_lines):
    for name, values in (("a.h5", [1.0, np.nan, 3.0]), ("b.h5", other)):
        with h5py.File(tmp_path / name, "w") as file:
            file["user/x"] = values
            file["system/system_params/h5output"] = name
    _, lines = g2.differences(tmp_path / "a.h5", tmp_path / "b.h5", 1e-6)
    assert len(lines) == n_lines


@pytest.mark.parametrize(("other", "n_lines"), [(np.inf, 0), (-np.inf, 1), (np.nan, 1), (1e300, 1)])
def test_a_comparison_tells_infinities_apart(tmp_path, other, n_lines):
    for name, value in (("a.h5", np.inf), ("b.h5", other)):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = [1.0, value]
    _, lines = g2.differences(tmp_path / "a.h5", tmp_path / "b.h5", 1e-6)
    assert len(lines) == n_lines


def test_a_dataset_of_one_file_alone_differs(tmp_path):
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[f"user/{name}"] = 1.0
    _, lines = g2.differences(tmp_path / "a.h5", tmp_path / "b.h5", 1e-6)
    assert len(lines) == 2


@pytest.mark.parametrize(("n_pixels", "share"), [(100, 0.05), (30000, 1.02)])
def test_images_of_few_pixels_take_little_room(tmp_path, n_pixels, share):
    """An image of noise in most pixels is not compressed: it takes long, and saves little."""
    shape = (200, 200)
    mask = np.zeros(shape, np.int8)
    mask.ravel()[:n_pixels] = 1
    pixels = read_pixels(shape, saved(tmp_path, "mask", mask), None, None)
    columns = {"delays": np.arange(1, 11), "delay_counts": np.arange(50, 40, -1)}
    sums = np.random.default_rng(1).gamma(2.0, 3.0, (10, n_pixels))
    out = tmp_path / "g.h5"
    with h5py.File(out, "w") as file:
        update = g2.write_update(file, 7, {"n_shots": 51}, columns, {"G2": sums}, pixels)
        image = update["G2/delay_000004"][()]
    expected = (sums[3] / 47).astype(np.float32)
    np.testing.assert_array_equal(image.ravel()[:n_pixels], expected)
    assert image.dtype == np.float32
    assert out.stat().st_size < share * 10 * 4 * 200 * 200 + sums.nbytes


WRITING = """
import os, resource, signal, sys
from pathlib import Path

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import g2
from spreadflow.io.colours import read_pixels

out = g2.G2File(Path(sys.argv[1]), is_replacing=False)
shape = (300, 400)
pixels = read_pixels(shape, None, None, None)
columns = {"delays": np.array([1, 2]), "delay_counts": np.array([10, 9])}
arrays = {name: np.ones((2, 120000)) for name in ("G2", "IF", "IP")}
with out.open() as file:
    g2.write_parameters(file, g2.How("at_end", 120.0, 1e-5, 32768.0), {}, {}, pixels)
    g2.write_update(file["user"], 96, {"n_shots": 11}, columns, arrays, pixels)
size = os.stat(g2.in_progress(out.path)).st_size
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000000, size + 1000000))
try:
    with out.open() as file:
        g2.write_update(file["user"], 192, {"n_shots": 22}, columns, arrays, pixels)
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
except FileError as error:
    print(error)
    sys.exit(error.exit_code)
"""
"""Two updates, of which the second is not written to its end."""


@pytest.mark.chain
@pytest.mark.parametrize(("end", "status"), [("killed", -signal.SIGKILL), ("full", 4)])
def test_what_was_published_stays_readable_where_the_next_update_fails(tmp_path, end, status):
    out = tmp_path / "g2.h5"
    words = [sys.executable, "-c", WRITING, out, end]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    if end == "full":
        assert "g2.h5.inprogress: expected a place to write to; found [Errno 27]" in done.stdout
    with h5py.File(g2.in_progress(out), "r", locking=False) as file:
        (update,) = file["user"].values()
        assert np.all(update["sums/G2"][()] == 1.0)
