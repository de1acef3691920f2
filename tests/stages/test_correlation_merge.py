"""Outputs of correlate joined: runs and shards, exactly; others are refused."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow import cli
from spreadflow.config.correlate import CorrelateSection
from spreadflow.io import g2
from spreadflow.parallel import World
from spreadflow.stages import correlate
from spreadflow.stages.correlate import Request

SHAPE = (5, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with two runs of shots, whose last pixel is bad in the second one, and masks."""
    path = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(9)
    for name, n in (("one", 90), ("two", 70), ("three", 50)):
        images = rng.poisson(4.0, (n, *SHAPE)).astype(np.float32)
        if name == "two":
            images[3, -1, -1] = 1e6
        with h5py.File(path / f"{name}.h5", "w") as file:
            file["images"] = images
    rows = np.arange(5)[:, None] * np.ones(4, int)
    np.save(path / "colours.npy", rows % 2 + 1)
    for name, is_in in (
        ("even", rows % 2 == 0),
        ("odd", rows % 2 == 1),
        ("first", rows < 2),
        ("last", rows == 4),
    ):
        np.save(path / f"{name}.npy", is_in.astype(np.int8))
    return path


def correlated(folder: Path, out: Path, run: str, **keys) -> Path:
    """Correlate a run; return the output."""
    section = {
        "files": [str(folder / f"{run}.h5")],
        "dataset": "images",
        "colours": folder / "colours.npy",
        "delays": [1, 3, 7],
        "out": str(out),
    }
    correlate.run(Request(CorrelateSection.model_validate(section | keys)), World())
    return out


def merge(out: Path, *paths: Path) -> int:
    """Join outputs by the command; return its status."""
    return cli.main(["correlate", "merge", *map(str, paths), "-o", str(out)])


def test_sums_of_runs_add_up(folder, tmp_path):
    first, second = (correlated(folder, tmp_path / f"{run}.h5", run) for run in ("one", "two"))
    assert merge(tmp_path / "both.h5", first, second) == 0
    a, b, both = (g2.read_last(path) for path in (first, second, tmp_path / "both.h5"))
    np.testing.assert_array_equal(both.counts, [89 + 69, 87 + 67, 83 + 63])
    for name in g2.ARRAYS:
        np.testing.assert_array_equal(both.arrays[name], a.arrays[name] + b.arrays[name])
    assert (both.is_bad.sum(), both.is_bad[-1]) == (1, 1)
    assert both.shots["n_shots"] == 160
    figures = json.loads((tmp_path / "both.json").read_text())
    assert figures["n_events"] == 160
    assert figures["events_per_second"] is None
    with h5py.File(tmp_path / "both.h5") as file:
        assert "entry/data/g2" in file
        assert len(file["system/system_params/merged_from"]) == 2
    third = correlated(folder, tmp_path / "three.h5", "three")
    assert merge(tmp_path / "again.h5", tmp_path / "both.h5", third) == 0
    again = g2.read_last(tmp_path / "again.h5")
    np.testing.assert_array_equal(again.counts, both.counts + np.array([49, 47, 43]))


@pytest.mark.parametrize("names", ["ABB", "AAB", "AC", "DA", "ED"])
def test_no_shots_count_twice(folder, tmp_path, capsys, names):
    """C is a copy of A, D is A and B, and E is D with another run."""
    path_of = {name: tmp_path / f"{name}.h5" for name in "ABCDEF"}
    for name, run in (("A", "one"), ("B", "two"), ("F", "three")):
        correlated(folder, path_of[name], run)
    shutil.copy(path_of["A"], path_of["C"])
    assert merge(path_of["D"], path_of["A"], path_of["B"]) == 0
    assert merge(path_of["E"], path_of["D"], path_of["F"]) == 0
    assert merge(tmp_path / "all.h5", *(path_of[name] for name in names)) == 4
    assert "the same one twice" in capsys.readouterr().err
    assert not (tmp_path / "all.h5").exists()


def test_the_pixels_that_shards_have_in_common_are_counted_among_all_of_them(
    folder, tmp_path, capsys
):
    """The second and the third of them have some, none of which the first has."""
    shards = [
        correlated(folder, tmp_path / f"{name}.h5", "two", mask=folder / f"{name}.npy")
        for name in ("odd", "even", "last")
    ]
    assert merge(tmp_path / "joined.h5", *shards) == 4
    assert "4 pixels in common" in capsys.readouterr().err


def test_shards_of_pixels_are_the_whole(folder, tmp_path):
    whole = correlated(folder, tmp_path / "whole.h5", "two")
    shards = [
        correlated(folder, tmp_path / f"{name}.h5", "two", mask=folder / f"{name}.npy")
        for name in ("odd", "even")
    ]
    assert merge(tmp_path / "joined.h5", *shards) == 0
    worst, lines = g2.differences(whole, tmp_path / "joined.h5", 0.0)
    assert worst == 0.0
    assert all(line.startswith("system/system_params") for line in lines)


@pytest.mark.parametrize(
    ("run", "keys", "found"),
    [
        ("two", {"delays": [1, 3]}, "delays"),
        ("two", {"not_zero": 0.5}, "0.5"),
        ("two", {"calculator": "at_end"}, "at_end"),
        ("two", {"mask": "first.npy"}, "8 pixels in common"),
        ("one", {"mask": "first.npy"}, "8 pixels in common"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder, tmp_path, capsys, run, keys, found):
    first = correlated(folder, tmp_path / "first.h5", "two")
    if "mask" in keys:
        keys = {"mask": folder / keys["mask"]}
    other = correlated(folder, tmp_path / "other.h5", run, **keys)
    assert merge(tmp_path / "both.h5", first, other) == 4
    assert found in capsys.readouterr().err
    assert not (tmp_path / "both.h5").exists()


def test_shards_of_other_shots_and_one_output_twice_are_refused(folder, tmp_path, capsys):
    odd = correlated(folder, tmp_path / "odd.h5", "one", mask=folder / "odd.npy")
    even = correlated(folder, tmp_path / "even.h5", "two", mask=folder / "even.npy")
    assert merge(tmp_path / "both.h5", odd, even) == 4
    assert "the shots of" in capsys.readouterr().err
    assert merge(tmp_path / "both.h5", odd, odd) == 4
    assert "the same one twice" in capsys.readouterr().err
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["schema"] = 1
    assert merge(tmp_path / "both.h5", odd, tmp_path / "old.h5") == 4
    assert "schema 1" in capsys.readouterr().err


def test_sums_of_the_same_partners_add_up_whatever_formed_them(folder, tmp_path):
    how = {"one": "at_end", "two": "fft"}
    first, second = (
        correlated(folder, tmp_path / f"{run}.h5", run, calculator=calculator)
        for run, calculator in how.items()
    )
    assert merge(tmp_path / "both.h5", first, second) == 0
    third = correlated(folder, tmp_path / "third.h5", "two", calculator="windowed")
    assert merge(tmp_path / "exact.h5", first, third) == 0
    both, exact = (g2.read_last(tmp_path / name) for name in ("both.h5", "exact.h5"))
    np.testing.assert_array_equal(both.counts, exact.counts)
    for name, sums in exact.arrays.items():
        np.testing.assert_allclose(both.arrays[name], sums, rtol=1e-9)
    of_the_run = correlated(folder, tmp_path / "of_the_run.h5", "two")
    assert merge(tmp_path / "other.h5", first, of_the_run) == 4
