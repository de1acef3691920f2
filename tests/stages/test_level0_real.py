"""Level 0 of a real CSPAD by its modules, from lattices of lysozyme that DIALS indexed, against
`dials.refine` on the same files.

The first 60 of 300 lattices: this engine of DIALS solves dense equations of all unknowns at once.
"""

import json
import shutil
import subprocess
from pathlib import Path

import msgpack
import numpy as np
import pytest

from spreadflow.analysis.geometry_joint import Joint
from spreadflow.analysis.still import prediction
from spreadflow.config import LatticesSection, Level0Section
from spreadflow.io.lattices import reflections
from spreadflow.io.lattices.listed import Listed
from spreadflow.parallel import World
from spreadflow.physics import geometry
from spreadflow.stages import level0

pytestmark = pytest.mark.long

USED_IN_REFINEMENT = 1 << 3
"""Flag of DIALS."""

MM = ("xyzobs.mm.value", "xyzcal.mm")


N_LATTICES = 60


@pytest.fixture(scope="module")
def cspad(real_stills, tmp_path_factory) -> Path:
    """A folder with the first lattices, their reflections, and how DIALS refines them."""
    whole = real_stills / "lm14_cspad"
    folder = tmp_path_factory.mktemp("cspad")
    tree = json.loads((whole / "lm14.expt").read_text())
    for name in ("experiment", "beam", "crystal"):
        tree[name] = tree[name][:N_LATTICES]
    (folder / "lm14.expt").write_text(json.dumps(tree))

    packed = (whole / "lm14.refl").read_bytes()
    kind, version, table = msgpack.unpackb(packed, strict_map_key=False)
    is_kept = np.frombuffer(table["data"]["id"][1][1], "<i4") < N_LATTICES
    for column in table["data"].values():
        n, content = column[1]
        rows = np.frombuffer(content, np.uint8).reshape(n, -1)
        column[1] = [int(is_kept.sum()), rows[is_kept].tobytes()]
    table["nrows"] = int(is_kept.sum())
    (folder / "lm14.refl").write_bytes(msgpack.packb([kind, version, table]))
    shutil.copy(whole / "refine.phil", folder)
    return folder


@pytest.fixture(scope="module")
def joint(cspad) -> Joint:
    """The joint refinement by modules, all motions free. A pulse of LCLS has about 0.3 %."""
    section = Level0Section(
        refine=["shift", "distance", "tilt"],
        rigid_groups={"which": "modules", "refine": ["shift", "distance", "tilt", "turn"]},
        imported={"files": [str(cspad / "lm14.expt")], "bandwidth": 0.003},
    )
    world = World(1)
    joint = level0._joint(level0._lattices_of(section, None, world), section, world)
    for _ in range(level0.PASSES):
        joint.refine(section.outlier_probability)
    return joint


def residuals(joint: Joint, cspad: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted minus observed positions (reflection, 2), mm, of the whole table, NaN where
    a lattice took no part; and which reflections were refined against.
    """
    table = reflections.read(cspad / "lm14.refl", ("miller_index",))
    ids = table.columns["id"]
    listed = Listed("level0", [cspad / "lm14.expt"], LatticesSection(files=["lm14.expt"]))
    numbers = {int(shot_id): n for n, shot_id in enumerate(listed.columns["shot_id"])}
    offsets = np.full((len(ids), 2), np.nan)
    is_used = np.zeros(len(ids), bool)
    for block, in_block in joint.indexed.items():
        for x, member in zip(in_block, joint.members[block], strict=True):
            rows = np.flatnonzero(ids == numbers[x.identity.shot_id])
            rays = prediction.centroids_of(x.lattice, x.hkl, x.spectrum).s1
            fast, slow = geometry.on_panel(joint.placed, x.spots.panel, rays)
            px = np.stack([fast - x.spots.fast, slow - x.spots.slow], axis=1)
            offsets[rows] = px * float(joint.placed.pixel_mm)
            valid = {tuple(h) for h in member.observed.hkl[member.observed.valid].astype(int)}
            is_used[rows] = [tuple(h) in valid for h in x.hkl.tolist()]
    return offsets, is_used


def of_file(path: Path) -> np.ndarray:
    """Return predicted minus observed positions (reflection, 2), mm, as a table has them."""
    columns = reflections.read(path, MM).columns
    return (columns["xyzcal.mm"] - columns["xyzobs.mm.value"])[:, :2]


def rmsd(offsets: np.ndarray) -> np.ndarray:
    """Return the r.m.s. (2,), mm, along fast and slow."""
    return np.sqrt(np.mean(offsets**2, axis=0))


def test_modules_converge_and_fit_better_than_in_the_file(joint, cspad):
    """Over all reflections that were refined against, as the file has them and after."""
    offsets, is_used = residuals(joint, cspad)
    assert is_used.sum() > 1000
    assert np.all(rmsd(offsets[is_used]) < 0.9 * rmsd(of_file(cspad / "lm14.refl")[is_used]))
    sigma = np.sqrt(np.diag(joint.solution.covariance))
    assert joint.is_converged
    assert np.all(np.abs(joint.solution.step) <= 0.1 * sigma)
    figures = joint.figures()
    assert len(figures["rigid_groups"]) == 32
    assert figures["panel_share"] < 0.1


def test_residuals_are_at_most_those_of_dials(joint, cspad, tmp_path, monkeypatch):
    """Over the reflections that both refined against."""
    program = shutil.which("dials.refine")
    if program is None:
        pytest.skip("no dials.refine on PATH, as DIALS has it")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    files = [cspad / name for name in ("lm14.expt", "lm14.refl", "refine.phil")]
    call = [program, *map(str, files), "refinery.engine=LevMar", "refinery.max_iterations=8"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    columns = reflections.read(tmp_path / "refined.refl", ("flags", "miller_index", *MM)).columns
    theirs = of_file(tmp_path / "refined.refl")
    original = reflections.read(cspad / "lm14.refl", ("miller_index", MM[0])).columns
    assert np.array_equal(columns["miller_index"], original["miller_index"])
    assert np.array_equal(columns["id"], original["id"])
    offsets, is_used = residuals(joint, cspad)
    of_both = is_used & ((columns["flags"] & USED_IN_REFINEMENT) > 0)
    assert of_both.sum() > 1000
    ours = rmsd(offsets[of_both])
    print(f"n {of_both.sum()}: file {rmsd(of_file(cspad / 'lm14.refl')[of_both])}")
    print(f"dials {rmsd(theirs[of_both])}, here {ours} mm")
    assert np.all(ours <= rmsd(theirs[of_both]))
