"""The stage merge on made-up reindex products: counts are conserved, files agree, ranks do not
matter.
"""

import json
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest

import two_runs as two_runs_module
from spreadflow.analysis.merging.merging import Unique
from spreadflow.analysis.merging.selection import Fate
from spreadflow.errors import FileError, LatticeOutcome
from spreadflow.io import store
from spreadflow.models import ReflectionFlag
from spreadflow.products import Merge
from two_runs import CELL, D_MIN, GROUP, PER_LATTICE, TwoRuns

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("merge")


@pytest.fixture(scope="module")
def two_runs(folder, filled) -> TwoRuns:
    return TwoRuns(folder, filled)


@pytest.fixture(scope="module")
def merged(two_runs, folder) -> tuple[Merge, dict]:
    return two_runs.run(folder / "merge.h5")


@pytest.fixture(scope="module")
def product(merged) -> Merge:
    return merged[0]


@pytest.fixture(scope="module")
def attributes(merged) -> dict:
    return merged[1]


def test_every_reflection_of_an_accepted_lattice_is_counted_once(two_runs, product, attributes):
    accepted = two_runs.outcome == LatticeOutcome.ACCEPTED
    counts = attributes["reflections"]
    assert counts.keys() == {end.name.lower() for end in Fate}
    assert sum(counts.values()) == accepted.sum() * PER_LATTICE
    assert (
        counts["used"]
        == product.merged.n.sum()
        == product.lattices.n.sum()
        == product.bins.n_observations.sum()
    )

    flags = np.concatenate([of_part.flags for of_part in two_runs.reflections])
    hkl = np.concatenate([of_part.hkl for of_part in two_runs.reflections])
    is_accepted = np.repeat(accepted, PER_LATTICE)
    failed = (flags & ReflectionFlag.FAILED) != 0

    assert counts["failed"] == (is_accepted & failed).sum()
    assert counts["absent"] == (is_accepted & ~failed & (hkl == [0, 0, 3]).all(axis=1)).sum() > 0
    assert (
        counts["resolution"] == (is_accepted & ~failed & (hkl == [20, 0, 0]).all(axis=1)).sum() > 0
    )
    assert counts["partiality"] > 0
    assert counts["few"] > 0


def test_accepted_lattices_are_told_with_their_fate(two_runs, product, attributes):
    accepted = [
        l
        for l, end in zip(two_runs.lattices, two_runs.outcome, strict=True)
        if end == LatticeOutcome.ACCEPTED
    ]
    lattices = product.lattices
    listed = list(zip(lattices.run, lattices.shot_id, lattices.k, strict=True))

    assert listed == accepted
    assert attributes["n_lattices_in"] == len(accepted)

    used = lattices.used
    assert 0 < (~used).sum() < len(used)
    assert (lattices.n[~used] == 0).all()
    assert np.isnan(lattices.scale[~used]).all()
    assert (lattices.scale[used] > 0).all()


def test_merged_intensities_are_the_truth_within_their_errors(two_runs, product):
    sign = np.where(product.merged.friedel < 0, -1, 1)[:, None]
    truth = two_runs.truth[two_runs.unique.rows(sign * product.merged.hkl)]
    value = product.merged.intensity
    sigma = product.merged.sigma
    level = np.sum(value * truth / sigma**2) / np.sum(truth**2 / sigma**2)
    pull = (value - level * truth) / sigma

    assert abs(np.median(pull)) < 0.15
    assert 0.85 < pull.std() < 1.25


def test_wavelength_is_that_of_the_lattices(product, attributes):
    used = product.lattices.used
    energy = np.where(product.lattices.run[used] == 0, 7120.0, 7130.0).mean()
    assert attributes["wavelength_ang"] == pytest.approx(12398.4197386 / energy, rel=1e-9)


def test_an_indexing_ambiguity_is_told(two_runs, attributes, folder, filled, monkeypatch):
    """P 43 on the same tetragonal cell may be indexed in two ways; in P 43 21 2 they are
    equivalent.
    """
    assert attributes["ambiguities"] == attributes["warnings"] == []

    monkeypatch.setattr(two_runs_module, "GROUP", "P 43")
    monkeypatch.setattr(two_runs, "cells", folder / "lower" / "cells.h5")
    two_runs.write_cells(filled)
    _, lower = two_runs.run(folder / "lower" / "merge.h5")

    assert len(lower["ambiguities"]) == 1
    assert "several ways" in lower["warnings"][0]["what"]


def test_mtz_holds_the_same_numbers(two_runs, product, attributes, folder):
    data = gemmi.Intensities()
    file = gemmi.read_mtz_file(str(folder / "merge.mtz"))
    data.import_mtz(file, gemmi.DataType.Anomalous)
    sign = np.array(data.isign_array)
    rows = two_runs.unique.rows
    our_sign = np.where(product.merged.friedel < 0, -1, 1)[:, None]
    our_rows = rows(product.merged.hkl * our_sign).tolist()
    ours = dict(zip(our_rows, product.merged.intensity, strict=True))
    their_sign = np.where(sign[:, None] < 0, -1, 1)
    their_rows = rows(their_sign * np.array(data.miller_array)).tolist()
    theirs = dict(zip(their_rows, data.value_array, strict=True))

    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([theirs[r] for r in ours], list(ours.values()), rtol=1e-6)
    assert file.dataset(1).wavelength == pytest.approx(attributes["wavelength_ang"], abs=1e-5), (
        "MTZ keeps five decimals"
    )


def test_few_measurements_are_left_out_and_counted(two_runs, product, attributes, folder):
    strict, of_strict = two_runs.run(folder / "strict" / "merge.h5", min_multiplicity=4)
    assert strict.merged.n.min() == 4
    counts = of_strict["reflections"]
    before = attributes["reflections"]
    assert counts["multiplicity"] == product.merged.n[product.merged.n < 4].sum()
    assert sum(counts.values()) == sum(before.values())


def test_reference_is_named_and_sets_the_scale(two_runs, folder):
    """mark0 against the truth as an MTZ: merged intensities come out on its scale."""
    file = gemmi.Mtz(with_base=True)
    unique = two_runs.unique
    file.spacegroup = unique.space_group
    file.cell = unique.cell
    file.add_dataset("truth")
    file.add_column("IMEAN", "J")
    plus = unique.friedel >= 0
    mate = np.where(unique.mate < 0, np.arange(len(plus)), unique.mate)
    mean = 0.5 * (two_runs.truth + two_runs.truth[mate])
    table = np.column_stack([unique.hkl, 1000.0 * mean])
    file.set_data(table[plus].astype(np.float32))
    reference = str(folder / "truth.mtz")
    file.write_to_file(reference)
    product, attributes = two_runs.run(folder / "mark0" / "merge.h5", reference=reference)

    assert attributes["scaling"] == "mark0 against truth.mtz"

    sign = np.where(product.merged.friedel < 0, -1, 1)[:, None]
    truth = two_runs.truth[unique.rows(sign * product.merged.hkl)]
    scale = np.median(product.merged.intensity / truth)
    assert scale == pytest.approx(1000.0, rel=0.03)


def test_a_reference_without_a_reflection_in_common_is_refused(two_runs, folder):
    """It has some beyond the resolution of the merge alone."""
    finer = Unique(CELL, GROUP, 0.8 * D_MIN)
    is_beyond = (finer.friedel >= 0) & (finer.d < 0.99 * D_MIN)
    file = gemmi.Mtz(with_base=True)
    file.spacegroup = finer.space_group
    file.cell = finer.cell
    file.add_dataset("beyond")
    file.add_column("IMEAN", "J")
    table = np.column_stack([finer.hkl, np.ones(len(finer))])
    file.set_data(table[is_beyond].astype(np.float32))
    file.write_to_file(str(folder / "beyond.mtz"))
    with pytest.raises(FileError, match=f"none of {is_beyond.sum()}"):
        two_runs.run(folder / "no" / "merge.h5", reference=str(folder / "beyond.mtz"))


def test_products_that_do_not_belong_together_are_refused(two_runs, folder, filled, tmp_path):
    other = TwoRuns(tmp_path, filled)
    other.lattices = [(r, s + 1, k) for r, s, k in other.lattices]
    other.write_cells(filled)
    with pytest.raises(FileError, match="Rerun cells"):
        other.run(tmp_path / "merge.h5")


def test_the_same_run_twice_is_refused(filled, tmp_path):
    other = TwoRuns(tmp_path, filled)
    other.reindex.append(other.reindex[0])
    with pytest.raises(FileError, match="each run once; found one again"):
        other.run(tmp_path / "merge.h5")


def test_nothing_to_merge_is_said(two_runs, filled, tmp_path):
    other = TwoRuns(tmp_path, filled)
    other.outcome = np.full_like(other.outcome, LatticeOutcome.NOISE)
    other.write_cells(filled)
    with pytest.raises(FileError, match="none"):
        other.run(tmp_path / "merge.h5")


@pytest.mark.stage
@pytest.mark.parametrize("ranks", [2, 3])
def test_product_is_the_same_on_any_number_of_ranks(two_runs, product, folder, tmp_path, ranks):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    words = [
        str(LAUNCHER),
        "-n",
        str(ranks),
        sys.executable,
        "-m",
        "spreadflow.cli",
        "merge",
        "--ranks",
        str(ranks),
    ]
    words += [
        "--config",
        json.dumps({"merge": {"d_min": D_MIN}}),
        "--out",
        str(tmp_path / "merge.h5"),
    ]
    words += ["--reindex", *map(str, two_runs.reindex), "--cells", str(two_runs.cells)]
    subprocess.run(words, check=True, timeout=120)
    again = store.read(tmp_path / "merge.h5", Merge)

    for path, column in again.datasets().items():
        np.testing.assert_array_equal(column, product.datasets()[path], err_msg=path)
