"""Spec files as editors of all systems write them."""

from pathlib import Path

import pytest

from spreadflow.errors import FileError
from spreadflow.io.lattices import spec


def read(path: Path, text: str) -> list[tuple]:
    path.write_bytes(text.encode())
    return [(one.line, one.expt, one.refl, one.experiment, one.spectrum) for one in spec.read(path)]


@pytest.mark.parametrize(
    "text",
    [
        "a.expt a.refl\n\nb.expt b.refl p.lam 3\n",
        "\ufeffa.expt a.refl\r\n\r\nb.expt b.refl p.lam 3\r\n",  # an editor of Windows
        "a.expt\ta.refl # of 7 May\n  # and\nb.expt b.refl p.lam 3 #\n",
        '"a.expt" "a.refl"\n\n"b.expt" b.refl "p.lam" 3',
    ],
)
def test_a_line_is_the_same_however_it_is_written(tmp_path, text):
    first, second = read(tmp_path / "spec.txt", text)
    assert first == (1, tmp_path / "a.expt", tmp_path / "a.refl", None, None)
    assert second == (3, tmp_path / "b.expt", tmp_path / "b.refl", 3, tmp_path / "p.lam")


def test_names_may_hold_blanks_signs_and_apostrophes(tmp_path):
    text = '"my run/a.expt" /data/o\'brien/a#1.refl\n'
    (line,) = read(tmp_path / "spec.txt", text)
    assert line[1:3] == (tmp_path / "my run" / "a.expt", Path("/data/o'brien/a#1.refl"))


def test_a_quote_that_is_left_open_is_said(tmp_path):
    with pytest.raises(FileError, match="line 2: expected quotes in pairs"):
        read(tmp_path / "spec.txt", 'a.expt a.refl\n"my run/a.expt a.refl\n')


def test_a_file_of_comments_has_no_line(tmp_path):
    with pytest.raises(FileError, match="a line for each lattice"):
        read(tmp_path / "spec.txt", "# nothing yet\n\n")
