"""Bad input at the command line: a shot that can't be used has one Outcome and costs no other;
wrong files and keys are one sentence and an exit status.

what is wrong                          | what comes of it an image file missing, truncated       |
Outcome.UNREADABLE for its shots, a line in the log an image all zeros                     |
Outcome.EMPTY an image saturated                     | Outcome.SATURATED an image of NaN, a mask of
NaN         | Outcome.MASKED a spectrum of NaN                      | Outcome.BAD_SPECTRUM no image
file left                     | FileError, 4 unknown key, impossible value,         | ConfigError, 3
(in Snakemake before any job: tests/workflow/test_workflow.py) space group and cell that disagree
| a part of another config, truncated,   | FileError, 4, where it is read; made again where it is
written missing; a product of another stage    |
"""

import json
import logging
import shutil
from contextlib import closing

import h5py
import numpy as np
import pytest

from spreadflow import cli
from spreadflow.errors import Outcome
from spreadflow.io import images, nexus_writer, store
from spreadflow.products import Index
from spreadflow.report.index import headline
from spreadflow.report.index import make as report_of_index

FILES = {
    "good0": Outcome.INDEXED,
    "missing": Outcome.UNREADABLE,
    "truncated": Outcome.UNREADABLE,
    "zeros": Outcome.EMPTY,
    "saturated": Outcome.SATURATED,
    "nan": Outcome.MASKED,
    "spectrum": Outcome.BAD_SPECTRUM,
    "good1": Outcome.INDEXED,
}
"""image files of one shot each, and how it ends"""


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    """The files, all good at first when they are described by `all.json`; `good.json` describes the
    good ones only.
    """
    folder = tmp_path_factory.mktemp("bad")
    with closing(images.open_image(tiny_run["manifest"].parent / "tiny.h5")) as f:
        good = {"good0": f.frame(0), "good1": f.frame(7)}
        detector = f.detector
        energies = 7100.0 + 2.0 * np.arange(15)
    for name in FILES:
        image = good.get(name, good["good0"]).copy()
        if name == "zeros":
            image[:] = 0
        if name == "saturated":
            image[0, 100:140, 100:160] = 70_000
        stills = nexus_writer.Stills(
            images=image[None],
            shot_ids=np.array([images.shot_id("bad", f"{name}.nxs", 0)], np.uint64),
            energies_ev=energies,
            photons=np.full((1, 15), np.nan if name == "spectrum" else 1e9),
        )
        instrument = nexus_writer.Instrument(detector, saturation_adu=60_000, offset_adu=10)
        nexus_writer.write(folder / f"{name}.nxs", stills, instrument)
    with h5py.File(folder / "nan.nxs", "r+") as f:
        shape = f["entry/data/data"].shape
        del f["entry/data/data"]
        f["entry/data/data"] = np.full(shape, np.nan, np.float32)
    images.write_manifest(folder / "all.json", "bad", [folder / f"{name}.nxs" for name in FILES])
    images.write_manifest(folder / "good.json", "bad", [folder / f"{name}.nxs" for name in good])
    (folder / "missing.nxs").unlink()
    whole = (folder / "truncated.nxs").read_bytes()
    (folder / "truncated.nxs").write_bytes(whole[: len(whole) // 2])
    return folder


RECORDING = {"calibration_error": 0.0}


@pytest.fixture
def call(tiny_run, capsys):
    """`call(stage, *argv, **keys)` runs a stage with these keys of `index`: (exit status, lines on
    stderr).
    """

    def stage(word, *argv, config=None, **keys):
        how = {
            "d_min": 2.4,
            "domain_ang": 1500.0,
            "n_directions": 4096,
            "block_shots": 1,
        }
        how |= {"cell": tiny_run["cell"], "space_group": tiny_run["space_group"]}
        text = json.dumps(
            {"index": how | keys, "recording": RECORDING} if config is None else config
        )
        logging.getLogger(word).handlers.clear()  # they write to the stderr of an earlier test
        capsys.readouterr()
        try:
            status = cli.main([word, "--config", text, *map(str, argv)])
        except SystemExit as end:
            status = end.code
        lines = capsys.readouterr().err.splitlines()
        return status, [
            line for line in lines if "ranks by device" not in line
        ]  # two CPUs of tests

    return stage


def rows(path, manifest):
    """Return by file name the rows of its one shot in the product."""
    product = store.read(path, Index)
    out = {}
    for number, file in enumerate(images.Source(manifest).manifest.files):
        is_own = product.lattices.shot == number
        out[file.path] = Index(
            shots=product.shots[[number]],
            spots=product.spots[product.spots.shot == number],
            lattices=product.lattices[is_own],
            reflections=product.reflections[is_own[product.reflections.lattice]],
        )
    return out


NOT_ITS_OWN = (
    Index.shots.seconds,
    Index.shots.file,
    Index.spots.shot,
    Index.spots.lattice,
    Index.lattices.shot,
    Index.reflections.lattice,
)
"""Columns that depend on the other shots of a run, or on the time spent."""


@pytest.fixture(scope="module")
def product(folder):
    return folder / "product" / "index.h5"


@pytest.fixture
def index_call(call, folder, product):
    """Exit status and log lines of the call that made the index product of all files."""
    call_path = folder / "told.json"
    if not call_path.exists():
        call_path.write_text(
            json.dumps(call("index", "--images", folder / "all.json", "--out", product))
        )
    return json.loads(call_path.read_text())


@pytest.mark.stage
def test_each_bad_image_has_one_outcome_and_costs_no_other(
    index_call, call, folder, product, tmp_path
):
    status, log = index_call
    assert status == 0
    assert not any("Traceback" in line for line in log)

    found = rows(product, folder / "all.json")
    assert {path[:-4]: Outcome(own.shots.outcome[0]) for path, own in found.items()} == FILES
    for name in ("missing", "truncated"):
        assert sum(f"{name}.nxs" in line for line in log) == 1
    for words in ("1 empty: every pixel that may be used is 0", "1 bad_spectrum: a spectrum"):
        assert sum(words in line for line in log) == 1, log
    figures, _ = report_of_index("index", [product], [folder / "all.json"])
    reasons = {(cause["outcome"], cause["n_shots"]) for cause in figures["reasons"]}
    assert reasons == {(end.name.lower(), 1) for end in FILES.values() if end != Outcome.INDEXED}
    assert len(figures["reasons"]) == len(FILES) - 2
    assert figures["reasons"][0]["reason"] in "".join(headline(figures))
    assert call("index", "--images", folder / "good.json", "--out", tmp_path / "index.h5")[0] == 0
    for path, alone in rows(tmp_path / "index.h5", folder / "good.json").items():
        beside_others = found[path].datasets()
        for name in alone.datasets().keys() - {column.path for column in NOT_ITS_OWN}:
            np.testing.assert_array_equal(beside_others[name], alone.datasets()[name], err_msg=name)


def test_a_mask_of_nan_only_masks_every_shot_that_can_be_read(call, folder, tmp_path):
    with h5py.File(tmp_path / "mask.h5", "w") as f:
        f["mask"] = np.full((512, 512), np.nan)
    out = tmp_path / "index.h5"
    status, _ = call(
        "index", "--images", folder / "good.json", "--out", out, mask=str(tmp_path / "mask.h5")
    )

    assert status == 0
    shots = store.read(out, Index, [Index.shots]).shots
    assert [Outcome(x) for x in shots.outcome] == [Outcome.MASKED] * 2
    assert [reason[:31] for reason in shots.reason] == [b"100% of the pixels are masked, "] * 2


REFUSED = {
    "unknown key": (
        {"spots": {"gian": 1}},
        "all.json",
        3,
        ["index.spots.gian", "sigma_background, sigma_strong", "unknown"],
    ),
    "impossible value": (
        {"d_min": -1},
        "all.json",
        3,
        ["index.d_min", "greater than or equal to 0.3", "-1"],
    ),
    "no such space group": (
        {"space_group": "P 99"},
        "all.json",
        3,
        ["index.space_group", "'P 99'"],
    ),
    "incompatible space group": (
        {"space_group": "P 4 3 2"},
        "all.json",
        3,
        ["index.cell", "a = b = c", "P 4 3 2"],
    ),
    "section missing": (
        {"config": {"merge": {}}},
        "all.json",
        3,
        ["--config of index", "expected"],
    ),
    "no manifest": ({}, "none.json", 4, ["none.json", "a manifest", "spreadflow manifest"]),
    "manifest that is an image": ({}, "good0.nxs", 4, ["good0.nxs", "a manifest"]),
    "no image left": ({}, "lost.json", 4, ["lost.json", "at least one readable image file"]),
    "no mask": ({"mask": "none.h5"}, "all.json", 4, ["none.h5", "mask"]),
    "mask of another detector": (
        {"mask": "other.h5"},
        "all.json",
        4,
        ["other.h5", "(1, 512, 512)", "(1, 3, 4)"],
    ),
}


@pytest.mark.parametrize(("keys", "manifest", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_one_sentence(call, folder, tmp_path, keys, manifest, status, words):
    (tmp_path / "lost.json").write_text((folder / "good.json").read_text())
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f["mask"] = np.zeros((3, 4))
    keys = {
        name: str(tmp_path / value) if name == "mask" else value for name, value in keys.items()
    }
    where = (tmp_path if manifest == "lost.json" else folder) / manifest
    found, log = call("index", "--images", where, "--out", tmp_path / "index.h5", **keys)

    assert found == status
    assert len(log) == 1 and log[0].startswith("spreadflow index: "), log
    assert all(word in log[0] for word in words), log
    assert not (tmp_path / "index.h5").exists()


def test_geometry_that_is_none_is_one_sentence(call, folder, tmp_path):
    argv = (
        "--images",
        folder / "good.json",
        "--out",
        tmp_path / "index.h5",
        "--geometry",
        folder / "good0.nxs",
    )
    status, log = call("index", *argv)

    assert status == 4
    assert len(log) == 1
    assert "experiment" in log[0]
    assert len(log[0]) < 800


@pytest.mark.stage
def test_a_folder_that_can_not_be_written_to_is_one_sentence(call, folder, tmp_path):
    (tmp_path / "file").write_text("")
    status, log = call(
        "index", "--images", folder / "good.json", "--out", tmp_path / "file" / "index.h5"
    )
    assert status == 4
    assert len(log) == 1
    assert "a place to write to" in log[0]


def _foreign(part, call, folder):
    """Put the part of the same shot in its place, indexed with another configuration."""
    out = part.parent.parent / "other" / "index.h5"
    assert (
        call("index", "--images", folder / "all.json", "--out", out, spots={"min_spots": 1000})[0]
        == 0
    )
    shutil.copy(store.part_path(out, int(part.stem)), part)


def _truncated(part, *_):
    part.write_bytes(part.read_bytes()[:2000])


def _missing(part, *_):
    part.unlink()


@pytest.mark.parametrize(
    ("spoil", "found"),
    [(_foreign, "another config"), (_truncated, "truncated"), (_missing, "nothing")],
)
def test_a_bad_part_is_refused_by_readers_and_made_again_alone(
    index_call, call, folder, product, tmp_path, spoil, found
):
    shutil.copytree(product.parent, tmp_path / "copy")
    product_copy = tmp_path / "copy" / "index.h5"
    parts = tmp_path / "copy" / "index.parts"
    spoil(parts / "000000.h5", call, folder)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts.iterdir()}
    status, log = call(
        "level0",
        "--index",
        product_copy,
        "--out",
        tmp_path / "level0.expt",
        config={"level0": {"min_reflections": 1}},
    )

    assert status == 4 and len(log) == 1 and "000000.h5" in log[0] and found in log[0], log
    assert not (tmp_path / "level0.expt").exists()
    assert call("index", "--images", folder / "all.json", "--out", product_copy)[0] == 0

    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"000000.h5"}

    again = store.read(product_copy, Index)
    whole = store.read(product, Index)
    whole.shots.seconds = again.shots.seconds
    for path, column in whole.datasets().items():
        np.testing.assert_array_equal(again.datasets()[path], column, err_msg=path)


def test_a_product_of_another_stage_is_refused(index_call, call, folder, product, tmp_path):
    status, log = call(
        "cells", "--reindex", product, "--out", tmp_path / "cells.h5", config={"cells": {}}
    )
    assert status == 4
    assert len(log) == 1
    assert "kind 'reindex'" in log[0]
    assert "kind index" in log[0]
