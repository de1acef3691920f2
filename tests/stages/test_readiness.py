"""What stages would find out late is told before the first job: models, sites, curves, ranges."""

import numpy as np
import pytest

from spreadflow.config import Config, overlay, parse
from spreadflow.errors import SpreadflowError
from spreadflow.physics import anomalous
from spreadflow.stages import readiness

PDB = """\
CRYST1   30.000   26.000   22.000  90.00 108.00  90.00 C 1 2 1       4
ATOM      1  CA  ALA A   1       3.000   4.000   5.000  1.00 20.00           C
HETATM    2 FE1  FES A 201      10.000   9.000   8.000  1.00 12.00          FE
HETATM    3 FE2  FES A 201      10.000   9.000  10.700  1.00 12.00          FE
END
"""
CELL = [30.0, 26.0, 22.0, 90.0, 108.0, 90.0]
CRYSTAL = {"cell": CELL, "space_group": "C 1 2 1"}


@pytest.fixture
def simulated(tmp_path):
    """`simulated(**changes)`: the configuration of a simulated run of a model."""
    (tmp_path / "model.pdb").write_text(PDB)

    def configuration(**changes) -> Config:
        tree = {
            "runs": {"r": {"simulate": {"n_single": 2}}},
            "crystal": CRYSTAL,
            "index": CRYSTAL,
            "structure_factors": {"model": str(tmp_path / "model.pdb")},
        }
        return parse(overlay(tree, changes))

    return configuration


def refused(config: Config) -> str:
    """The sentence with which a configuration is refused."""
    with pytest.raises(SpreadflowError) as error:
        readiness.check(config, "mine.yaml")
    return str(error.value)


def table(path, energies_ev) -> str:
    """Write a curve of metallic iron; return its path."""
    curve = anomalous.site("Fe", "metallic", energies_ev)
    np.savetxt(path, np.column_stack([energies_ev, curve.real, curve.imag]))
    return str(path)


def test_what_is_right_is_not_refused(simulated, tmp_path):
    whole = table(tmp_path / "fe.dat", np.arange(7000.0, 7300.0))
    sites = [{"atom": "FE1", "curve": whole}, {"atom": "//A/201/FE2", "curve": "reduced"}]
    for changes in (
        {},
        {"structure_factors": {"sites": sites}},
        {"spread": {"range_ev": [7100, 7140], "known": ["metallic", whole]}},
        {"structure_factors": {"model": None}},
        {"structure_factors": {"model": None, "sites": sites[:1]}},
    ):
        readiness.check(simulated(**changes))


SITES = {
    "no such atom": ({"atom": "ZN1", "curve": "metallic"}, "found no atom 'ZN1'"),
    "no selection": ({"atom": "//A/20x/[", "curve": "metallic"}, "the name of an atom"),
    "no such residue": ({"atom": "//A/301/FE1", "curve": "metallic"}, "found no atom"),
}


@pytest.mark.parametrize("key", ["", "stage1.", "ladder."])
@pytest.mark.parametrize(("site", "words"), SITES.values(), ids=SITES)
def test_sites_that_the_model_does_not_have_are_named_by_their_key(simulated, key, site, words):
    section = {"structure_factors": {"sites": [{"atom": "FE1", "curve": "oxidized"}, site]}}
    sentence = refused(simulated(**({key[:-1]: section} if key else section)))
    assert sentence.startswith(f"mine.yaml: {key}structure_factors.sites.1.atom: expected")
    assert words in sentence


def test_sites_that_the_phantom_does_not_have_are_named(simulated):
    sites = [{"atom": "CU1", "curve": "metallic"}]
    sentence = refused(simulated(structure_factors={"model": None, "sites": sites}))
    assert "structure_factors.sites.0.atom" in sentence
    assert "//A/201/FE1" in sentence


def test_a_model_that_is_none_or_of_another_crystal_is_refused(simulated, tmp_path):
    path = tmp_path / "model.pdb"
    configured = simulated()
    path.write_text(PDB.replace("30.000", "37.000"))
    assert "as configured" in refused(configured)
    path.write_text(PDB.replace("C 1 2 1", "P 1 2 1"))
    assert "space group 'C 1 2 1', as configured; found 'P 1 2 1'" in refused(configured)
    path.write_text(PDB.splitlines()[0])
    assert "a model with atoms" in refused(configured)


@pytest.mark.parametrize("key", ["sites", "known"])
def test_curves_that_do_not_reach_over_the_spectra_are_refused(simulated, tmp_path, key):
    short = table(tmp_path / "fe.dat", np.arange(7100.0, 7300.0))
    sites = [{"atom": "FE1", "curve": short}]
    changes = {"structure_factors": {"sites": sites}}
    if key == "known":
        changes = {"spread": {"known": ["metallic", short]}}
    assert "a table that covers 7070.5-7169.5 eV" in refused(simulated(**changes))


RANGES = {
    "outside": ({"range_ev": [9000.0, 9100.0]}, "spread.range_ev: expected a range with channels"),
    "at the rim": ({"range_ev": [7169.0, 7300.0]}, "7070.5-7169.5 eV; found"),
    "too fine": ({"step_ev": 0.5}, "spread.step_ev: expected at least the distance of channels"),
    "too wide": ({"step_ev": 200.0}, "spread.step_ev: expected at least two nodes"),
}


@pytest.mark.parametrize(("keys", "words"), RANGES.values(), ids=RANGES)
def test_nodes_that_the_spectra_do_not_have_are_refused(simulated, keys, words):
    sentence = refused(simulated(spread=keys))
    assert sentence.startswith("mine.yaml: spread.")
    assert words in sentence


def test_the_energies_of_recorded_runs_are_those_of_their_spectra(tiny_run, tmp_path):
    """Fifteen channels from 7100 eV, 2 eV apart."""
    model = tmp_path / "model.pdb"
    model.write_text(
        PDB.replace(
            "30.000   26.000   22.000  90.00 108.00  90.00 C 1 2 1 ",
            "78.000   78.000   38.000  90.00  90.00  90.00 P 43 21 2",
        )
    )
    crystal = {key: tiny_run[key] for key in ("cell", "space_group")}
    tree = {
        "runs": {"tiny": {"images": str(tiny_run["manifest"])}},
        "index": crystal,
        "structure_factors": {"model": str(model)},
    }
    for keys in ({}, {"step_ev": 1.0}, {"range_ev": [7110.0, 7300.0]}):
        readiness.check(parse(tree | {"spread": keys}))
    sentence = refused(parse(tree | {"spread": {"range_ev": [7200.0, 7300.0]}}))
    assert "a range with channels of the spectra, 7100-7128 eV" in sentence
