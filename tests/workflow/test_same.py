"""`make same` finds what differs between two chains, and nothing else."""

import json

import h5py
import numpy as np
import pytest

import same


def chain(folder, intensity=(1.0, 2.0), n_shots=3, seconds=0.5, outcome="not_supplied"):
    """Write a product and a summary below a folder."""
    results = folder / "results" / "t"
    results.mkdir(parents=True)
    with h5py.File(results / "index.h5", "w") as file:
        file["reflections/intensity"] = np.array(intensity)
        file["shots/seconds"] = np.array([seconds])
        file.attrs["key"] = str(seconds)
        file.attrs["outcomes"] = json.dumps({outcome: 1})
    summary = {"n_shots": n_shots, "runs": [{"seconds_per_shot": seconds}], "nothing": None}
    (results / "index.json").write_text(json.dumps(summary))
    (results / "merge.csv").write_text(f"a,seconds\n1,{seconds}\n")
    return folder


def test_clocks_digests_and_renamed_names_are_no_differences(tmp_path):
    base = chain(tmp_path / "base", outcome="untold")
    changed = chain(tmp_path / "changed", seconds=0.7)
    differences, n_compared = same.compare(base, changed, same.Renamed({"untold": "not_supplied"}))
    assert differences == []
    assert n_compared == 5


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"intensity": (1.0, np.nextafter(2.0, 3.0))},
            "results/t/index.h5 reflections/intensity: differs",
        ),
        ({"intensity": (1, 2)}, "results/t/index.h5 reflections/intensity: differs"),
        ({"n_shots": 4}, "results/t/index.json /n_shots: differs"),
        ({"outcome": "other"}, "results/t/index.h5 :outcomes/other: only in the working tree"),
    ],
    ids=["last bit", "type", "figure", "name"],
)
def test_a_change_is_named(tmp_path, change, line):
    base = chain(tmp_path / "base")
    differences, _ = same.compare(base, chain(tmp_path / "changed", **change), same.Renamed({}))
    assert line in differences


def test_a_product_of_one_side_is_named(tmp_path):
    base = chain(tmp_path / "base")
    (base / "results" / "t" / "cells.h5").write_bytes(b"")
    differences, _ = same.compare(base, chain(tmp_path / "changed"), same.Renamed({}))
    assert differences == ["results/t/cells.h5: only in BASE"]


def in_parts(folder, sizes, n_shots=6):
    """Write a product of so many shots in each part, with two spots a shot."""
    path = folder / "index.h5"
    folder.mkdir()
    with h5py.File(path, "w") as file:
        file["parts/key"] = np.zeros(len(sizes))
        file["n_rows/shots"] = np.array(sizes)
    first = 0
    for number, n in enumerate(sizes):
        part = path.with_suffix(".parts") / f"{number:06d}.h5"
        part.parent.mkdir(exist_ok=True)
        with h5py.File(part, "w") as file:
            file.attrs["kind"] = "index"
            file["shots/shot_id"] = np.arange(first, first + n) % n_shots
            file["spots/shot"] = np.repeat(np.arange(n), 2).astype(np.int32)
            file["spots/lattice"] = np.full(2 * n, -1, np.int32)
        first += n
    return folder


def test_how_a_product_is_cut_into_parts_is_no_difference(tmp_path):
    base = in_parts(tmp_path / "base", [2, 2, 2])
    assert same.compare(base, in_parts(tmp_path / "one", [6]), same.Renamed({}))[0] == []
    other = in_parts(tmp_path / "other", [4, 2], n_shots=5)
    differences, _ = same.compare(base, other, same.Renamed({}))
    assert differences == ["index.h5 shots/shot_id: differs"]
