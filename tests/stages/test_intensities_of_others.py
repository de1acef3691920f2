"""Merged and unmerged files as cctbx (in an environment of its own: `make cctbx`) and
reciprocalspaceship read them, where these are installed.
"""

import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
from spreadflow.io import mtz
from spreadflow.products import Merge
from spreadflow.stages import deposition, unmerged
from two_runs import CELL, GROUP, TwoRuns

PYTHON = Path(__file__).parents[2] / ".venv-cctbx" / "bin" / "python"
pytestmark = pytest.mark.stage
ANOMALOUS = ["I(+)", "SIGI(+)", "I(-)", "SIGI(-)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("others")


@pytest.fixture(scope="module")
def product(folder, filled) -> Merge:
    """The product of merge, with merge.mtz, merge_unmerged.mtz and merge.cif beside it, and
    amplitudes in amplitudes.mtz.
    """
    product, attributes = TwoRuns(folder, filled).run(folder / "merge.h5")
    unmerged.export(folder / "merge.h5", folder / "merge")
    deposition.export(folder / "merge.h5", folder / "merge")
    columns = product.merged.as_dict()
    root = np.sqrt(np.maximum(columns["intensity"], 1.0))
    mtz.write_merged(
        folder / "amplitudes.mtz",
        mtz.MergedTable(**{name: columns[name] for name in mtz.MergedTable._fields}),
        mtz.Amplitudes(root, 0.5 * columns["sigma"] / root),
        cell=np.array(attributes["cell"]),
        space_group=GROUP,
        wavelength=attributes["wavelength_ang"],
    )
    return product


@pytest.fixture(scope="module")
def by_cctbx(product, folder) -> dict:
    """What cctbx reads of the files."""
    if not PYTHON.exists():
        pytest.skip(f"no cctbx at {PYTHON}: make cctbx")
    names = ["merge.mtz", "amplitudes.mtz", "merge.cif", "merge_unmerged.mtz"]
    files = [folder / name for name in names]
    peer = Path(__file__).with_name("cctbx_intensities.py")
    out = folder / "cctbx.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run([PYTHON, peer, out, *files], check=True, env=environment, timeout=120)
    return json.loads(out.read_text())


def assert_same(product: Merge, hkl, intensity, rtol: float = 2e-6) -> None:
    """Check that intensities are those of the product, each unique reflection once."""
    unique = Unique(np.array(CELL), GROUP, 0.9 * 3.5)
    sign = np.where(product.merged.friedel < 0, -1, 1)[:, np.newaxis]
    ours = np.full(len(unique), np.nan)
    ours[unique.rows(sign * product.merged.hkl)] = product.merged.intensity
    rows = unique.rows(np.array(hkl))
    assert len(np.unique(rows)) == len(rows) == len(product.merged)
    np.testing.assert_allclose(np.array(intensity), ours[rows], rtol=rtol, atol=1e-4)


def array_of(arrays: list[dict], labels: list[str]) -> dict:
    """The array of these labels."""
    [array] = [array for array in arrays if array["labels"] == labels]
    return array


def test_cctbx_takes_mates_together_and_counts_with_them(by_cctbx, product):
    """Counts are those of the same reflections, and no intensities or amplitudes."""
    for name in ("merge.mtz", "amplitudes.mtz"):
        arrays = by_cctbx[name]
        mates = array_of(arrays, ANOMALOUS)
        assert mates["kind"] == "xray.intensity"
        assert mates["is_anomalous"]
        assert_same(product, mates["hkl"], mates["intensity"])
        counts = array_of(arrays, ["N(+)", "N(-)"])
        assert counts["kind"] == "None"
        assert counts["n"] == mates["n"] == len(product.merged)
        of_means = array_of(arrays, ["IMEAN", "SIGIMEAN"])
        assert not of_means["is_anomalous"]
        assert of_means["n"] == len(np.unique(product.merged.hkl, axis=0))
    kinds = {array["kind"] for array in by_cctbx["amplitudes.mtz"] if "F" in array["labels"][0]}
    assert kinds == {"xray.amplitude"}


def test_cctbx_merges_observations_to_the_same_intensities(by_cctbx, product):
    own = by_cctbx["merge_unmerged.mtz"]
    assert_same(product, own["hkl"], own["intensity"])
    assert own["n_observations"] == product.merged.n.sum()
    assert own["n_unique"] == len(product.merged)


def test_cctbx_reads_both_blocks_of_mmcif(by_cctbx, product):
    arrays = by_cctbx["merge.cif"]
    [mates] = [array for array in arrays if "_refln.pdbx_I_plus" in array["labels"]]
    assert mates["kind"] == "xray.intensity"
    assert_same(product, mates["hkl"], mates["intensity"], rtol=1e-4)
    assert array_of(arrays, ["unmerged", "_diffrn_refln.intensity_net"])["n"] == (
        product.merged.n.sum()
    )


@pytest.fixture(scope="module")
def rs():
    """The package reciprocalspaceship."""
    return pytest.importorskip("reciprocalspaceship", reason="no reciprocalspaceship installed")


def test_reciprocalspaceship_reads_merged_files_without_a_warning(rs, product, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = rs.read_mtz(str(folder / "merge.mtz"))
    assert data.merged
    assert data.wavelength == pytest.approx(1.7404, abs=2e-3)
    stacked = data.stack_anomalous().dropna(subset=["I"])
    assert_same(product, stacked.get_hkls(), stacked["I"].to_numpy(dtype=float))
    assert (stacked["N"].to_numpy(dtype=int) > 0).all()


def test_reciprocalspaceship_merges_observations_to_the_same_intensities(rs, product, folder):
    data = rs.read_mtz(str(folder / "merge_unmerged.mtz"))
    assert not data.merged
    merged = rs.algorithms.merge(data, "I", "SIGI", anomalous=True)
    plus_and_minus = merged[["I(+)", "SIGI(+)", "I(-)", "SIGI(-)"]]
    stacked = plus_and_minus.stack_anomalous().dropna(subset=["I"])
    assert_same(product, stacked.get_hkls(), stacked["I"].to_numpy(dtype=float), rtol=2e-5)
