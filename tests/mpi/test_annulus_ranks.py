"""annulus under a launcher: killed on two ranks it goes on from its finished pieces on one, to the
product of three; each rank's share is told.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import IndexSection, NoiseSection, ReindexConfig
from spreadflow.errors import LatticeOutcome
from spreadflow.io import shares, store
from spreadflow.io.images import Source
from spreadflow.io.lattices import dials_writer
from spreadflow.parallel import World
from spreadflow.products import Annulus, Reindex
from spreadflow.stages import index

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
pytestmark = pytest.mark.chain
DYING = Path(__file__).with_name("dying.py")


@pytest.fixture
def inputs(tiny_run, tmp_path, filled) -> list[str]:
    """The reindex product of the tiny run, all shots in one block, and cells that accept all of its
    lattices.
    """
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    how = {"d_min": 2.4, "domain_ang": 1500.0, "n_directions": 4096}
    section = IndexSection(cell=tiny_run["cell"], space_group=tiny_run["space_group"], **how)
    geometry = tmp_path / "level0.expt"
    reindex = tmp_path / "reindex.h5"
    cells = tmp_path / "cells.h5"
    dials_writer.write_expt(geometry, Source(tiny_run["manifest"]).detector, wavelength=1.743)
    config = ReindexConfig(reindex=section, recording=NoiseSection())
    world = World()
    index.run(
        config,
        images=tiny_run["manifest"],
        geometry=geometry,
        out=reindex,
        world=world,
        word="reindex",
    )
    lattices = store.read(reindex, Reindex, [Reindex.lattices.shot_id, Reindex.lattices.k]).lattices
    n_lattices = len(lattices)
    sizes = {"lattices": n_lattices, "clusters": 1, "features": 1}
    accepted = {
        "lattices/shot_id": lattices.shot_id,
        "lattices/k": lattices.k,
        "lattices/outcome": np.full(n_lattices, LatticeOutcome.ACCEPTED),
        "lattices/setting": np.tile(np.eye(3), (n_lattices, 1, 1)),
    }
    store.write(cells, filled("cells", sizes, accepted), key="cells", runs=["tiny"])
    return ["--images", str(tiny_run["manifest"]), "--reindex", str(reindex), "--cells", str(cells)]


def run(inputs: list[str], out: Path, ranks: int, program: list[object]) -> int:
    config = json.dumps({"annulus": {"d_max": 6.0, "d_min": 2.5}})
    words = [
        LAUNCHER,
        "-n",
        ranks,
        sys.executable,
        *program,
        "annulus",
        "--config",
        config,
        "--ranks",
        ranks,
        *inputs,
    ]
    return subprocess.run([*map(str, words), "--out", str(out)], timeout=120).returncode


def test_a_killed_stage_goes_on_where_it_was(inputs, tmp_path):
    whole = tmp_path / "three" / "annulus.h5"
    out = tmp_path / "killed" / "annulus.h5"
    cli = ["-m", "spreadflow.cli"]
    assert run(inputs, whole, 3, cli) == 0
    assert run(inputs, out, 2, [DYING, "000002-000003.h5"]) != 0

    parts = out.with_suffix(".parts")
    finished = {path.name for path in parts.glob("000000/[0-9]*.h5")}

    assert finished
    assert "000002-000003.h5" not in finished
    assert not out.exists()
    assert list(parts.glob("000000/.000002*.tmp")), "killed while it wrote"
    assert run(inputs, out, 1, cli) == 0
    assert [path.name for path in parts.iterdir()] == ["000000.h5"]

    of_three, of_one = (shares.read(path) for path in (whole, out))
    assert sum(of_three.items["shots"]) == 3
    assert len(of_three.seconds) == 3
    assert of_one.items == {"shots": [3 - len(finished)]}, "the others were finished"

    ours = store.read(out, Annulus)
    theirs = store.read(whole, Annulus)
    assert len(ours.reflections.hkl) > 100
    for name, column in theirs.datasets().items():
        np.testing.assert_array_equal(ours.datasets()[name], column, err_msg=name)
    assert store.attributes(out, Annulus)["key"] == store.attributes(whole, Annulus)["key"]
