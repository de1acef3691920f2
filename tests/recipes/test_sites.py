"""Sites of models that have more than one atom of a name: two Yb of a lysozyme derivative, an iron
in each chain of a dimer, two [2Fe-2S] clusters, an iron with two positions.
"""

import gemmi
import numpy as np
import pytest
from pydantic import ValidationError

from spreadflow import build
from spreadflow.config import StructureFactorsSection
from spreadflow.errors import ConfigError
from spreadflow.io import structure
from spreadflow.io.factor_files import FactorFiles
from spreadflow.physics import phantom
from spreadflow.physics.structure_factors import perturbed
from spreadflow.recipes import factors, sites

CELL = [30.0, 26.0, 22.0, 90.0, 108.0, 90.0]
PDB = """\
CRYST1   30.000   26.000   22.000  90.00 108.00  90.00 C 1 2 1       4
ATOM      1  CA  ALA A   1       3.000   4.000   5.000  1.00 20.00           C
HETATM    2 YB    YB A 201      13.000   4.000   5.000  0.80 20.00          YB
HETATM    3 YB    YB A 202       3.000  14.000   5.000  0.40 20.00          YB
HETATM    4 FE1  FES A 203      10.000   9.000   8.000  1.00 12.00          FE
HETATM    5 FE2  FES A 203      10.000   9.000  10.700  1.00 12.00          FE
HETATM    6  S1  FES A 203      10.000  10.700   9.300  1.00 12.00           S
HETATM    7 FE1  FES B 203A      2.000   9.000   8.000  1.00 12.00          FE
HETATM    8 FE2 AFES B 203A      2.000   9.000  10.700  0.60 12.00          FE
HETATM    9 FE2 BFES B 203A      2.400   9.000  10.700  0.40 12.00          FE
HETATM   10 CA    CA B 301       6.000  20.000   8.000  0.00 12.00          CA
HETATM   11 MN  A MN B 302       6.000  23.000   8.000  0.50 12.00          MN
HETATM   12 MN  BMN2 B 302       6.300  23.000   8.000  0.50 12.00          MN
END
"""
ENERGIES_EV = np.array([7110.0, 7120.0])


@pytest.fixture(scope="module", params=["pdb", "cif"])
def atoms(request, tmp_path_factory):
    """The model, as a PDB and as an mmCIF file have it."""
    path = tmp_path_factory.mktemp("sites") / "model.pdb"
    path.write_text(PDB)
    if request.param == "cif":
        document = gemmi.read_structure(str(path)).make_mmcif_document()
        path = path.with_suffix(".cif")
        document.write_file(str(path))
    return structure.read(path, build.cell(section([])), "C 1 2 1").atoms


def section(selections, **keys):
    named = [{"atom": selection, "curve": "metallic"} for selection in selections]
    crystal = {"cell": CELL, "space_group": "C 1 2 1", "model": "model.pdb", "d_min": 4.0}
    return StructureFactorsSection(sites=named, **(crystal | keys))


def rows(atoms, *selections):
    """Rows of the atoms of each site, in the order of the configuration."""
    configured = section(selections)
    labels = sites.assign(configured, atoms).sites
    return [np.flatnonzero(labels == site.label).tolist() for site in configured.sites]


def refusal(atoms, *selections) -> str:
    with pytest.raises(ConfigError) as error:
        sites.assign(section(selections), atoms)
    return str(error.value)


def test_a_site_is_told_by_chain_residue_name_and_position(atoms):
    assert rows(atoms, "//A/201/YB", "//A/202/YB") == [[1], [2]]
    assert rows(atoms, "//A/203/FE1", "//B/203A/FE1") == [[3], [6]]
    assert rows(atoms, "//B/203.A/FE2:A", "//B/203.A/FE2:B") == [[7], [8]]
    assert rows(atoms, "//A/203(FES)/FE2[FE]", "//B//FE1") == [[4], [6]]


def test_all_positions_of_an_atom_are_one_site(atoms):
    """Also where the residue has another name in each of them, as substituted metals have."""
    assert rows(atoms, "//B/203A/FE2") == [[7, 8]]
    assert rows(atoms, "MN") == [[10, 11]]


def test_a_list_says_that_atoms_share_a_curve(atoms):
    assert rows(atoms, ["YB"], ["//A/203/FE1", "//B/203A/FE2"]) == [[1, 2], [3, 7, 8]]
    assert rows(atoms, ["//*//FE1,FE2"]) == [[3, 4, 6, 7, 8]]


def test_a_name_of_several_atoms_is_refused_with_the_selections_that_tell_them_apart(atoms):
    words = refusal(atoms, "YB")
    assert "structure_factors.sites.0.atom" in words
    assert "2 atoms 'YB': //A/201/YB, //A/202/YB" in words
    assert "['YB']" in words

    assert "//A/203/FE1, //B/203A/FE1" in refusal(atoms, "//A/201/YB", "FE1")
    assert "4 atoms" in refusal(atoms, "//A,B//FE1,FE2[FE]")


def test_every_listed_selection_means_its_atom_alone(atoms):
    listed = refusal(atoms, "//*//[FE]").split(": ", 2)[-1].split(". ")[0].split(", ")
    assert len(listed) == 4
    assert rows(atoms, *listed) == [[3], [4], [6], [7, 8]]


def test_what_is_no_site_is_refused_with_its_reason(atoms):
    words = refusal(atoms, "//C/203/FE1")
    assert "no atom '//C/203/FE1'" in words
    assert "//A/201/YB, //A/202/YB, //A/203/FE1" in words
    assert "S1" not in words

    assert "of the site A/203/FE1" in refusal(atoms, "//A/203/FE1", ["FE1"])
    assert "Fe, S" in refusal(atoms, ["//A/203/*"])
    assert "occupancy 0: //B/301/CA" in refusal(atoms, "//B/301/CA")
    assert "gemmi's selection" in refusal(atoms, "//A/203/FE*")
    assert "';'" in refusal(atoms, "//A/203/FE1;q>0.5")


def test_atoms_of_one_name_are_not_taken_for_positions_of_one_atom(atoms):
    """As where a program has lost the names of chains; altlocs tell positions."""
    columns = {"chains": np.full(len(atoms.names), ""), "residues": np.full(len(atoms.names), "1")}
    nameless = atoms._replace(**columns)
    words = refusal(nameless, "FE1")
    assert "several atoms that the model calls ///1/FE1" in words
    assert rows(nameless, ["FE1"], "///1/MN") == [[3, 6], [10, 11]]


def test_a_list_of_nothing_is_no_site():
    with pytest.raises(ValidationError):
        section([[]])


def test_a_long_list_of_atoms_is_cut(atoms):
    many = atoms._replace(residues=np.arange(12).astype(str), names=np.full(12, "FE"))
    more = type(many)(*(np.concatenate([column, column]) for column in many))
    more = more._replace(residues=np.arange(24).astype(str))
    assert "and 12 more" in refusal(more, "FE")


def test_labels_are_short_and_differ():
    labels = [site.label for site in section(["FE1", "//A/201/FE1:B", ["//A/2/X", "Y"]]).sites]
    assert labels == ["FE1", "A/201/FE1:B", "A/2/X + Y"]


def test_structure_factors_have_a_curve_for_each_site(atoms):
    """The two Yb: each with its own g, of which the sum is that of the atoms together; the third
    atom of the name scatters as tabulated.
    """
    files = FactorFiles(atoms=atoms)

    def group(*selections):
        configured = section(selections)
        rng = np.random.default_rng(1)
        return factors.factors(configured, ENERGIES_EV, 7115.0, rng, files)

    apart = group("//A/201/YB", "//A/202/YB")
    together = group(["YB"])
    assert (apart.n_sites, together.n_sites) == (2, 1)
    np.testing.assert_allclose(apart.groups[0] + apart.groups[1], together.groups[0], atol=1e-4)
    at_000 = np.abs(apart.groups[:2]).max(axis=1)
    assert at_000[0] > 1.5 * at_000[1], "occupancies 0.8 and 0.4"

    alone = group("//A/201/YB")
    every = np.arange(len(alone.hkl))
    np.testing.assert_allclose(alone.rest, together.rest, atol=1e-3)
    assert np.abs(alone.at(every) - together.at(every)).max() > 0
    assert factors.elements(section(["//A/201/YB", "//B/203A/FE2"]), files) == ["Yb", "Fe"]


def test_sites_survive_a_wrong_model(atoms):
    configured = section(["//A/201/YB", "//B/203A/FE2"])
    labelled = sites.assign(configured, atoms)
    many = type(labelled)(*(np.repeat(column, 50, axis=0) for column in labelled))
    wrong, _ = perturbed(np.random.default_rng(1), many, build.cell(configured))
    assert len(wrong.names) == len(many.names) - round(0.05 * 9 * 50)
    for site in configured.sites:
        assert (wrong.sites == site.label).sum() == (many.sites == site.label).sum()


def test_the_phantoms_irons_are_those_of_both_clusters():
    crystal = {"cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0], "model": None}
    configured = section(["FE1", "FE2"], **crystal)
    atoms = phantom.build(build.cell(configured), "C 1 2 1", 1)
    labels = sites.assign(configured, atoms).sites
    assert (labels == "FE1").sum() == (labels == "FE2").sum() == 2

    one = section(["//A/201/FE1", "//B/201/FE1"], **crystal)
    labels = sites.assign(one, atoms).sites
    assert (labels == "A/201/FE1").sum() == (labels == "B/201/FE1").sum() == 1
