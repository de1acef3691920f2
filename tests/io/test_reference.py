"""References from MTZ files, structure factors in mmCIF and models."""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
from spreadflow.errors import FileError
from spreadflow.io import mtz, reference

CELL = np.array([40.0, 40.0, 70.0, 90.0, 90.0, 90.0])
GROUP = "P 43 21 2"


@pytest.fixture(scope="module")
def unique() -> Unique:
    return Unique(CELL, GROUP, 3.0)


def test_own_merged_intensities_are_a_reference(unique, tmp_path):
    """As MTZ, and as the structure factors in mmCIF that gemmi makes of it."""
    plus = np.flatnonzero(unique.friedel >= 0)
    intensity = np.arange(len(unique)) + 1.0
    path = tmp_path / "m.mtz"
    columns = mtz.MergedTable(
        hkl=unique.hkl[plus],
        friedel=unique.friedel[plus],
        intensity=intensity[plus],
        sigma=np.ones(len(plus)),
        n=np.ones(len(plus)),
    )
    mtz.write_merged(path, columns, cell=CELL, space_group=GROUP, wavelength=1.7414)
    as_cif = tmp_path / "m.cif"
    as_cif.write_text(gemmi.MtzToCif().write_cif_to_string(gemmi.read_mtz_file(str(path))))
    for each in (path, as_cif):
        value = unique.values(*reference.read(each, CELL, GROUP, 3.0)[:2])
        np.testing.assert_allclose(value[plus], intensity[plus], rtol=1e-5)
        mates = np.flatnonzero(unique.friedel > 0)
        np.testing.assert_array_equal(value[mates], value[unique.mate[mates]])


def test_amplitudes_are_squared_and_indices_brought_to_the_asu(unique, tmp_path):
    file = gemmi.Mtz(with_base=True)
    file.spacegroup = unique.space_group
    file.cell = unique.cell
    file.add_dataset("x")
    file.add_column("FP", "F")
    plus = np.flatnonzero(unique.friedel >= 0)
    turned = -unique.hkl[plus][:, [1, 0, 2]]  # a two-fold of the Laue group and the inverse
    file.set_data(np.column_stack([turned, plus + 1.0]).astype(np.float32))
    file.write_to_file(str(tmp_path / "f.mtz"))
    hkl, intensity, _ = reference.read(tmp_path / "f.mtz", CELL, GROUP, 3.0)

    np.testing.assert_allclose(unique.values(hkl, intensity)[plus], (plus + 1.0) ** 2, rtol=1e-6)


def model(folder, group: str = GROUP):
    """Write a PDB file of 200 carbon atoms, and return its path."""
    structure = gemmi.Structure()
    structure.cell = gemmi.UnitCell(*CELL)
    structure.spacegroup_hm = group
    chain = gemmi.Chain("A")
    for i, x in enumerate(np.random.default_rng(2).random((200, 3))):
        residue = gemmi.Residue()
        residue.name = "ALA"
        residue.seqid = gemmi.SeqId(i + 1, " ")
        atom = gemmi.Atom()
        atom.name = "CA"
        atom.element = gemmi.Element("C")
        atom.b_iso = 20.0
        atom.pos = structure.cell.orthogonalize(gemmi.Fractional(*x))
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure.add_model(gemmi.Model(1))
    structure[0].add_chain(chain)
    structure.write_pdb(str(folder / "model.pdb"))
    return folder / "model.pdb"


def test_model_without_solvent_is_the_direct_sum(unique, tmp_path, monkeypatch):
    """At high resolution, where the solvent does not reach, the FFT equals gemmi's direct sum over
    atoms.
    """
    monkeypatch.setattr(reference, "K_SOL", 0.0)
    path = model(tmp_path)
    value = unique.values(*reference.read(path, CELL, GROUP, 3.0)[:2])
    structure = gemmi.read_structure(str(path))
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)
    chosen = np.flatnonzero(unique.friedel >= 0)[::11]
    direct = [
        abs(calculator.calculate_sf_from_model(structure[0], h)) ** 2
        for h in unique.hkl[chosen].tolist()
    ]

    amplitude = np.sqrt(direct)
    difference = np.abs(np.sqrt(value[chosen]) - amplitude)

    assert difference.sum() < 0.01 * amplitude.sum()


def test_solvent_changes_low_resolution_only(unique, tmp_path, monkeypatch):
    path = model(tmp_path)
    with_solvent = unique.values(*reference.read(path, CELL, GROUP, 3.0)[:2])
    monkeypatch.setattr(reference, "K_SOL", 0.0)
    without = unique.values(*reference.read(path, CELL, GROUP, 3.0)[:2])

    amplitude = np.sqrt(without)
    change = np.abs(np.sqrt(with_solvent) - amplitude) / amplitude.mean()
    low = change[unique.d > 12].mean()
    high = change[unique.d < 3.3].mean()

    assert low > 5 * high


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "Give reference intensities"),
        ("garbage", "Give reference intensities"),
        ("other group", "Laue group and centring"),
        ("other cell", "cell .* to 1 %"),
    ],
)
def test_references_that_cannot_serve_are_refused(kind, message, tmp_path):
    path = tmp_path / "x.mtz"
    if kind == "garbage":
        path.write_text("no MTZ file")
    if kind == "other group":
        path = model(tmp_path, "P 1 21 1")
    cell = CELL
    if kind == "other cell":
        path = model(tmp_path)
        cell = CELL * [1.03, 1.03, 1, 1, 1, 1]
    with pytest.raises(FileError, match=message):
        reference.read(path, cell, GROUP, 3.0)


def test_a_model_of_a_program_that_writes_no_cell_is_one_in_the_cell_of_the_lattices(tmp_path):
    """As CRYST1 of 1 Å has it, and with the element column blank: read as structure factors are."""
    path = model(tmp_path)
    whole = reference.read(path, CELL, GROUP, 3.0)
    rows = path.read_text().splitlines()
    rows = [row[:76] if row.startswith(("ATOM", "HETATM")) else row for row in rows]
    dummy = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1"
    rows = [dummy if row.startswith("CRYST1") else row for row in rows]
    path.write_text("\n".join(rows) + "\n")

    repaired = reference.read(path, CELL, GROUP, 3.0)

    np.testing.assert_array_equal(repaired.hkl, whole.hkl)
    np.testing.assert_allclose(repaired.intensity, whole.intensity, rtol=1e-6)
    assert any("no unit cell" in remark for remark in repaired.remarks)
