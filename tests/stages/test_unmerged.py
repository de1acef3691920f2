"""Observations of a merge for other programs, which merge them to the same intensities."""

import gemmi
import numpy as np
import pytest

from spreadflow.cli.main import main
from spreadflow.errors import FileError, LatticeOutcome
from spreadflow.io import merged_intensities
from spreadflow.physics import symmetry
from spreadflow.products import Merge
from spreadflow.stages import deposition, unmerged
from two_runs import CELL, GROUP, TwoRuns

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("unmerged")


@pytest.fixture(scope="module")
def two_runs(folder, filled) -> TwoRuns:
    return TwoRuns(folder, filled)


@pytest.fixture(scope="module")
def product(two_runs, folder) -> Merge:
    product, _ = two_runs.run(folder / "merge.h5", min_multiplicity=2)
    return product


@pytest.fixture(scope="module")
def exported(product, folder) -> gemmi.Mtz:
    """The unmerged MTZ file, read again."""
    [path] = unmerged.export(folder / "merge.h5", folder / "merge")
    assert path == folder / "merge_unmerged.mtz"
    return gemmi.read_mtz_file(str(path))


@pytest.fixture(scope="module")
def deposited(product, folder) -> gemmi.ReflnBlocks:
    """The blocks of the mmCIF file."""
    [path] = deposition.export(folder / "merge.h5", folder / "merge")
    assert path == folder / "merge.cif"
    return gemmi.as_refln_blocks(gemmi.cif.read(str(path)))


def by_mate(data: gemmi.Intensities) -> dict[tuple, tuple[float, float]]:
    """Index and sign of the mate → I and σ, once each."""
    indices = np.array(data.miller_array)
    sign = np.array(data.isign_array)
    sign[symmetry.is_centric(indices, GROUP)] = 1
    keys = list(map(tuple, np.column_stack([indices, sign]).tolist()))
    values = zip(data.value_array, data.sigma_array, strict=True)
    result = dict(zip(keys, values, strict=True))
    assert len(result) == len(keys)
    return result


def merged_by_gemmi(file: gemmi.Mtz) -> dict[tuple, tuple[float, float]]:
    """The same, merged by gemmi."""
    data = gemmi.Intensities()
    data.import_mtz(file, gemmi.DataType.Unmerged)
    return by_mate(data.merged(gemmi.DataType.Anomalous))


def of_product(product: Merge) -> dict[tuple, float]:
    """Index and sign of the mate → I, of our own merge."""
    sign = np.where(product.merged.friedel < 0, -1, 1)
    keys = map(tuple, np.column_stack([product.merged.hkl, sign]).tolist())
    return dict(zip(keys, product.merged.intensity.tolist(), strict=True))


def test_gemmi_merges_them_to_the_same_intensities(exported, product):
    theirs = merged_by_gemmi(exported)
    ours = of_product(product)
    assert theirs.keys() == ours.keys()
    for key, intensity in ours.items():
        assert theirs[key][0] == pytest.approx(intensity, rel=2e-6, abs=1e-5)


def test_gemmi_finds_that_merged_and_unmerged_files_match(exported, product, folder):
    """As `gemmi merge --compare` and the PDB do."""
    ours = gemmi.Intensities()
    ours.import_mtz(gemmi.read_mtz_file(str(folder / "merge.mtz")), gemmi.DataType.MergedMA)
    observations = gemmi.Intensities()
    observations.import_mtz(exported, gemmi.DataType.Unmerged)
    messages: list[str] = []
    matches = gemmi.validate_merged_intensities(ours, observations, False, messages.append)
    assert matches, messages


def test_a_batch_is_a_lattice_that_was_used(exported, product, two_runs):
    used = product.lattices[product.lattices.used]
    assert len(exported.batches) == len(used)
    assert [batch.number for batch in exported.batches] == list(range(1, len(used) + 1))
    names = [
        f"{['one', 'two'][run]} shot {shot_id} k {k}"
        for run, shot_id, k in zip(used.run, used.shot_id, used.k, strict=True)
    ]
    assert [batch.title.removeprefix("TITLE ") for batch in exported.batches] == names
    energies = np.where(used.run == 0, 7120.0, 7130.0)
    wavelengths = [batch.wavelength for batch in exported.batches]
    np.testing.assert_allclose(wavelengths, 12398.4197386 / energies, rtol=1e-6)
    assert {batch.dataset_id for batch in exported.batches} == {exported.datasets[-1].id}
    numbers = np.array(exported.column_with_label("BATCH").array)
    assert set(numbers) <= {*range(1, len(used) + 1)}


def test_indices_are_those_that_were_observed_on_the_shared_axes(exported, product, two_runs):
    """Of the lattices on other axes as well."""
    isym = np.array(exported.column_with_label("M/ISYM").array)
    batches = np.array(exported.column_with_label("BATCH").array).astype(int)
    assert set(isym) <= {*range(1, 17)}
    used = product.lattices[product.lattices.used]
    position = {
        identity: number
        for number, identity in enumerate(two_runs.lattices)
        if two_runs.outcome[number] == LatticeOutcome.ACCEPTED
    }
    observed = np.concatenate([part.hkl for part in two_runs.reflections]).reshape(-1, 80, 3)
    original = gemmi.read_mtz_file(str(two_runs.cells.with_name("merge_unmerged.mtz")))
    assert original.switch_to_original_hkl()
    indices = original.make_miller_array()
    for number in (1, 2, 7, len(used)):
        row = number - 1
        identity = (int(used.run[row]), int(used.shot_id[row]), int(used.k[row]))
        there = set(map(tuple, observed[position[identity]].tolist()))
        assert set(map(tuple, indices[batches == number].tolist())) <= there


def test_sides_follow_from_isym(exported, product):
    """Odd is I(+): as many observations of each as the merge counted."""
    isym = np.array(exported.column_with_label("M/ISYM").array).astype(int)
    indices = exported.make_miller_array()
    is_centric = symmetry.is_centric(indices, GROUP)
    sides = np.where(is_centric, 0, np.where(isym % 2, 1, -1))
    for side in (-1, 0, 1):
        n = product.merged.n[product.merged.friedel == side].sum()
        assert (sides == side).sum() == n > 0
    assert len(isym) == product.merged.n.sum(), "what was measured once is left out, as in merge"


def test_mmcif_has_merged_intensities_and_observations(deposited, product, folder):
    assert [block.block.name for block in deposited] == ["merged", "unmerged"]
    merged, observations = deposited
    assert merged.is_merged()
    assert observations.is_unmerged()
    assert observations.wavelength == pytest.approx(merged.wavelength)

    measured = merged_intensities.read(folder / "merge.cif", np.array(CELL), GROUP)
    theirs = dict(zip(map(tuple, measured.hkl.tolist()), measured.intensity, strict=True))
    for (h, k, l, sign), intensity in of_product(product).items():
        hkl = (sign * h, sign * k, sign * l)
        assert theirs[hkl] == pytest.approx(intensity, rel=1e-4, abs=1e-4)

    data = gemmi.Intensities()
    data.import_refln_block(observations, gemmi.DataType.Unmerged)
    again = by_mate(data.merged(gemmi.DataType.Anomalous))
    assert again.keys() == of_product(product).keys(), "mates are told apart"


def test_products_that_were_made_anew_since_are_refused(two_runs, folder, filled, product):
    elsewhere = folder / "elsewhere" / "merge.h5"
    two_runs.run(elsewhere)
    with pytest.raises(FileError, match="nothing"):
        unmerged.export(elsewhere, elsewhere.with_suffix(""))
    for run in ("one", "two"):
        (elsewhere.parent / run).symlink_to(folder / run)
    (elsewhere.parent / "cells.h5").write_text("another one")
    with pytest.raises(FileError, match="Rerun merge"):
        unmerged.export(elsewhere, elsewhere.with_suffix(""))


def test_products_without_intensities_are_refused(two_runs, folder):
    with pytest.raises(FileError, match="kind 'merge'"):
        unmerged.export(two_runs.cells, folder / "cells")
    with pytest.raises(FileError, match="merge or stage2"):
        deposition.export(two_runs.cells, folder / "cells")


@pytest.mark.parametrize(
    ("word", "name"),
    [("mtz", "out_unmerged.mtz"), ("mmcif", "out.cif"), ("json", "out_populations.json")],
)
def test_the_command_writes_each_format_and_says_where(word, name, product, folder, capsys):
    exported = folder / ("cells.h5" if word == "json" else "merge.h5")
    options = ["--to", word, "--out", str(folder / "out")]
    status = main(["export", str(exported), *options])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.splitlines()[-1] == str(folder / name)
    assert (folder / name).stat().st_size > 0
