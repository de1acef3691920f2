"""Tables of f′, f″ as others write them: what is repaired is said, and what is wrong is named."""

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io.curve_table import read_curve

ROWS = [(7100.0, -6.0, 0.5), (7110.0, -7.5, 1.5), (7120.0, -7.0, 3.5), (7130.0, -6.5, 4.0)]


def text(rows=ROWS, order=(0, 1, 2), unit=1.0, separator=" ", head=""):
    lines = []
    for row in rows:
        numbers = [row[0] * unit, *row[1:]]
        lines.append(separator.join(f"{numbers[column]:.4f}" for column in order))
    return head + "\n".join(lines) + "\n"


def curve(tmp_path, content, **keys):
    path = tmp_path / "curve.dat"
    path.write_text(content, newline="", **keys)
    return read_curve(path)


def refusal(tmp_path, content) -> str:
    with pytest.raises(FileError) as error:
        curve(tmp_path, content)
    return str(error.value)


def test_curves_of_measured_tables(shared_data):
    path = shared_data / "pf-rd-ox_fftkk.out"
    table = np.loadtxt(path)
    row = np.argmin(np.abs(table[:, 0] - 7120))
    values = read_curve(path).at(np.array([7120.0, 7120.5]))

    _, fp, fdp = table[row]
    _, middle_fp, middle_fdp = table[row : row + 2].mean(axis=0)

    assert values[0] == pytest.approx(fp + 1j * fdp)
    assert values[1] == pytest.approx(middle_fp + 1j * middle_fdp)


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (text(), None),
        (text(separator=","), None),
        (text(separator=" ; "), None),
        (text(separator="\t"), None),
        (text(head="E(eV) f1 f2\n"), None),
        (text(head="# 7100 1 2\n\n! of a scan\n"), None),
        ("\ufeff" + text().replace("\n", "\r\n"), None),
        (text().replace("0.5000\n", "0.5000  # at first\n"), None),
        (text(ROWS[::-1]), "falling energies are turned round"),
        (text(unit=1e-3), "keV"),
        (text([*ROWS[:2], ROWS[1], *ROWS[2:]]), "1 rows that are there twice"),
        (text(order=(0, 2, 1)), "second column is taken for f''"),
    ],
)
def test_every_way_to_write_a_table_gives_the_same_curve(tmp_path, content, remark):
    read = curve(tmp_path, content, encoding="utf-8")
    np.testing.assert_allclose(read.energies_ev, [row[0] for row in ROWS])
    np.testing.assert_allclose(read.values, [fp + 1j * fdp for _, fp, fdp in ROWS])
    assert len(read.remarks) == (remark is not None)
    assert remark is None or remark in read.remarks[0]


def test_lines_are_those_of_the_file(tmp_path):
    falling = curve(tmp_path, text(ROWS[::-1], head="E f1 f2\n\n"))
    assert falling.lines.tolist() == [6, 5, 4, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (text([*ROWS[:2], (7110.0, -7.4, 1.5), *ROWS[2:]]), "rise from row to row"),
        (text([ROWS[0], ROWS[2], ROWS[1], ROWS[3]]), "line 3: 7110 -7.5 1.5"),
        (text([*ROWS, (7140.0, -6.0, 0.0)]), "f'' > 0 in the third column"),
        (text([(e, fp, -fdp) for e, fp, fdp in ROWS]), "line 1: 7100 -6 -0.5"),
        (text([(7090.0, -9999.0, 0.5), *ROWS]), "line 1: 7090 -9999 0.5"),
        (text([*ROWS, (7140.0, -6.0, 3000.0)]), "line 5: 7140 -6 3000"),
        (text([*ROWS, (7140.0, np.nan, 3.0)]), "line 5: 7140 nan 3"),
        (text().replace("-7.5000", "x"), "line 2: 7110.0000 x 1.5000"),
        (text(order=(0, 1, 2, 2)), "line 1: 7100.0000 -6.0000 0.5000 0.5000"),
        (text().replace(".", ",", 3), "line 1: 7100 0000 -6 0000 0 5000"),
        (text(ROWS[:1]), "1 rows of numbers"),
        ("E f1 f2\n", "0 rows of numbers"),
        ("", "0 rows of numbers"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, content, words):
    assert words in refusal(tmp_path, content)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "curve.dat"
    path.write_bytes(b"\x89HDF\xff\xfe")
    for one in (path, tmp_path / "absent.dat", tmp_path):
        with pytest.raises(FileError, match="a table of three columns"):
            read_curve(one)


def test_energies_beyond_a_table_are_refused_with_how_it_was_read(tmp_path):
    wavelengths = [(12398.4 / e, fp, fdp) for e, fp, fdp in ROWS]
    with pytest.raises(FileError, match=r"1738\.9-1746\.3 eV; its energies are taken for keV"):
        curve(tmp_path, text(wavelengths)).at(np.array([7110.0]))
