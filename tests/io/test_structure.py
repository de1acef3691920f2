"""Models and curves as others write them, and files that are none."""

import gemmi
import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io import structure
from spreadflow.physics import unit_cell
from spreadflow.physics.structure_factors import structure_factors

CELL = unit_cell.radians([30.0, 26.0, 22.0, 90.0, 108.0, 90.0])
PDB = """\
CRYST1   30.000   26.000   22.000  90.00 108.00  90.00 C 1 2 1       4
ATOM      1  CA  ALA A   1       3.000   4.000   5.000  1.00 20.00           C
ANISOU    1  CA  ALA A   1     2000   3000   2500    100   -200    300       C
ATOM      2  N   ALA A   1       4.200   4.100   5.800  0.50 25.00           N
HETATM    3 FE1  FES A 201      10.000   9.000   8.000  1.00 12.00          FE
HETATM    4  D1  DOD A 301       1.000   9.000   8.000  1.00 12.00           D
END
"""


@pytest.fixture
def pdb(tmp_path):
    path = tmp_path / "model.pdb"
    path.write_text(PDB)
    return path


def test_pdb_and_mmcif_give_what_gemmi_calculates(pdb):
    cif = pdb.with_suffix(".cif")
    gemmi.read_structure(str(pdb)).make_mmcif_document().write_file(str(cif))
    reference = gemmi.read_structure(str(pdb))
    reference.setup_cell_images()
    calculator = gemmi.StructureFactorCalculatorX(reference.cell)
    for path in (pdb, cif):
        atoms = structure.read(path, CELL, "C 1 2 1")
        assert list(atoms.names) == ["CA", "N", "FE1", "D1"]
        assert list(atoms.elements) == [
            "C",
            "N",
            "Fe",
            "H",
        ]
        f = structure_factors(atoms, CELL, "C 1 2 1", d_min=3.0, sites={}, others={})
        truth = [calculator.calculate_sf_from_model(reference[0], h) for h in f.hkl.tolist()]
        np.testing.assert_allclose(
            f.at(np.arange(len(f.hkl)))[:, 0], truth, atol=2e-3 * np.abs(truth).mean()
        )


def test_another_crystal_is_refused(pdb):
    with pytest.raises(FileError, match="space group 'P 1 2 1'"):
        structure.read(pdb, CELL, "P 1 2 1")
    with pytest.raises(FileError, match=r"cell .* as configured"):
        structure.read(pdb, unit_cell.radians([33.0, 26.0, 22.0, 90.0, 108.0, 90.0]), "C 1 2 1")


@pytest.mark.parametrize("text", ["", "no model at all\n", PDB.splitlines()[0] + "\n"])
def test_a_file_without_atoms_is_refused(tmp_path, text):
    path = tmp_path / "empty.pdb"
    path.write_text(text)
    with pytest.raises(FileError):
        structure.read(path, CELL, "C 1 2 1")
    with pytest.raises(FileError):
        structure.read(tmp_path / "absent.pdb", CELL, "C 1 2 1")


def test_curves_of_measured_tables(shared_data):
    path = shared_data / "pf-rd-ox_fftkk.out"
    table = np.loadtxt(path)
    row = np.argmin(np.abs(table[:, 0] - 7120))
    curve = structure.read_curve(path).at(np.array([7120.0, 7120.5]))

    _, fp, fdp = table[row]
    _, middle_fp, middle_fdp = table[row : row + 2].mean(axis=0)

    assert curve[0] == pytest.approx(fp + 1j * fdp)
    assert curve[1] == pytest.approx(middle_fp + 1j * middle_fdp)


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3 4\n",
        "7000 -1 2\n",
        "7200 -1 2\n7100 -2 3\n",
        "7100 -1 2\n7110 -2 3\n",
        "7100 -1 nan\n7120 -2 3\n",
        "x\n",
    ],
)
def test_a_table_that_is_no_curve_is_refused(tmp_path, text):
    path = tmp_path / "curve.dat"
    path.write_text(text)
    with pytest.raises(FileError):
        structure.read_curve(path).at(np.array([7105.0, 7115.0]))
