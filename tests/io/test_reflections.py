"""DIALS reflection tables byte by byte, and what is none."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io.lattices import dials, reflections


def _text(text: str) -> bytes:
    return bytes([0xD9, len(text)]) + text.encode()


def _column(name: str, kind: str, n: int, content: bytes) -> bytes:
    """Return `name: [kind, [n, content]]` in MessagePack: 0x92 an array of two, 0xc4 up to 255
    bytes.
    """
    return _text(name) + b"\x92" + _text(kind) + b"\x92" + bytes([n, 0xC4, len(content)]) + content


COLUMNS = [
    _column("id", "int", 2, struct.pack("<2i", 3, 5)),
    _column("panel", "std::size_t", 2, struct.pack("<2Q", 1, 0)),
    _column("miller_index", "cctbx::miller::index<>", 2, struct.pack("<6i", 1, -2, 3, 0, 0, 0)),
    _column(
        "xyzobs.px.value", "vec3<double>", 2, struct.pack("<6d", 1.5, 2.5, 0.5, 7.25, 8.0, 0.5)
    ),
    _column("shoebox", "Shoebox<>", 2, b"any"),
]


def table(
    columns: list[bytes] = COLUMNS, kind: str = "dials::af::reflection_table", version: int = 1
) -> bytes:
    """Return a table as DIALS writes it: an array of three, the last a map of identifiers (3: "a",
    5: "b"), rows and columns.
    """
    out = (
        b"\x93"
        + _text(kind)
        + bytes([version])
        + b"\x83"
        + _text("identifiers")
        + b"\x82\x03\xa1a\x05\xa1b"
    )
    return (
        out
        + _text("nrows")
        + b"\x02"
        + _text("data")
        + bytes([0x80 + len(columns)])
        + b"".join(columns)
    )


NAMES = ("miller_index", "panel", "xyzobs.px.value")


def test_columns_are_read_to_the_bit(tmp_path):
    (tmp_path / "a.refl").write_bytes(table())
    read = reflections.read(tmp_path / "a.refl", NAMES)
    assert read.columns.keys() == {"id", *NAMES}
    np.testing.assert_array_equal(read.columns["miller_index"], [[1, -2, 3], [0, 0, 0]])
    np.testing.assert_array_equal(read.columns["panel"], [1, 0])
    np.testing.assert_array_equal(
        read.columns["xyzobs.px.value"], [[1.5, 2.5, 0.5], [7.25, 8.0, 0.5]]
    )
    assert read.identifiers == {3: "a", 5: "b"}


def test_rows_of_an_experiment_are_those_of_its_identifier(tmp_path):
    """Its number counts only where the experiment or the table has no identifiers."""
    (tmp_path / "a.refl").write_bytes(table())
    read = reflections.read(tmp_path / "a.refl", NAMES)
    assert read.rows_of("b", 0).tolist() == [1]
    assert read.rows_of("c", 3).tolist() == []
    assert read.rows_of("", 3).tolist() == [0]
    assert replace(read, identifiers={}).rows_of("b", 5).tolist() == [1]


def _shoebox(kind: int) -> bytes:
    """Return a shoebox of two pixels as DIALS writes it: panel, bbox, kind, and the arrays that the
    kind says; the mask in four bytes a pixel or, of kind 2, in one.
    """
    head = struct.pack("<I6iB", 1, 4, 6, 7, 8, 0, 1, kind)
    size = struct.pack("<3I", 1, 1, 2)
    data, background = (struct.pack("<2f", *row) for row in ((3.0, 5.0), (1.0, 1.0)))
    mask = {0: b"", 1: struct.pack("<2i", 5, 3), 2: struct.pack("<2B", 5, 3)}[kind]
    return head + (b"".join(size + column for column in (data, mask, background)) if kind else b"")


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_shoeboxes_are_read_past(tmp_path, kind):
    """They are as long as they say, and the columns after them are found; kind 2 is that of DIALS
    since 2026.
    """
    shoeboxes = _column("shoebox", "Shoebox<>", 2, 2 * _shoebox(kind))
    (tmp_path / "a.refl").write_bytes(table([shoeboxes, *COLUMNS[:4]]))
    read = reflections.read(tmp_path / "a.refl", NAMES)
    np.testing.assert_array_equal(read.columns["miller_index"], [[1, -2, 3], [0, 0, 0]])
    np.testing.assert_array_equal(read.columns["panel"], [1, 0])


SPOILT = {
    "no file": (None, "a reflection table"),
    "empty": (b"", "MessagePack"),
    "truncated": (table()[:-20], "MessagePack"),
    "a pickle": (
        b"\x80\x02cdials_array_family_flex_ext\nreflection_table\n",
        "from_file('a.refl').as_file('a.refl')",
    ),
    "another thing": (table(kind="dials::af::other"), "version 1"),
    "another version": (table(version=2), "version 1"),
    "no rows": (b"\x93\xa1a\x01\x80", "DIALS reflection table"),
    "no column": (table(COLUMNS[:2]), "column miller_index"),
    "unknown type": (
        table([_column("miller_index", "vec4", 2, bytes(16)), *COLUMNS[:2]]),
        "column miller_index",
    ),
    "too few bytes": (
        table([_column("panel", "std::size_t", 2, bytes(8)), COLUMNS[0], *COLUMNS[2:]]),
        "column panel",
    ),
    "too few rows": (
        table([_column("panel", "std::size_t", 1, bytes(8)), COLUMNS[0], *COLUMNS[2:]]),
        "column panel",
    ),
}


@pytest.mark.parametrize(("content", "words"), SPOILT.values(), ids=SPOILT)
def test_what_is_no_table_is_one_clear_error(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.refl").write_bytes(content)
    with pytest.raises(FileError, match=r"a\.refl") as error:
        reflections.read(tmp_path / "a.refl", NAMES)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_dials(shared_data):
    """Spots of indexed reflections lie where the crystal puts them, in files that DIALS itself
    wrote.
    """
    from spreadflow.analysis.still import indexing
    from spreadflow.physics import geometry

    pairs = [(path, path.with_suffix(".refl")) for path in sorted(shared_data.rglob("*.expt"))]
    pairs = [pair for pair in pairs if pair[1].exists()]
    if not pairs:
        pytest.skip(f"no .expt with its .refl below {shared_data}")
    for expt, refl in pairs:
        read = reflections.read(refl, NAMES)
        experiments = dials.ExperimentList(expt)
        hkl, panel, position = (read.columns[name] for name in NAMES)
        for n in range(len(experiments)):
            crystal = experiments[n]
            rows = read.rows_of(crystal.identifier, n)
            rows = rows[hkl[rows].any(axis=1)]
            fast, slow = position[rows, :2].T
            s1 = geometry.direction(crystal.detector, panel[rows], fast, slow)
            q = (s1 - geometry.S0) / crystal.wavelength
            agree = indexing.agreeing(crystal.A, hkl[rows], q)
            assert len(agree) and agree.mean() > 0.5, f"{expt}, experiment {n}"


PIECES = {
    "id": ("int", [[3], [5]]),
    "panel": ("std::size_t", [[1], [0]]),
    "miller_index": ("cctbx::miller::index<>", [[[1, -2, 3]], [[0, 0, 0]]]),
    "xyzobs.px.value": ("vec3<double>", [[[1.5, 2.5, 0.5]], [[7.25, 8.0, 0.5]]]),
}
"""Type of each column, and its rows one by one: those of `table`."""


def test_tables_are_written_as_they_are_read(tmp_path):
    kinds = {name: kind for name, (kind, _) in PIECES.items()}
    pieces = [{name: np.array(rows[n]) for name, (_, rows) in PIECES.items()} for n in range(2)]
    reflections.write(tmp_path / "ours.refl", 2, kinds, pieces, {3: "a", 5: "b"})
    (tmp_path / "theirs.refl").write_bytes(table())
    ours = reflections.read(tmp_path / "ours.refl", NAMES)
    theirs = reflections.read(tmp_path / "theirs.refl", NAMES)
    assert ours.identifiers == theirs.identifiers
    for name, column in theirs.columns.items():
        np.testing.assert_array_equal(ours.columns[name], column, err_msg=name)


def test_bytes_of_a_table(tmp_path):
    """The bytes are those of MessagePack, with four bytes for the length of each column."""
    kinds = {name: PIECES[name][0] for name in ("id", "panel")}
    pieces = [{name: np.array(PIECES[name][1][n]) for name in kinds} for n in range(2)]
    reflections.write(tmp_path / "a.refl", 2, kinds, pieces, {3: "a", 5: "b"})
    long = b"\x92\x02\xc6\x00\x00\x00"
    expected = (
        b"\x93\xbbdials::af::reflection_table\x01"
        b"\x83\xabidentifiers\x82\x03\xa1a\x05\xa1b\xa5nrows\x02"
        b"\xa4data\x82"
        b"\xa2id\x92\xa3int" + long + b"\x08\x03\x00\x00\x00\x05\x00\x00\x00"
        b"\xa5panel\x92\xabstd::size_t" + long + b"\x10\x01" + bytes(7) + bytes(8)
    )
    assert (tmp_path / "a.refl").read_bytes() == expected


def test_a_column_beyond_what_a_table_can_hold_is_refused(tmp_path):
    with pytest.raises(FileError, match="fewer runs"):
        reflections.write(tmp_path / "a.refl", 2**28, {"xyzcal.px": "vec3<double>"}, [], {})
    assert not (tmp_path / "a.refl").exists()
