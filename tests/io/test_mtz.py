"""MTZ files of merged intensities and of their observations, as gemmi reads them."""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
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
    wavelengths = [dataset.wavelength for dataset in file.datasets]
    assert wavelengths == pytest.approx([1.7414, 1.7414], rel=1e-6), "that of indices, too"

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
        assert np.isnan(value["N(-)"][i]) == has_no_minus


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
