"""Models as others write them: what is repaired is said, and what is wrong is named."""

import gzip

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
        atoms, remarks = structure.read(path, CELL, "C 1 2 1")
        assert remarks == []
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


def atom(name, element="", residue="FES", number=201, chain="A", **columns):
    """A row of an atom. name: as it stands in its four columns; columns: others as they stand in
    theirs.
    """
    numbers = {"x": "   3.000", "y": "   4.000", "z": "   5.000", "occ": "  1.00", "b": " 12.00"}
    values = "".join((numbers | columns).values())
    return f"HETATM    7 {name:<4} {residue:>3} {chain}{number:4d}    {values}          {element}"


def read(tmp_path, *rows, head=None, name="model.pdb"):
    path = tmp_path / name
    head = PDB.splitlines()[0] if head is None else head
    path.write_text("\n".join([head, *rows, "END", ""]))
    return structure.read(path, CELL, "C 1 2 1")


def refusal(tmp_path, *rows, **keys) -> str:
    with pytest.raises(FileError) as error:
        read(tmp_path, *rows, **keys)
    return str(error.value)


def early(row, n=1):
    """A row whose columns from 77 on begin n columns early."""
    return row[: 76 - n] + row[76:]


ALIGNED = atom(" CA ", residue="ALA", number=1)
"""Of protein, its name where it should be, without its element."""

LEFT = atom("CA  ", residue="ALA", number=1)
"""The same, its name in the first column."""


@pytest.mark.parametrize(
    ("rows", "elements"),
    [
        ([ALIGNED, atom("FE1 ")], ["C", "Fe"]),
        ([LEFT, atom("S1  ")], ["C", "S"]),
        ([atom(" ZN ", residue="ZN")], ["Zn"]),
        ([atom(" CA ", residue="CA")], ["Ca"]),
        ([atom("CA  ", residue="CA"), LEFT], ["Ca", "C"]),
        ([atom(" FE ", residue="FE2")], ["Fe"]),
        ([atom(" SE ", residue="MSE"), atom(" SD ", residue="MET")], ["Se", "S"]),
        ([atom("HG11", residue="VAL"), atom("1HB ", residue="ALA")], ["H", "H"]),
        ([atom(" D1 ", residue="DOD"), atom(" O  ", residue="HOH")], ["H", "O"]),
        ([atom("FE1 ", " FE")], ["Fe"]),
        ([early(atom("FE1 ", "FE"))], ["Fe"]),
        ([early(atom(" FE1", "FE"))], ["Fe"]),
        ([early(atom(" ZN1", "ZN2+"))], ["Zn"]),
        ([atom("FE1 ", "FE")[:72] + "AAAAFE"], ["Fe"]),
    ],
)
def test_elements_are_those_of_the_names_where_their_columns_are_blank_or_shifted(
    tmp_path, rows, elements
):
    atoms, remarks = read(tmp_path, *rows)
    assert list(atoms.elements) == elements
    assert len(remarks) == 1
    assert f"columns 77-78 of {len(rows)} atoms are blank or shifted" in remarks[0]
    assert "in line 2, A/" in remarks[0]


def test_elements_in_their_columns_are_taken_with_charge_or_without(tmp_path):
    rows = [atom("FE1 ", "FE3+"), atom("CL1 ", "cl"), atom(" C1 ", "C ")]
    atoms, remarks = read(tmp_path, *rows)
    assert list(atoms.elements) == ["Fe", "Cl", "C"]
    assert remarks == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ALIGNED, atom(" FE1")], "of F or FE, in line 3, A/201(FES)/FE1"),
        ([LEFT, atom("FE1 ")], "of F or FE, in line 3, A/201(FES)/FE1"),
        ([atom(" CA ", residue="LIG")], "of C or CA, in line 2"),
        ([atom("CAA1", residue="LIG")], "of C or CA, in line 2"),
        ([atom(" X1 ", residue="LIG")], "of no element, in line 2"),
    ],
)
def test_a_name_that_can_be_read_in_two_ways_is_refused(tmp_path, rows, words):
    assert words in refusal(tmp_path, *rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"z": "********"}, "expected z in columns 47-54; found '********' in line 3, A/201"),
        ({"x": "     nan"}, "expected x in columns 31-38"),
        ({"occ": "      "}, "expected occupancy in columns 55-60"),
        ({"b": "******"}, "expected B in columns 61-66"),
        ({"occ": " -0.50"}, "-0.5, 12 of 7 (Fe), A/201(FES)/FE1"),
        ({"occ": "  9.00"}, "occupancies from 0 to 2, and B of 0 or more"),
        ({"b": " -3.00"}, "1, -3 of 7 (Fe), A/201(FES)/FE1"),
    ],
)
def test_numbers_that_are_none_are_refused_by_row(tmp_path, changes, words):
    rows = [atom("FE1 ", "FE"), atom("FE1 ", "FE", **changes)]
    assert words in refusal(tmp_path, *rows)


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
@pytest.mark.parametrize(
    ("name", "element", "residue"),
    [(" X1 ", " X", "LIG"), ("UNX ", " X", "UNX"), (" C1 ", " C", "UNX"), (" O  ", " O", "DUM")],
)
def test_what_stands_for_something_unknown_is_refused_by_its_place(
    tmp_path, suffix, name, element, residue
):
    rows = [atom("FE1 ", "FE"), *2 * [atom(name, element, residue=residue, number=301)]]
    path = tmp_path / "model.pdb"
    path.write_text("\n".join([PDB.splitlines()[0], *rows, "END", ""]))
    if suffix == "cif":
        path = as_mmcif(path)
    with pytest.raises(FileError, match=rf"unknown atoms.* A/301\({residue}\)/{name.strip()}"):
        structure.read(path, CELL, "C 1 2 1")


def as_mmcif(path):
    cif = path.with_suffix(".cif")
    gemmi.read_structure(str(path)).make_mmcif_document().write_file(str(cif))
    return cif


def test_an_mmcif_file_without_elements_is_refused(pdb):
    cif = as_mmcif(pdb)
    block = gemmi.cif.read(str(cif)).sole_block()
    column = block.find_values("_atom_site.type_symbol")
    column[2] = "?"
    block_text = block.as_string()
    cif.write_text(block_text)
    with pytest.raises(FileError, match=r"1 unknown atoms, the first 3 \(X\), A/201\(FES\)/FE1"):
        structure.read(cif, CELL, "C 1 2 1")


@pytest.mark.parametrize("name", ["model.pdb", "model.ent", "model.pdb.gz", "model.txt"])
def test_the_name_of_a_file_says_nothing(pdb, tmp_path, name):
    content = pdb.read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert len(structure.read(path, CELL, "C 1 2 1").atoms.names) == 4

    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(FileError, match="a PDB or mmCIF file"):
        structure.read(path, CELL, "C 1 2 1")


def test_a_file_begins_with_a_byte_order_mark_and_ends_its_lines_as_it_likes(tmp_path):
    path = tmp_path / "model.pdb"
    path.write_bytes(b"\xef\xbb\xbf" + PDB.replace("\n", "\r\n").encode())
    assert structure.read(path, CELL, "C 1 2 1").remarks == []


IRON = atom("FE1 ", "FE")
HEAD = PDB.splitlines()[0]


@pytest.mark.parametrize(
    ("head", "remark"),
    [
        ("REMARK none", "no unit cell"),
        ("CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1", "no unit cell"),
        ("CRYST1    0.000    0.000    0.000   0.00   0.00   0.00 P 1           1", "no unit cell"),
        (HEAD.replace("C 1 2 1", "C 9 2 1"), "'C 9 2 1', is not known"),
        (HEAD.replace("C 1 2 1", "       "), "'', is not known"),
        (HEAD.replace("C 1 2 1", "C 2    "), None),
    ],
)
def test_a_crystal_that_is_not_stated_is_that_of_the_configuration(tmp_path, head, remark):
    atoms, remarks = read(tmp_path, IRON, head=head)
    assert len(remarks) == (remark is not None)
    assert remark is None or remark in remarks[0]
    place = np.linalg.solve(unit_cell.orthogonalization(CELL), [3.0, 4.0, 5.0])
    np.testing.assert_allclose(atoms.xyz[0], place, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("I 1 2 1", "found 'I 1 2 1', the same group on other axes. Transform the model"),
        ("P 1", "found 'P 1'. Correct `space_group`"),
    ],
)
def test_another_group_is_refused_with_what_it_is(tmp_path, group, words):
    assert words in refusal(tmp_path, IRON, head=HEAD.replace("C 1 2 1", f"{group:<7}"))


def test_the_first_of_several_models_is_taken_and_said(tmp_path):
    rows = ["MODEL        1", IRON, "ENDMDL", "MODEL        2", IRON, "ENDMDL"]
    atoms, remarks = read(tmp_path, *rows)
    assert len(atoms.names) == 1
    assert remarks == ["of 2 models the first is taken"]


MTRIX = """\
MTRIX1   2 -1.000000  0.000000  0.000000       20.00000    {flag}
MTRIX2   2  0.000000 -1.000000  0.000000       10.00000    {flag}
MTRIX3   2  0.000000  0.000000  1.000000        0.00000    {flag}"""


@pytest.mark.parametrize(("flag", "n"), [("1", 1), (" ", 2)])
def test_copies_that_the_file_asks_for_are_added(tmp_path, flag, n):
    head = "\n".join([HEAD, MTRIX.format(flag=flag)])
    atoms, remarks = read(tmp_path, IRON, head=head)
    assert len(atoms.names) == n
    assert len(remarks) == n - 1
    places = atoms.xyz @ unit_cell.orthogonalization(CELL).T
    np.testing.assert_allclose(places, [[3, 4, 5], [17, 6, 5]][:n], atol=1e-6)


@pytest.mark.parametrize(("occupancy", "own"), [("  1.00", 0.5), ("  0.50", 0.5), ("  0.30", 0.3)])
def test_an_atom_on_an_axis_counts_once(tmp_path, occupancy, own):
    """On the twofold axis, along b, as programs write it: with its whole occupancy, or half."""
    on_axis = atom("FE1 ", "FE", x="   0.050", z="   0.000", occ=occupancy)
    atoms, remarks = read(tmp_path, on_axis, IRON)
    np.testing.assert_allclose(atoms.occupancy, [own, 1.0])
    assert len(remarks) == (occupancy == "  1.00")


def test_hydrogens_and_absent_atoms_stay_as_they_are(tmp_path):
    rows = [atom(" H1 ", " H", residue="LIG"), atom("FE1 ", "FE", occ="  0.00")]
    atoms, remarks = read(tmp_path, *rows)
    assert list(atoms.elements) == ["H", "Fe"]
    assert list(atoms.occupancy) == [1.0, 0.0]
    assert remarks == []
