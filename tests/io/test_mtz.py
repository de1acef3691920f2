"""MTZ files of merged intensities and of their observations, as gemmi reads them."""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.merging.merging import Unique
from spreadflow.io import mtz
from spreadflow.physics import symmetry

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


GROUPS = {
    "P 1": [28.0, 31.0, 34.0, 81.0, 95.0, 102.0],
    "C 1 2 1": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0],
    "P 43 21 2": [40.0, 40.0, 70.0, 90.0, 90.0, 90.0],
    "R 3 :H": [60.0, 60.0, 80.0, 90.0, 90.0, 120.0],
    "P 65 2 2": [60.0, 60.0, 80.0, 90.0, 90.0, 120.0],
}


def observations(n: int, rng) -> mtz.Observations:
    """Observations of all octants, of three batches."""
    return mtz.Observations(
        hkl=rng.integers(-5, 6, (n, 3)),
        batch=rng.integers(0, 3, n),
        intensity=rng.normal(100.0, 30.0, n),
        sigma=rng.uniform(1.0, 9.0, n),
        fast=rng.uniform(0, 1920, n),
        slow=rng.uniform(0, 1920, n),
        partiality=rng.uniform(0, 1, n),
    )


def batches(cell) -> list[mtz.Batch]:
    """Three of them, of other cells."""
    return [mtz.Batch(f"shot {n}", 1.74 + 0.001 * n, np.array(cell) + 0.1 * n) for n in range(3)]


@pytest.mark.parametrize(("group", "cell"), GROUPS.items(), ids=list(GROUPS))
def test_observations_are_in_the_asymmetric_unit_and_can_be_taken_back(group, cell, tmp_path):
    """By gemmi, with the operations that M/ISYM numbers."""
    observed = observations(300, np.random.default_rng(3))
    table = mtz.unmerged(
        observed, batches(cell), cell=np.array(cell), space_group=group, wavelength=1.74
    )
    mtz.save(table, tmp_path / "u.mtz")
    file = gemmi.read_mtz_file(str(tmp_path / "u.mtz"))
    assert "".join(column.type for column in file.columns) == "HHHYBJQRRR"
    asu = gemmi.ReciprocalAsu(file.spacegroup)
    assert all(asu.is_in(h) for h in file.make_miller_array().tolist())
    rows = np.array(file.array)
    assert (np.lexsort(rows[:, 4::-1].T) == np.arange(len(rows))).all(), "sorted as it says"
    assert file.sort_order == [1, 2, 3, 4, 5]

    assert file.switch_to_original_hkl()
    back = np.column_stack([file.make_miller_array(), np.array(file.array)[:, 4:]])
    original = np.column_stack([observed.hkl, observed.batch + 1, *observed[2:]]).astype(np.float32)
    by_intensity = [np.argsort(back[:, 4]), np.argsort(original[:, 4])]
    np.testing.assert_array_equal(back[by_intensity[0]], original[by_intensity[1]])


@pytest.mark.parametrize(("group", "cell"), GROUPS.items(), ids=list(GROUPS))
def test_gemmi_averages_mates_apart(group, cell, tmp_path):
    """Its weighted means are those of observations equivalent by our own operations."""
    observed = observations(300, np.random.default_rng(3))
    table = mtz.unmerged(
        observed, batches(cell), cell=np.array(cell), space_group=group, wavelength=1.74
    )
    mtz.save(table, tmp_path / "u.mtz")
    data = gemmi.Intensities()
    data.import_mtz(gemmi.read_mtz_file(str(tmp_path / "u.mtz")), gemmi.DataType.Unmerged)
    merged = data.merged(gemmi.DataType.Anomalous)

    asu, friedel = symmetry.to_asu(observed.hkl, group)
    sides = np.where(friedel < 0, -1, 1)
    keys = np.column_stack([asu, sides])
    indices = np.array(merged.miller_array)
    theirs = np.array(merged.isign_array)
    theirs[symmetry.is_centric(indices, group)] = 1
    assert len(indices) == len(np.unique(keys, axis=0))
    for index, side, value in zip(indices, theirs, merged.value_array, strict=True):
        same = (keys == [*index, side]).all(axis=1)
        mean = np.average(observed.intensity[same], weights=observed.sigma[same] ** -2.0)
        assert value == pytest.approx(mean, rel=1e-4, abs=1e-3)


def few() -> gemmi.Mtz:
    """Four observations of two reflections, one of them centric, in two batches."""
    cell = [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]
    observed = mtz.Observations(
        hkl=np.array([[1, 2, 3], [-1, 2, -3], [-1, -2, -3], [0, 2, 0]]),
        batch=np.array([0, 1, 0, 1]),
        intensity=np.array([10.0, 12.0, 9.0, 5.0]),
        sigma=np.array([1.0, 2.0, 1.0, 0.5]),
        fast=np.array([1.5, 2.5, 3.5, 4.5]),
        slow=np.array([10.5, 20.5, 30.5, 40.5]),
        partiality=np.array([0.5, 0.25, 1.0, 0.75]),
    )
    return mtz.unmerged(
        observed,
        batches(cell)[:2],
        cell=np.array(cell),
        space_group="C 1 2 1",
        wavelength=1.7414,
        history="by a test",
    )


RECORDS = """\
VERS MTZ:V1.1
TITLE Scaled observations, not merged
NCOL       10            4        2
CELL    67.2000   59.8000   47.2000   90.0000  110.3000   90.0000
SORT    1   2   3   4   5
SYMINF   4  2 C     5              'C 1 2 1' PG2
SYMM X,Y,Z
SYMM -X,Y,-Z
SYMM X+1/2,Y+1/2,Z
SYMM -X+1/2,Y+1/2,-Z
RESO 0.001118555721       0.006708949593
VALM NAN
COLUMN H                              H       0.000000000       1.000000000    0
COLUMN K                              H       2.000000000       2.000000000    0
COLUMN L                              H       0.000000000       3.000000000    0
COLUMN M/ISYM                         Y       1.000000000       3.000000000    1
COLUMN BATCH                          B       1.000000000       2.000000000    1
COLUMN I                              J       5.000000000      12.000000000    1
COLUMN SIGI                           Q       0.500000000       2.000000000    1
COLUMN XDET                           R       1.500000000       4.500000000    1
COLUMN YDET                           R      10.500000000      40.500000000    1
COLUMN FRACTIONCALC                   R       0.250000000       1.000000000    1
NDIF        2
PROJECT       0 HKL_base
CRYSTAL       0 HKL_base
DATASET       0 HKL_base
DCELL         0    67.2000   59.8000   47.2000   90.0000  110.3000   90.0000
DWAVEL        0    1.74140
PROJECT       1 spreadflow
CRYSTAL       1 crystal
DATASET       1 unmerged
DCELL         1    67.2000   59.8000   47.2000   90.0000  110.3000   90.0000
DWAVEL        1    1.74140
"""
"""Header of the file of `few`, up to the list of batches."""

ROWS = [
    [0, 2, 0, 1, 2, 5, 0.5, 4.5, 40.5, 0.75],
    [1, 2, 3, 1, 1, 10, 1, 1.5, 10.5, 0.5],
    [1, 2, 3, 2, 1, 9, 1, 3.5, 30.5, 1],
    [1, 2, 3, 3, 2, 12, 2, 2.5, 20.5, 0.25],
]
"""Its reflections."""


def test_the_bytes_of_unmerged_files_are_as_the_format_has_them(tmp_path):
    path = tmp_path / "u.mtz"
    mtz.save(few(), path)
    content = path.read_bytes()
    assert content[:4] == b"MTZ "
    header_at = 4 * (int.from_bytes(content[4:8], "little") - 1)
    floats = np.frombuffer(content[80:header_at], "<f4").reshape(-1, 10)
    np.testing.assert_array_equal(floats, ROWS)

    header = content[header_at:].decode("latin1")
    records = [header[at : at + 80].rstrip() for at in range(0, len(header), 80)]
    assert records[: RECORDS.count("\n")] == RECORDS.splitlines()
    headers_at = header.index("MTZBATS")
    n_bytes = 3 * 80 + 4 * (29 + 156)
    for number in (1, 2):
        of_batch = header[headers_at + 80 + (number - 1) * n_bytes :]
        assert of_batch[:80].split() == ["BH", str(number), "185", "29", "156"]
        assert of_batch[80:160].rstrip() == f"TITLE shot {number - 1}"
    assert header[headers_at + 80 + 2 * n_bytes :].rstrip() == "MTZENDOFHEADERS"


def test_headers_of_batches_say_cell_wavelength_and_data_set(tmp_path):
    mtz.save(few(), tmp_path / "u.mtz")
    for number, header in enumerate(gemmi.read_mtz_file(str(tmp_path / "u.mtz")).batches):
        assert header.number == number + 1
        assert header.wavelength == pytest.approx(1.74 + 0.001 * number, rel=1e-6)
        cell = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0]) + 0.1 * number
        assert header.cell.parameters == pytest.approx(tuple(cell), rel=1e-6)
        assert header.dataset_id == 1
