"""Files that manifests of recorded runs name rerun the stages that read images."""

import json

import pytest

from spreadflow.config import parse
from spreadflow.trial.recorded import files_beside
from spreadflow.trial.reruns import jobs

TARGET = {"space_group": "C 1 2 1", "cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]}
READ_IMAGES = ["index r", "reindex r", "annulus", "predict", "pack"]
"""Jobs that open image files; `wide` is one where curves are refined."""

GEOM = """; mask_file = in_a_comment.h5
mask_file = of_all.h5 ; bad pixels
mask0_file = bits.h5
a/mask1_file=edges.h5
maskfile = none.h5
data = /entry/data
"""


@pytest.fixture
def recorded(tmp_path):
    """The manifest of a run with a mask, maps, and a geometry that names masks."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a.geom").write_text(GEOM)
    for name in ("in_a_comment", "of_all", "bits", "edges", "none", "maps"):
        (folder / f"{name}.h5").touch()
    (tmp_path / "mask.h5").touch()
    named = {"geometry": "a.geom", "mask": str(tmp_path / "mask.h5"), "calibration": "maps.h5"}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"run": "r", **named, "files": [{"path": "a.cxi"}]}))
    return manifest


def test_files_beside_the_images(recorded, tmp_path):
    """Masks of the geometry among them, and not the images, which the manifest describes."""
    names = ["of_all.h5", "bits.h5", "edges.h5"]
    in_folder = {str(recorded.parent / name) for name in ("a.geom", "maps.h5", *names)}
    assert set(files_beside(recorded)) == in_folder | {str(tmp_path / "mask.h5")}
    (tmp_path / "mask.h5").unlink()
    assert set(files_beside(recorded)) == in_folder, "the stage says that it is missing"


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "\xff", '{"mask": null, "geometry": 3}'])
def test_what_is_no_manifest_names_nothing(tmp_path, text):
    (tmp_path / "m.json").write_text(text, "latin-1")
    assert files_beside(tmp_path / "m.json") == []
    assert files_beside(tmp_path / "missing.json") == []


def test_they_are_inputs_of_the_jobs_that_read_images(recorded):
    tree = {"trial": "t", "runs": {"r": {"images": str(recorded)}}, "index": TARGET}
    tree["structure_factors"] = {"model": "model.pdb"}
    beside = set(files_beside(recorded))
    reading = [name for name, job in jobs(parse(tree)).items() if beside <= job.inputs]
    assert set(reading) == {*READ_IMAGES, "wide"}
