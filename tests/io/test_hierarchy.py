"""Rigid groups of panels, from the hierarchy that a file states to the one that is written."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from spreadflow.io.images.geom import Geom
from spreadflow.io.lattices import dials, dials_writer
from spreadflow.io.panels import levels_of
from spreadflow.models import Detector
from spreadflow.physics import rotation

QUADRANTS = [0, 0, 0, 0, 1, 1, 1, 1]
MODULES = [0, 0, 1, 1, 2, 2, 3, 3]


def detector(levels=(QUADRANTS, MODULES)) -> Detector:
    """Return eight panels in four modules in two quadrants, turned against each other."""
    rng = np.random.default_rng(4)
    turns = rotation.from_vector(0.3 * rng.normal(size=(8, 3)))
    return Detector(
        origin_mm=rng.normal(size=(8, 3)) * 40 - (0, 0, 300),
        fast=turns[:, :, 0],
        slow=turns[:, :, 1],
        pixel_mm=0.11,
        shape=(20, 30),
        levels=np.array(levels),
    )


def test_groups_are_read_as_they_were_written(tmp_path):
    dials_writer.write_expt(tmp_path / "a.expt", detector(), wavelength=1.3)
    read = dials.read_expt(tmp_path / "a.expt")
    assert np.array_equal(read.levels, detector().levels)
    for name in ("origin_mm", "fast", "slow"):
        assert np.allclose(getattr(read, name), getattr(detector(), name), atol=1e-11), name

    (first, second) = json.loads((tmp_path / "a.expt").read_text())["detector"][0]["hierarchy"][
        "children"
    ]
    assert [[c["panel"] for c in module["children"]] for module in second["children"]] == [
        [4, 5],
        [6, 7],
    ]
    # a group is where its panels are
    assert np.linalg.norm(first["origin"]) > 200


def test_a_detector_from_json_keeps_its_groups():
    fields = json.loads(json.dumps(detector()._asdict(), default=lambda array: array.tolist()))
    assert np.array_equal(Detector.from_json(fields).levels, detector().levels)


def test_levels_that_say_nothing_are_left_out():
    """All panels in one group, each in its own, or the same twice."""
    assert levels_of([(), (), ()]) is None
    assert levels_of([("all", 0), ("all", 1), ("all", 2)]) is None
    branches = [("all", "q0", "a"), ("all", "q0", "a"), ("all", "q1", "a")]
    assert np.array_equal(levels_of(branches), [[0, 0, 1]])


def test_panels_at_unequal_depth_are_in_the_groups_that_lead_to_them():
    levels = levels_of([("q0", "m0"), ("q0", "m0"), ("q0", "m1"), ("q0", "m1"), ("q1",), ("q1",)])
    assert np.array_equal(levels, [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]])


GEOM = """
photon_energy = 9000
clen = 0.1
res = 10000
data = /data
dim0 = %
dim1 = ss
dim2 = fs
"""
PANEL = """
{name}/min_fs = 0
{name}/max_fs = 9
{name}/min_ss = {first}
{name}/max_ss = {last}
{name}/corner_x = {first}
{name}/corner_y = 5
{name}/fs = x
{name}/ss = y
"""
MEMBERS = """
rigid_group_q0 = p0,p1,p2,p3
rigid_group_q1 = p4,p5,p6,p7
rigid_group_m0 = p0,p1
rigid_group_m1 = p2,p3
rigid_group_m2 = p4,p5
rigid_group_m3 = p6,p7
"""
COLLECTIONS = """
rigid_group_collection_modules = m0,m1,m2,m3
rigid_group_collection_quadrants = q0,q1
"""


def geometry_file(folder, text: str) -> Geom:
    panels = [PANEL.format(name=f"p{n}", first=10 * n, last=10 * n + 9) for n in range(8)]
    (folder / "a.geom").write_text(GEOM + text + "".join(panels))
    return Geom(folder / "a.geom")


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (MEMBERS + COLLECTIONS, [QUADRANTS, MODULES]),
        ("rigid_group_q0 = p0,p1,p2,p3\nrigid_group_q1 = p4,p5,p6,p7\n", [QUADRANTS]),
        ("rigid_group_q0 = p0,p1\n", None),
        ("", None),
    ],
)
def test_rigid_groups_of_crystfel_are_levels(tmp_path, text, levels):
    found = geometry_file(tmp_path, text).layout("a.h5", None, None).detector.levels
    assert (found is None) if levels is None else np.array_equal(found, levels)


BY_DIALS = """
import json, sys
from dxtbx.model.experiment_list import ExperimentListFactory
detector = ExperimentListFactory.from_json_file(sys.argv[1], check_format=False)[0].detector
vectors = [[p.get_origin(), p.get_fast_axis(), p.get_slow_axis()] for p in detector]
root = detector.hierarchy()
print(json.dumps([vectors, [len(root), len(root[0]), len(root[0][0])]]))
"""
"""What DIALS reads of a file: panels, and how many nodes are below each level."""


@pytest.mark.chain
def test_dials_reads_the_same_groups(tmp_path, monkeypatch):
    program = shutil.which("dxtbx.python")
    if program is None:
        pytest.skip("no dxtbx.python on PATH, as DIALS has it")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    dials_writer.write_expt(tmp_path / "a.expt", detector(), wavelength=1.3)
    call = [program, "-c", BY_DIALS, str(tmp_path / "a.expt")]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    vectors, sizes = json.loads(done.stdout.splitlines()[-1])
    assert sizes == [2, 2, 2]
    for number, name in enumerate(("origin_mm", "fast", "slow")):
        assert np.allclose(np.array(vectors)[:, number], getattr(detector(), name), atol=1e-9)
