"""Merged MTZ files as gemmi reads them, and references from MTZ files and models."""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
from spreadflow.errors import FileError
from spreadflow.io import mtz

CELL = np.array([40.0, 40.0, 70.0, 90.0, 90.0, 90.0])
GROUP = "P 43 21 2"


@pytest.fixture(scope="module")
def unique() -> Unique:
    return Unique(CELL, GROUP, 3.0)


@pytest.fixture
def written(unique, tmp_path):
    """A file of all reflections but the last I(−), with the columns that were written."""
    rng = np.random.default_rng(1)
    keep = np.arange(len(unique) - 1)
    columns = {
        "hkl": unique.hkl[keep],
        "friedel": unique.friedel[keep],
        "intensity": rng.normal(100.0, 40.0, len(keep)),
        "sigma": rng.uniform(1.0, 5.0, len(keep)),
        "n": rng.integers(1, 90, len(keep)),
    }
    mtz.write_merged(
        tmp_path / "m.mtz",
        mtz.MergedTable(**columns),
        cell=CELL,
        space_group=GROUP,
        wavelength=1.7414,
        history="by a test",
    )
    return tmp_path / "m.mtz", columns


def test_columns_cell_and_wavelength(written):
    file = gemmi.read_mtz_file(str(written[0]))
    labels = [
        "H",
        "K",
        "L",
        "IMEAN",
        "SIGIMEAN",
        "I(+)",
        "SIGI(+)",
        "I(-)",
        "SIGI(-)",
        "N(+)",
        "N(-)",
    ]

    assert [c.label for c in file.columns] == labels
    assert "".join(c.type for c in file.columns) == "HHHJQKMKMII"
    assert file.spacegroup.hm == "P 43 21 2"
    assert file.sort_order[:3] == [1, 2, 3]
    assert file.cell.parameters == pytest.approx(tuple(CELL))
    assert file.dataset(1).wavelength == pytest.approx(1.7414, rel=1e-6)

    asu = gemmi.ReciprocalAsu(file.spacegroup)
    assert all(asu.is_in(h) for h in file.make_miller_array().tolist())


def test_gemmi_reads_what_was_written(written, unique):
    path, columns = written
    data = gemmi.Intensities()
    data.import_mtz(gemmi.read_mtz_file(str(path)), gemmi.DataType.Anomalous)
    sign = np.array(data.isign_array)
    row = unique.rows(np.where(sign[:, None] < 0, -1, 1) * np.array(data.miller_array))

    assert len(row) == len(columns["n"]), "centric reflections once, the missing mate not at all"
    np.testing.assert_allclose(data.value_array, columns["intensity"][row], rtol=1e-6)
    np.testing.assert_allclose(data.sigma_array, columns["sigma"][row], rtol=1e-6)


def test_mean_is_the_weighted_mean_of_the_mates(written, unique):
    path, columns = written
    file = gemmi.read_mtz_file(str(path))
    value = {c.label: np.array(c.array) for c in file.columns}
    rows = list(enumerate(file.make_miller_array().tolist()))
    for i, h in rows[::37]:
        mates = np.flatnonzero((columns["hkl"] == h).all(axis=1))
        weight = columns["sigma"][mates] ** -2.0
        mean = np.average(columns["intensity"][mates], weights=weight)
        assert value["IMEAN"][i] == pytest.approx(mean, rel=1e-5)
        assert value["SIGIMEAN"][i] == pytest.approx(weight.sum() ** -0.5, rel=1e-5)
        is_centric = columns["friedel"][mates[0]] == 0
        has_no_minus = np.isnan(value["I(-)"][i])
        assert has_no_minus == (is_centric or len(mates) == 1)
        assert value["N(+)"][i] == columns["n"][mates[0]]
        assert (value["N(-)"][i] == 0) == has_no_minus


@pytest.fixture
def with_amplitudes(written):
    """The path of the same file with amplitudes, and their values; the first one is missing."""
    path, columns = written
    rng = np.random.default_rng(3)
    n_rows = len(columns["n"])
    amplitude = rng.uniform(5.0, 15.0, n_rows)
    amplitude[0] = np.nan
    amplitudes = mtz.Amplitudes(amplitude, rng.uniform(0.1, 1.0, n_rows))
    mtz.write_merged(
        path.with_name("f.mtz"),
        mtz.MergedTable(**columns),
        amplitudes,
        cell=CELL,
        space_group=GROUP,
        wavelength=1.7414,
        history="by a test",
    )
    return path.with_name("f.mtz"), amplitudes


def test_amplitudes_follow_the_intensities(written, with_amplitudes):
    """The types are those by which programs find columns: mates are G and L, differences D."""
    without = gemmi.read_mtz_file(str(written[0]))
    file = gemmi.read_mtz_file(str(with_amplitudes[0]))
    added = [(column.label, column.type) for column in file.columns][11:]

    assert added == [
        ("F", "F"),
        ("SIGF", "Q"),
        ("F(+)", "G"),
        ("SIGF(+)", "L"),
        ("F(-)", "G"),
        ("SIGF(-)", "L"),
        ("DANO", "D"),
        ("SIGDANO", "Q"),
    ]
    assert [column.label for column in without.columns] == [
        column.label for column in file.columns
    ][:11]
    np.testing.assert_array_equal(file.array[:, :11], without.array)


def test_amplitudes_of_mates_come_back(written, with_amplitudes):
    columns = written[1]
    path, amplitudes = with_amplitudes
    file = gemmi.read_mtz_file(str(path))
    value = {c.label: np.array(c.array) for c in file.columns}
    rows = {tuple(h): i for i, h in enumerate(file.make_miller_array().tolist())}
    row = np.array([rows[tuple(h)] for h in columns["hkl"].tolist()])
    for sides, label in ((columns["friedel"] >= 0, "(+)"), (columns["friedel"] < 0, "(-)")):
        amplitude = amplitudes.amplitude[sides]
        sigma = np.where(np.isfinite(amplitude), amplitudes.amplitude_sigma[sides], np.nan)
        np.testing.assert_allclose(value[f"F{label}"][row[sides]], amplitude, rtol=1e-6)
        np.testing.assert_allclose(value[f"SIGF{label}"][row[sides]], sigma, rtol=1e-6)

    has_both = np.isfinite(value["F(+)"]) & np.isfinite(value["F(-)"])
    is_centric = np.zeros(len(has_both), dtype=bool)
    is_centric[row[columns["friedel"] == 0]] = True
    assert not np.isfinite(value["F(-)"][is_centric]).any()
    np.testing.assert_array_equal(np.isfinite(value["DANO"]), has_both)
    np.testing.assert_array_equal(np.isfinite(value["SIGDANO"]), has_both)
    np.testing.assert_allclose(
        value["DANO"][has_both], (value["F(+)"] - value["F(-)"])[has_both], atol=2e-6
    )
    np.testing.assert_allclose(
        value["SIGDANO"][has_both],
        np.hypot(value["SIGF(+)"], value["SIGF(-)"])[has_both],
        rtol=1e-6,
    )


def test_mean_amplitude_is_weighted_and_of_one_mate_where_the_other_is_missing(with_amplitudes):
    file = gemmi.read_mtz_file(str(with_amplitudes[0]))
    value = {c.label: np.array(c.array, dtype=np.float64) for c in file.columns}
    values = np.column_stack([value["F(+)"], value["F(-)"]])
    sigma = np.column_stack([value["SIGF(+)"], value["SIGF(-)"]])
    for i in range(0, len(values), 41):
        is_known = np.isfinite(values[i])
        if not is_known.any():
            continue
        weight = sigma[i][is_known] ** -2.0
        mean = np.average(values[i][is_known], weights=weight)
        assert value["F"][i] == pytest.approx(mean, rel=1e-5)
        assert value["SIGF"][i] == pytest.approx(weight.sum() ** -0.5, rel=1e-5)
    is_missing = ~np.isfinite(values).any(axis=1)
    assert np.isnan(value["F"][is_missing]).all()
    assert np.isnan(value["SIGF"][is_missing]).all()


def test_mtz_is_its_own_reference(written, unique):
    path, columns = written
    hkl, intensity = mtz.read_reference(path, CELL, GROUP, 3.0)
    value = unique.values(hkl, intensity)
    plus = np.flatnonzero(unique.friedel == 0)
    np.testing.assert_allclose(value[plus], columns["intensity"][plus], rtol=1e-6)
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
    hkl, intensity = mtz.read_reference(tmp_path / "f.mtz", CELL, GROUP, 3.0)

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
    monkeypatch.setattr(mtz, "K_SOL", 0.0)
    path = model(tmp_path)
    value = unique.values(*mtz.read_reference(path, CELL, GROUP, 3.0))
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
    with_solvent = unique.values(*mtz.read_reference(path, CELL, GROUP, 3.0))
    monkeypatch.setattr(mtz, "K_SOL", 0.0)
    without = unique.values(*mtz.read_reference(path, CELL, GROUP, 3.0))

    amplitude = np.sqrt(without)
    change = np.abs(np.sqrt(with_solvent) - amplitude) / amplitude.mean()
    low = change[unique.d > 12].mean()
    high = change[unique.d < 3.3].mean()

    assert low > 5 * high


@pytest.mark.parametrize("kind", ["missing", "garbage", "other group", "other cell"])
def test_references_that_cannot_serve_are_refused(kind, tmp_path):
    path = tmp_path / "x.mtz"
    if kind == "garbage":
        path.write_text("no MTZ file")
    if kind == "other group":
        path = model(tmp_path, "P 1 21 1")
    cell = CELL
    if kind == "other cell":
        path = model(tmp_path)
        cell = CELL * [1.03, 1.03, 1, 1, 1, 1]
    with pytest.raises(FileError, match="Give reference intensities"):
        mtz.read_reference(path, cell, GROUP, 3.0)


def test_merged_intensities_come_back_mates_apart(written, unique):
    path, columns = written
    data = mtz.read_merged(path, CELL, GROUP)
    row = unique.rows(data.hkl)
    assert len(np.unique(row)) == len(columns["n"]), "the missing mate is not there"
    np.testing.assert_allclose(data.intensity, columns["intensity"][row], rtol=1e-6)
    np.testing.assert_allclose(data.sigma, columns["sigma"][row], rtol=1e-6)


def test_a_mean_intensity_is_that_of_both_mates(unique, tmp_path):
    file = gemmi.Mtz(with_base=True)
    file.spacegroup = gemmi.find_spacegroup_by_name(GROUP)
    file.cell = gemmi.UnitCell(*CELL)
    file.add_dataset("data")
    for label, kind in (("IMEAN", "J"), ("SIGIMEAN", "Q")):
        file.add_column(label, kind)
    plus = unique.hkl[unique.friedel >= 0]
    intensity = np.arange(len(plus)) + 1.0
    table = np.column_stack([plus, intensity, np.ones(len(plus))])
    file.set_data(table.astype(np.float32))
    file.write_to_file(str(tmp_path / "mean.mtz"))
    data = mtz.read_merged(tmp_path / "mean.mtz", CELL, GROUP)

    assert set(unique.rows(data.hkl).tolist()) == set(range(len(unique)))

    value = {tuple(h): i for h, i in zip(data.hkl.tolist(), data.intensity, strict=True)}
    assert all(value[tuple(-np.array(h))] == i for h, i in value.items())


def test_merged_data_that_do_not_fit_are_refused(written, tmp_path):
    path, _ = written
    for cell, group, expected in (
        (CELL * [1.03, 1.03, 1, 1, 1, 1], GROUP, "cell"),
        (CELL, "P 4", "point group"),
        (CELL, "I 4 2 2", "point group"),
    ):
        with pytest.raises(FileError) as caught:
            mtz.read_merged(path, cell, group)
        assert expected in caught.value.expected

    (tmp_path / "no.mtz").write_text("no MTZ")
    with pytest.raises(FileError, match="readable MTZ"):
        mtz.read_merged(tmp_path / "no.mtz", CELL, GROUP)

    empty = gemmi.read_mtz_file(str(path))
    for label in [column.label for column in empty.columns][3:]:
        empty.remove_column([column.label for column in empty.columns].index(label))
    empty.write_to_file(str(tmp_path / "empty.mtz"))

    with pytest.raises(FileError, match="merged intensities"):
        mtz.read_merged(tmp_path / "empty.mtz", CELL, GROUP)
