"""Lattices that DIALS itself has indexed are adopted and merged, and DIALS reads what is exported.

The judge is DIALS as Debian ships it; without it the tests are skipped.
"""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import gemmi
import hdf5plugin
import numpy as np
import pytest

from lab import cached_folder
from spreadflow import cli
from spreadflow.config import for_stage, parse, section
from spreadflow.errors import AdoptOutcome
from spreadflow.io import images, store
from spreadflow.io.lattices.dials import ExperimentList
from spreadflow.io.lattices.pairs import Pair
from spreadflow.parallel import World
from spreadflow.products import Adopt, Merge, Reindex
from spreadflow.stages import adopt, cells, merge, simulate

PROGRAM = shutil.which("dials.stills_process")

pytestmark = [
    pytest.mark.chain,
    pytest.mark.skipif(PROGRAM is None, reason="no DIALS on PATH: apt-get install python3-dials"),
]

LAB = {
    "seed": 5,
    "runs": {"r": {"simulate": {"n_single": 3}}},
    "detector": {"shape": [1280, 1280]},
    "index": {"cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0], "d_min": 2.2},
    "annulus": {"d_min": 2.3},
    "cells": {"eps_ang": 3.0},
    "merge": {"d_min": 2.5},
}
"""Three stills of the middle of the demo's detector."""

OF_LAB = """
indexing.known_symmetry.unit_cell=67.2,59.8,47.2,90,110.3,90
indexing.known_symmetry.space_group=C121
"""

THERMOLYSIN = {
    "runs": {"r": {"images": "manifest.json"}},
    "index": {
        "cell": [92.9, 92.9, 130.3, 90.0, 90.0, 120.0],
        "space_group": "P 61 2 2",
        "d_min": 2.2,
    },
    "recording": {"gain": 2.8},
    "annulus": {"d_min": 2.3},
    "cells": {"eps_ang": 3.0, "min_samples": 1},
    "merge": {"d_min": 2.5},
}
"""Two stills of LCLS, with charge that is shared between pixels."""

OF_THERMOLYSIN = """
spotfinder.filter.min_spot_size=2
spotfinder.threshold.dispersion.gain=25
spotfinder.threshold.dispersion.global_threshold=100
indexing.known_symmetry.unit_cell=92.9,92.9,130.3,90,90,120
indexing.known_symmetry.space_group=P6122
indexing.refinement_protocol.d_min_start=1.7
refinement.parameterisation.auto_reduction.action=fix
refinement.parameterisation.auto_reduction.min_nref_per_parameter=1
"""
"""The options of DIALS' own test of these stills."""


def dials(program: str, *arguments: object, folder: Path) -> str:
    """Run a program of DIALS and return what it prints."""
    # Debian ships DIALS without a module that stills_process imports and does not use here
    (folder / "xfel_mono_sim_ext.py").write_text("class bandpass_gaussian:\n    pass\n")
    variables = {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [f"dials.{program}", *map(str, arguments)],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


def indexed_by_dials(paths: list[Path], options: str, has_symmetry: bool, folder: Path) -> None:
    """Index stills by dials.stills_process: writes idx-0000_*.expt and .refl into a folder."""
    folder.mkdir()
    how = f"indexing.stills.refine_candidates_with_known_symmetry={has_symmetry}\n"
    (folder / "still.phil").write_text(options + how)
    dials("stills_process", "still.phil", "mp.nproc=1", *paths, folder=folder)


def has_inversion(expt: Path) -> bool:
    """Whether a list states a group with an inversion, as a Laue group is."""
    return gemmi.symops_from_hall(ExperimentList(expt)[0].hall).is_centrosymmetric()


def spec_file(folder: Path, *pairs: tuple[str, str]) -> Path:
    """Write a spec file of all experiments of pairs of files of a folder."""
    lines = []
    for expt, refl in pairs:
        n = len(ExperimentList(folder / expt))
        lines += [f"{expt} {refl} {number}\n" for number in range(n)]
    path = folder / "spec.txt"
    path.write_text("".join(lines))
    return path


def adopted(tree: dict, manifest: Path, spec: Path, out: Path) -> tuple[np.ndarray, Reindex]:
    """Return the outcome of each line, and the product of reindex that is written."""
    config = for_stage(section(parse(tree), "adopt", "r"), "adopt")
    adopt.run(config, images=manifest, spec=spec, out=out, world=World())
    ends = store.read(out.with_name("adopt.h5"), Adopt).lines.outcome
    return ends, store.read(out, Reindex)


def merged(tree: dict, reindex: Path) -> Merge:
    """Run cells and merge on a product of reindex."""
    inputs = {"reindex": [reindex], "world": World()}
    of_cells = reindex.with_name("cells.h5")
    config = for_stage(section(parse(tree), "cells"), "cells")
    cells.run(config, **inputs, out=of_cells)
    out = reindex.with_name("merge.h5")
    config = for_stage(section(parse(tree), "merge"), "merge")
    merge.run(config, **inputs, cells=of_cells, out=out)
    return store.read(out, Merge)


def _simulate(folder: Path) -> None:
    config = for_stage(section(parse(LAB), "simulate", "r"), "simulate")
    simulate.run(config, run="r", out=folder / "manifest.json", world=World(), shots=None)


@pytest.fixture(scope="module")
def lab_stills() -> Path:
    """The manifest of simulated stills."""
    folder = cached_folder("dials_lab", _simulate, "spreadflow.stages.simulate", also=repr(LAB))
    return folder / "manifest.json"


@pytest.fixture(scope="module")
def of_dials(lab_stills, tmp_path_factory) -> SimpleNamespace:
    """The stills indexed by DIALS in its way of many candidates, and adopted."""
    folder = tmp_path_factory.mktemp("of_dials")
    files = images.read_manifest(lab_stills).files
    paths = [lab_stills.parent / file.path for file in files]
    indexed_by_dials(paths, OF_LAB, True, folder / "dials")
    names = ("idx-0000_integrated.expt", "idx-0000_integrated.refl")
    spec = spec_file(folder / "dials", names)
    ends, reindex = adopted(LAB, lab_stills, spec, folder / "reindex.h5")
    return SimpleNamespace(folder=folder, ends=ends, reindex=reindex)


def test_all_stills_of_the_lab_are_adopted_and_merged(of_dials):
    """DIALS states the Laue group alone."""
    assert has_inversion(of_dials.folder / "dials" / "idx-0000_integrated.expt")
    assert of_dials.ends.tolist() == [AdoptOutcome.ADOPTED] * 3
    assert np.all(of_dials.reindex.lattices.n_indexed > 20)
    product = merged(LAB, of_dials.folder / "reindex.h5")
    assert len(product.merged) > 100


@pytest.mark.long
def test_so_are_those_of_the_usual_way_of_dials(lab_stills, tmp_path):
    """Without refined candidates the list has the space group."""
    files = images.read_manifest(lab_stills).files
    paths = [lab_stills.parent / file.path for file in files]
    indexed_by_dials(paths, OF_LAB, False, tmp_path / "dials")
    pair = ("idx-0000_refined.expt", "idx-0000_indexed.refl")
    spec = spec_file(tmp_path / "dials", pair)
    ends, _ = adopted(LAB, lab_stills, spec, tmp_path / "reindex.h5")
    assert ends.tolist() == [AdoptOutcome.ADOPTED] * 3
    assert len(merged(LAB, tmp_path / "reindex.h5").merged) > 100


@pytest.mark.parametrize(
    "has_symmetry", [True, pytest.param(False, marks=pytest.mark.long)], ids=["laue", "group"]
)
def test_both_stills_of_thermolysin_are_adopted_and_merged(real_stills, tmp_path, has_symmetry):
    paths = sorted((real_stills / "thermolysin_cspad").glob("*.cbf"))
    indexed_by_dials(paths, OF_THERMOLYSIN, has_symmetry, tmp_path / "dials")
    manifest = tmp_path / "manifest.json"
    images.write_manifest(manifest, "r", paths, adu_per_photon=9.0)
    pair = ("idx-0000_integrated.expt", "idx-0000_integrated.refl")
    spec = spec_file(tmp_path / "dials", pair)
    assert has_inversion(tmp_path / "dials" / pair[0]) == has_symmetry
    ends, reindex = adopted(THERMOLYSIN, manifest, spec, tmp_path / "reindex.h5")
    assert ends.tolist() == [AdoptOutcome.ADOPTED] * 2
    assert np.all(reindex.lattices.n_indexed > 60)
    assert len(merged(THERMOLYSIN, tmp_path / "reindex.h5").merged) > 100


@pytest.fixture(scope="module")
def exported(of_dials) -> Path:
    """A folder with the adopted lattices as `spreadflow export` writes them."""
    folder = of_dials.folder / "exported"
    folder.mkdir()
    words = [of_dials.folder / "reindex.h5", "--to", "dials", "--out", folder / "ours"]
    assert cli.main(["export", *map(str, words)]) == 0
    return folder


def test_what_dials_reads_and_rewrites_is_the_same_to_us(of_dials, exported, lab_stills, tmp_path):
    """Ours, split by DIALS into files of its own, and adopted again: A to the precision of the
    format, and the reflections to the bit.
    """
    dials("split_experiments", "ours.expt", "ours.refl", folder=exported)
    names = [(f"split_{n}.expt", f"split_{n}.refl") for n in range(3)]
    whole = Pair(exported / "ours.expt", exported / "ours.refl")
    for number, (expt, refl) in enumerate(names):
        ours = whole[number]
        theirs = Pair(exported / expt, exported / refl)[0]
        assert theirs.identifier == ours.identifier
        assert (theirs.image, theirs.frame) == (ours.image, ours.frame)
        assert theirs.wavelength == ours.wavelength
        np.testing.assert_allclose(theirs.A, ours.A, rtol=0, atol=1e-15)
        for name, column in ours.reflections._asdict().items():
            np.testing.assert_array_equal(getattr(theirs.reflections, name), column, err_msg=name)
    spec = spec_file(exported, *names)
    ends, reindex = adopted(LAB, lab_stills, spec, tmp_path / "reindex.h5")
    assert ends.tolist() == [AdoptOutcome.ADOPTED] * 3
    before = of_dials.reindex.lattices
    np.testing.assert_allclose(reindex.lattices.A, before.A, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(reindex.lattices.shot_id, before.shot_id)


def test_dials_shows_and_exports_ours(of_dials, exported):
    """An unmerged MTZ has a row for each reflection that was integrated."""
    shown = dials("show", "ours.expt", "ours.refl", folder=exported)
    assert "Space group: C 1 2 1" in shown
    pair = Pair(exported / "ours.expt", exported / "ours.refl")
    n = sum(len(pair[number].reflections.hkl) for number in range(len(pair)))
    assert f"Reflection list contains {n} reflections" in shown
    options = ["format=mtz", "intensity=sum", "mtz.hklout=ours.mtz"]
    dials("export", "ours.expt", "ours.refl", *options, folder=exported)
    mtz = gemmi.read_mtz_file(str(exported / "ours.mtz"))
    assert mtz.nreflections == n
    assert mtz.spacegroup.hm == "C 1 2 1"


def test_dials_refines_ours(exported):
    """Those that have a spot; the others have their prediction in its place."""
    options = ["flag_expression=indexed", "output.reflections=spots.refl"]
    dials("filter_reflections", "ours.refl", *options, folder=exported)
    options = ["refinement.parameterisation.beam.fix=all", "outlier.algorithm=null"]
    dials("refine", "ours.expt", "spots.refl", *options, folder=exported)
    ours = ExperimentList(exported / "ours.expt")
    refined = ExperimentList(exported / "refined.expt")
    assert len(refined) == len(ours)
    for number in range(len(ours)):
        turn = refined[number].A @ np.linalg.inv(ours[number].A)
        assert np.abs(turn - np.eye(3)).max() < 5e-3
