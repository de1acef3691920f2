"""F(hkl, E) of the configuration: each source and the wrong model through the files they are read
from.
"""

import logging

import numpy as np
import pytest

from spreadflow import build
from spreadflow.analysis.merging.merging import Unique
from spreadflow.config import SimulateConfig, for_stage, parse, section
from spreadflow.errors import FileError
from spreadflow.io import curve_table, factor_files, mtz
from spreadflow.io.factor_files import FactorFiles
from spreadflow.physics import anomalous, phantom, unit_cell
from spreadflow.physics import structure_factors as sf
from spreadflow.recipes.factors import curve, factors, moved_sites, places, site_unknown_names
from spreadflow.stages.factors import read_files

TREE = {
    "runs": {"r": {"simulate": {"n_single": 1}}},
    "crystal": {"cell": [38.0, 38.0, 50.0, 90.0, 90.0, 90.0], "space_group": "P 43 21 2"},
    "beam": {"n_channels": 11, "first_channel_ev": 7095.0, "channel_ev": 5.0},
}


def staged(**keys) -> SimulateConfig:
    tree = TREE | {"structure_factors": {"d_min": 3.0} | keys}
    return for_stage(section(parse(tree), "simulate", "r"), "simulate")


def factors_of(config: SimulateConfig):
    energies = build.channels(config.beam)
    mean = config.beam.energy_ev
    section = config.structure_factors
    rng = np.random.default_rng(7)
    return factors(section, energies, mean, rng, factor_files.read(section))


def every(f):
    return f.at(np.arange(len(f.hkl)))


def table_of(path, values, energies=None):
    """Write f′ + i f″ of iron about its edge as a table."""
    energies = np.arange(7080.0, 7160.0, 2.0) if energies is None else energies
    columns = np.column_stack([energies, values.real, values.imag])
    np.savetxt(path, columns, fmt="%.4f")
    return FactorFiles(curves={"table": curve_table.read_curve(path)})


IRON = anomalous.site("Fe", "oxidized", np.arange(7080.0, 7160.0, 2.0))
"""What the tables of these tests are written from."""


def test_a_table_is_a_curve(tmp_path):
    """Also where f″ stands before f′."""
    energies = np.array([7100.0, 7122.0])
    truth = anomalous.site("Fe", "oxidized", energies)
    for number, values in enumerate([IRON, IRON.imag + 1j * IRON.real]):
        files = table_of(tmp_path / f"{number}.dat", values)
        np.testing.assert_allclose(curve("Fe", "table", energies, files), truth, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (IRON + 26.0, r"f' of Fe, .* in line 1, 7080 eV; found 20\."),
        (IRON.real + 10j * IRON.imag, "f'' of Fe, .* in line 1, 7080 eV; found "),
        (IRON.real + 0.1j * IRON.imag, "f'' of Fe"),
        (IRON.imag + 1j * (IRON.real + 26.0), "f' of Fe"),
        (IRON.real + 26.0 - 1j * IRON.imag, "found 20.*; its second column is taken for f''"),
        (np.where(np.arange(40) == 3, -99.0, IRON.real) + 1j * IRON.imag, "line 4, 7086 eV"),
    ],
)
def test_a_table_of_something_else_is_refused_by_row(tmp_path, values, words):
    files = table_of(tmp_path / "table.dat", values)
    with pytest.raises(FileError, match=words):
        curve("Fe", "table", np.array([7080.0, 7158.0]), files)


def test_rows_far_from_the_channels_do_not_matter(tmp_path):
    values = np.where(np.arange(40) < 9, -99.0, IRON.real) + 1j * IRON.imag
    files = table_of(tmp_path / "table.dat", values)
    assert curve("Fe", "table", np.array([7100.0, 7120.0]), files)[0] == pytest.approx(
        IRON[10], abs=1e-3
    )
    with pytest.raises(FileError, match="line 9, 7096 eV"):
        curve("Fe", "table", np.array([7097.0, 7120.0]), files)


def test_what_was_repaired_in_files_is_logged(tmp_path, caplog):
    table_of(tmp_path / "table.dat", IRON[::-1], np.arange(7158.0, 7078.0, -2.0))
    sites = [{"atom": "FE1", "curve": str(tmp_path / "table.dat")}]
    section = staged(sites=sites).structure_factors
    with caplog.at_level("INFO"):
        files = read_files(section, logging.getLogger("any"))
    assert [record.message for record in caplog.records] == list(files.remarks)
    assert files.remarks == [f"{tmp_path / 'table.dat'}: its falling energies are turned round"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A merged file of 30 times the model's own |F|² at the mean energy, of the half in which h + k
    is even.
    """
    f = factors_of(staged())
    crystal = TREE["crystal"]
    unique = Unique(np.array(crystal["cell"]), crystal["space_group"], 3.0)
    keep = unique.hkl[:, :2].sum(axis=1) % 2 == 0
    hkl = np.where(unique.friedel < 0, -1, 1)[:, None] * unique.hkl
    row = {tuple(h): i for i, h in enumerate(f.hkl.tolist())}
    rows = [row[tuple(h)] for h in hkl.tolist()]
    amplitude = np.abs(every(f)[rows, 5])
    intensity = 30 * amplitude**2
    columns = {
        "hkl": unique.hkl,
        "friedel": unique.friedel,
        "intensity": intensity,
        "sigma": np.full(len(hkl), 1e-3),
        "n": np.ones(len(hkl)),
    }
    path = tmp_path_factory.mktemp("factors") / "merged.mtz"
    mtz.write_merged(
        path,
        mtz.MergedTable(**{name: column[keep] for name, column in columns.items()}),
        cell=np.array(crystal["cell"]),
        space_group=crystal["space_group"],
        wavelength=1.74,
    )
    return path


def test_every_element_scatters_with_its_own_curve_in_every_channel():
    config = staged()
    f = factors_of(config)
    energies = build.channels(config.beam)
    assert f.n_sites == 2
    assert len(f.groups) == 2 + len("CNOS")
    np.testing.assert_array_equal(f.anomalous[0], anomalous.site("Fe", "oxidized", energies))
    for of_element, element in zip(f.anomalous[2:], "CNOS", strict=True):
        np.testing.assert_array_equal(of_element, anomalous.tabulated(element, energies))
    assert np.ptp(f.anomalous[-1].imag) > 1e-3


@pytest.mark.stage
def test_merged_data_of_the_model_itself_give_the_model_back(data):
    """Amplitudes come back on the model's scale, in electrons, of the measured half alone or
    completed.
    """
    model = factors_of(staged())
    half = factors_of(staged(source="merged", mtz=str(data)))
    even = model.hkl[:, :2].sum(axis=1) % 2 == 0
    present = {tuple(h) for h in half.hkl.tolist()}
    same = np.array([tuple(h) in present for h in model.hkl.tolist()])

    assert present <= {tuple(h) for h in model.hkl[even].tolist()}
    assert 0.95 * even.sum() < len(present), "all but the absences"
    np.testing.assert_array_equal(half.hkl, model.hkl[same])

    size = np.abs(every(model)).mean()
    np.testing.assert_allclose(every(half), every(model)[same], atol=1e-2 * size)

    whole = factors_of(staged(source="model_completed", mtz=str(data)))
    np.testing.assert_array_equal(whole.hkl, model.hkl)
    np.testing.assert_allclose(every(whole), every(model), atol=1e-2 * size)


@pytest.mark.stage
def test_a_threshold_leaves_weak_reflections_to_the_model(data):
    low, high = (
        factors_of(staged(source="merged", mtz=str(data), min_i_over_sigma=least))
        for least in (1.0, 3e8)
    )
    assert 0.05 * len(low.hkl) < len(high.hkl) < 0.8 * len(low.hkl)


@pytest.mark.stage
def test_a_perturbed_model_correlates_with_the_right_one_as_refined_models_do():
    right = factors_of(staged())
    wrong = factors_of(staged(perturb=True))
    again = factors_of(staged(perturb=True))
    amplitudes = [np.abs(every(f)[:, 0]) for f in (right, wrong)]
    r = np.corrcoef(*amplitudes)[0, 1]

    assert 0.8 < r < 0.99
    np.testing.assert_array_equal(every(again), every(wrong))


@pytest.mark.stage
def test_data_beyond_the_models_resolution_are_refused(data, tmp_path):
    crystal = TREE["crystal"]
    path = tmp_path / "far.mtz"
    mtz.write_merged(
        path,
        mtz.MergedTable(
            hkl=np.array([[30, 2, 1]]),
            friedel=np.array([1]),
            intensity=np.ones(1),
            sigma=np.ones(1),
            n=np.ones(1),
        ),
        cell=np.array(crystal["cell"]),
        space_group=crystal["space_group"],
        wavelength=1.74,
    )

    with pytest.raises(FileError, match="0 common reflections"):
        factors_of(staged(source="merged", mtz=str(path)))


@pytest.mark.stage
def test_the_cell_of_the_model_is_that_of_the_data(data):
    tree = TREE | {"crystal": TREE["crystal"] | {"cell": [40.0, 40.0, 50.0, 90.0, 90.0, 90.0]}}
    tree["structure_factors"] = {"d_min": 3.0, "source": "merged", "mtz": str(data)}
    with pytest.raises(FileError, match="cell"):
        factors_of(for_stage(section(parse(tree), "simulate", "r"), "simulate"))


@pytest.mark.stage
@pytest.mark.parametrize("perturb", [False, True])
def test_moved_sites_are_the_structure_factors_of_moved_atoms(perturb):
    """About the model, right or perturbed; those that are not refined stay."""
    config = staged(perturb=perturb).structure_factors
    model = factors_of(staged(perturb=perturb))
    sigmas = {"place": 0.1, "b": 1.0}
    origin = np.array([0.2, -0.1, 0.05, 3.0, -0.03, 0.15, 0.1, -2.0])
    here = moved_sites(config, model, sigmas, np.random.default_rng(7))
    there = moved_sites(config, model, sigmas, np.random.default_rng(7), origin=origin)
    np.testing.assert_allclose(here.groups, model.groups[:2], atol=1e-4)
    assert here.unknowns.names == there.unknowns.names
    assert here.unknowns.names[3:5] == ("site 0: B", "site 1: x")
    assert site_unknown_names(["b", "place"]) == ["x", "y", "z", "B"]
    np.testing.assert_array_equal(there.unknowns.origin, origin)
    np.testing.assert_array_equal(there.unknowns.sigma, np.tile([0.1, 0.1, 0.1, 1.0], 2))
    np.testing.assert_array_equal(there.unknowns.site, np.repeat([0, 1], 4))

    cell = build.cell(config)
    fractional = np.linalg.inv(unit_cell.orthogonalization(cell))
    d = 1 / np.linalg.norm(model.hkl @ fractional, axis=1)
    atoms = atoms_of(config, cell)
    for site, label in enumerate(["FE1", "FE2"]):
        of_site = sf.Atoms(*(column[atoms.sites == label] for column in atoms))
        shift, change = origin.reshape(2, 4)[site, :3], origin.reshape(2, 4)[site, 3]
        shifted = of_site._replace(xyz=of_site.xyz + fractional @ shift)
        g = sf.geometric(shifted, model.hkl, "P 43 21 2") * np.exp(-change / (4 * d**2))
        np.testing.assert_allclose(there.groups[site], g, atol=1e-4)
        if not perturb:
            np.testing.assert_allclose(places(config)[label], of_site.xyz)


def atoms_of(config, cell) -> sf.Atoms:
    """The atoms of a phantom, as the model has them."""
    atoms = phantom.build(cell, config.space_group, config.phantom_seed)
    if config.perturb:
        atoms, _ = sf.perturbed(np.random.default_rng(7), atoms, cell)
    return atoms
