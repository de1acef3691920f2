"""The text of CrystFEL streams, formats 2.0 to 2.3: its header, where its chunks are, and what
stands in each. A file of any size is read in the memory of one chunk.

A chunk is a shot: lines `key = value` or `Key: value`, a table of peaks, and crystals, each with
lines of its own and a table of reflections. What a table has, its header line says; columns beyond
those that CrystFEL knows are read by their names.
"""

import re
from collections.abc import Iterator, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from spreadflow.errors import FileError

FORMAT = re.compile(rb"CrystFEL stream format 2\.([0-3])\s*$")
"""The first line."""

GEOMETRY = (b"----- Begin geometry file -----", b"----- End geometry file -----")
CHUNK = (b"----- Begin chunk -----", b"----- End chunk -----")
CRYSTAL = (b"--- Begin crystal", b"--- End crystal")
PEAKS = (b"Peaks from peak search", b"End of peak list")
REFLECTIONS = (b"Reflections measured after indexing", b"End of reflections")
"""First and last line of what stands between them."""

IMAGE = b"Image filename:"
EVENT = b"Event:"
SERIAL = b"Image serial number:"
"""What the first lines of a chunk begin with: which shot it is, and its number."""

MARK = b"\n---"
"""What the lines that begin and end chunks and crystals begin with, and no others do."""

TEXT_COLUMNS = ("panel", "Panel")
"""Columns that hold no numbers."""

LONGEST_FIRST = 60
"""Bytes of the first line that are looked at."""

LONGEST_HEADER = 2**24
"""Bytes before the first chunk, at most."""

ABOUT_STREAM = "Is the file complete? Write it again, or copy it again."
"""What to do about a file that is not as CrystFEL writes it."""


class TextTable(NamedTuple):
    """A table of a chunk."""

    where: str
    """the file, for errors"""
    line: int
    """number of the first row's line in the file"""
    columns: dict[str, np.ndarray]
    """name → (row,) words"""
    n_rows: int

    def numbers(self, name: str) -> np.ndarray:
        """Return a column (row,) as float64. Raises FileError for what is none, by its line."""
        words = self.columns[name]
        try:
            return words.astype(np.float64)
        except ValueError:
            row = next(row for row, word in enumerate(words.tolist()) if not _is_number(word))
        where = f"{self.where}, line {self.line + row}"
        found = repr(words[row].decode("latin-1"))
        raise FileError(where, f"a number as {name}", found, ABOUT_STREAM)

    def finite(self, name: str) -> np.ndarray:
        """Return a column (row,) of finite numbers. Raises FileError as `numbers`."""
        values = self.numbers(name)
        is_finite = np.isfinite(values)
        if not is_finite.all():
            row = int(np.argmin(is_finite))
            where = f"{self.where}, line {self.line + row}"
            raise FileError(where, f"a finite number as {name}", values[row], ABOUT_STREAM)
        return values


def _is_number(word: bytes) -> bool:
    """Whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


class KeyLines(NamedTuple):
    """The lines `key = value` of a chunk or a crystal."""

    where: str
    """the file, for errors"""
    values: dict[str, tuple[int, str]]
    """key → number of its line, and its value"""

    def text(self, key: str) -> str:
        """Return a value, empty where there is none."""
        return self.values.get(key, (0, ""))[1]

    def numbers(self, key: str, n: int) -> np.ndarray | None:
        """Return the first n numbers of a value, None where there is none. Raises FileError where
        they are no finite numbers, by the line.
        """
        if key not in self.values:
            return None
        line, value = self.values[key]
        try:
            numbers = np.array([float(word) for word in value.split()[:n]])
        except ValueError:
            numbers = np.full(n, np.nan)
        if len(numbers) < n or not np.isfinite(numbers).all():
            expected = f"{n} finite numbers" if n > 1 else "a finite number"
            raise FileError(
                f"{self.where}, line {line}", f"{key} = {expected}", value, ABOUT_STREAM
            )
        return numbers

    def number(self, key: str) -> float | None:
        """Return a number, None where there is none. Raises FileError as `numbers`."""
        numbers = self.numbers(key, 1)
        return None if numbers is None else float(numbers[0])


class CrystalText(NamedTuple):
    """A crystal of a chunk."""

    line: int
    """number of its first line in the file"""
    lines: KeyLines
    reflections: TextTable | None


class ChunkText(NamedTuple):
    """A shot."""

    lines: KeyLines
    peaks: TextTable | None
    crystals: list[CrystalText]


class ChunkPlace(NamedTuple):
    """Where a complete chunk is, and which shot it is."""

    offset: int
    """of its first line, bytes"""
    line: int
    """number of that line, from 1"""
    image: str
    """file of the shot, as stated"""
    event: str
    """which shot of that file, as stated; may be empty"""
    n_crystals: int


class ChunkPlaces(NamedTuple):
    """The chunks of a file."""

    chunks: list[ChunkPlace]
    torn: list[int]
    """numbers of the lines at which chunks begin that have no end"""


class StreamText:
    """The text of a stream. Raises FileError where it is none."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.geometry: bytes | None = None
        """the geometry file in its header"""
        self.geometry_line = 0
        """number of the first line of the geometry file"""
        try:
            with open(self.path, "rb") as file:
                self.minor = self._read_format(file)
                """2.<minor> is its format"""
                self._read_header(file)
        except OSError as error:
            raise FileError(path, "a CrystFEL stream", error, "Check the path.") from None

    def _read_format(self, file: BinaryIO) -> int:
        """Return the minor version that the first line states. Raises FileError."""
        first = file.readline(LONGEST_FIRST)
        match = FORMAT.match(first)
        if match is None:
            expected = "a CrystFEL stream of format 2.0 to 2.3"
            found = repr(first.decode("latin-1"))
            raise FileError(self.path, expected, found, "Is it a stream of indexamajig?")
        return int(match[1])

    def _read_header(self, file: BinaryIO) -> None:
        """Read what stands between the first line and the first chunk."""
        geometry: list[bytes] | None = None
        n_bytes = 0
        for number, line in enumerate(file, start=2):
            bare = line.rstrip()
            n_bytes += len(line)
            if bare == GEOMETRY[0]:
                geometry = []
                self.geometry_line = number + 1
            elif bare == GEOMETRY[1] and geometry is not None:
                self.geometry = b"".join(geometry)
                return
            elif bare == CHUNK[0] or n_bytes > LONGEST_HEADER:
                return
            elif geometry is not None:
                geometry.append(line)

    def places(self) -> ChunkPlaces:
        """Return where the complete chunks are."""
        places = ChunkPlaces([], [])
        place: ChunkPlace | None = None
        with (
            open(self.path, "rb") as file,
            mmap(file.fileno(), 0, access=ACCESS_READ) as content,
        ):
            for offset, number in _marked(content):
                line = _line_at(content, offset)
                if line == CHUNK[0]:
                    if place is not None:
                        places.torn.append(place.line)
                    place = ChunkPlace(offset, number, *_names(content, offset), 0)
                elif place is not None and line == CHUNK[1]:
                    places.chunks.append(place)
                    place = None
                elif place is not None and line.startswith(CRYSTAL[0]):
                    place = place._replace(n_crystals=place.n_crystals + 1)
        if place is not None:
            places.torn.append(place.line)
        return places

    def chunk(self, place: ChunkPlace) -> ChunkText:
        """Return a chunk. Raises FileError where a table is none, by its line."""
        with open(self.path, "rb") as file:
            file.seek(place.offset)
            return _chunk(_Numbered(str(self.path), file, place.line))


def _marked(content: mmap) -> Iterator[tuple[int, int]]:
    """Yield offset and number of each line that begins with three dashes, as marks do; the first
    line of a file is none.
    """
    number = 1
    before = 0
    while (end := content.find(MARK, before)) >= 0:
        offset = end + 1
        number += content[before:offset].count(b"\n")
        yield offset, number
        before = offset


def _line_at(content: mmap, offset: int) -> bytes:
    """Return the line that begins there, without its end."""
    end = content.find(b"\n", offset)
    return content[offset : end if end >= 0 else len(content)].rstrip()


def _names(content: mmap, offset: int) -> tuple[str, str]:
    """Return image file and event of the chunk that begins there: they are in its first lines."""
    found = {IMAGE: "", EVENT: ""}
    while (offset := content.find(b"\n", offset) + 1) > 0:
        line = _line_at(content, offset)
        beginning = next((one for one in found if line.startswith(one)), None)
        if beginning is not None:
            found[beginning] = line[len(beginning) :].decode(errors="surrogateescape").strip()
        elif not line.startswith(SERIAL):
            break
    return found[IMAGE], found[EVENT]


class _Numbered:
    """Lines of a file, without ends, that know their numbers."""

    def __init__(self, where: str, lines: Iterator[bytes], number: int):
        """Begin with a line of this number."""
        self.where = where
        self.number = number - 1
        """of the line that came last"""
        self._lines = lines

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.number += 1
            yield line.rstrip()


def _chunk(lines: _Numbered) -> ChunkText:
    """Return the chunk that follows, to its last line."""
    chunk = ChunkText(KeyLines(lines.where, {}), None, [])
    for line in lines:
        if line == CHUNK[1]:
            break
        if line == PEAKS[0]:
            chunk = chunk._replace(peaks=_rows(lines, PEAKS[1]))
        elif line.startswith(CRYSTAL[0]):
            chunk.crystals.append(_crystal(lines))
        else:
            _take_up(lines, line, chunk.lines)
    return chunk


def _crystal(lines: _Numbered) -> CrystalText:
    """Return the crystal that follows, to its last line."""
    crystal = CrystalText(lines.number, KeyLines(lines.where, {}), None)
    for line in lines:
        if line.startswith(CRYSTAL[1]):
            break
        if line == REFLECTIONS[0]:
            crystal = crystal._replace(reflections=_rows(lines, REFLECTIONS[1]))
        else:
            _take_up(lines, line, crystal.lines)
    return crystal


def _take_up(lines: _Numbered, line: bytes, values: KeyLines) -> None:
    """Take up a line `key = value`; others say nothing that is read."""
    key, sign, value = line.decode(errors="surrogateescape").partition("=")
    if sign:
        values.values[key.strip()] = (lines.number, value.strip())


def _rows(lines: _Numbered, end: bytes) -> TextTable:
    """Return the table that follows, to its last line. Raises FileError for a row that is short."""
    names: Sequence[str] | None = None
    rows: list[bytes] = []
    first = lines.number + 2
    for line in lines:
        if line == end:
            break
        if names is None:
            names = line.decode("latin-1").split()
        else:
            rows.append(line)
    names = names or []
    words = np.array(b" ".join(rows).split())
    if words.size != len(rows) * len(names):
        return _rows_with_more(lines.where, first, names, rows)
    columns = words.reshape(len(rows), len(names)).T
    return TextTable(lines.where, first, dict(zip(names, columns, strict=True)), len(rows))


def _rows_with_more(where: str, first: int, names: Sequence[str], rows: list[bytes]) -> TextTable:
    """Return a table whose rows have more words than its header names: these are not read. Raises
    FileError for a row with fewer.
    """
    split = [row.split() for row in rows]
    for row, words in enumerate(split):
        if len(words) < len(names):
            expected = f"the {len(names)} columns {' '.join(names)}"
            found = f"{len(words)} in {rows[row].decode('latin-1')!r}"
            raise FileError(f"{where}, line {first + row}", expected, found, ABOUT_STREAM)
    columns = np.array([words[: len(names)] for words in split]).T
    return TextTable(where, first, dict(zip(names, columns, strict=True)), len(rows))
