"""Files whose structure was damaged end in one clear error or cost their own shots: no traceback,
no hang, no memory beyond 2 GiB.
"""

import itertools
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import crystfel_file
import mutated_files
import nexus_file
from image_files import full_cbf, image, mini_cbf, smv

N_FILES = 50
"""Changed files of each format."""

N_MAGIC = 15
"""First bytes of a header, by which its format is told."""

CBF_STARTER = b"\x0c\x1a\x04\xd5"
"""What ends the header of pixels in a CBF."""


NEXUS_PIXELS = (nexus_file.DATA, f"{nexus_file.SENSOR}/pixel_mask")
"""Datasets of pixels."""


def _structure(path: Path, names: tuple[str, ...] = NEXUS_PIXELS) -> list[tuple[int, int]]:
    """Return the ranges of bytes of an HDF5 file that hold no pixels; names: those that do."""
    pixels = []
    with h5py.File(path) as f:
        for name in names:
            chunks = f[name].id
            for number in range(chunks.get_num_chunks()):
                chunk = chunks.get_chunk_info(number)
                pixels.append((chunk.byte_offset, chunk.byte_offset + chunk.size))
    edges = [0, *(edge for ends in sorted(pixels) for edge in ends), path.stat().st_size]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _header(path: Path, end: bytes) -> list[tuple[int, int]]:
    """Return the range of bytes of a header of text, but for those that tell the format."""
    return [(N_MAGIC, path.read_bytes().index(end))]


def _numbers(path: Path, end: bytes) -> list[tuple[int, int]]:
    """Return the ranges of bytes of the numbers in a header of text."""
    ((start, stop),) = _header(path, end)
    matches = re.finditer(rb"[-.\d]+", path.read_bytes()[start:stop])
    return [(start + match.start(), start + match.end()) for match in matches]


@pytest.mark.stage
def test_nexus_files_with_a_changed_structure_are_read_or_refused(tmp_path):
    """Crashes within libhdf5 are not ours, and are few."""
    path = tmp_path / "a.nxs"
    nexus_file.write(path)
    counts = _counts(path, _structure(path))
    assert counts.get("crash", 0) <= 1, counts


def _full(path: Path) -> Path:
    return full_cbf(path, {"ARRAY": image(2, 4, 6)})


def _mini(path: Path) -> Path:
    return mini_cbf(path, image(5, 7))


def _smv(path: Path) -> Path:
    return smv(path, image(4, 6, dtype="uint16"))


@pytest.mark.stage
@pytest.mark.parametrize("structure", [_header, _numbers], ids=["anywhere", "in numbers"])
@pytest.mark.parametrize(
    ("write", "end"),
    [(_full, CBF_STARTER), (_mini, CBF_STARTER), (_smv, b"}")],
    ids=["full CBF", "mini CBF", "SMV"],
)
def test_files_with_a_changed_header_are_read_or_refused(tmp_path, write, end, structure):
    path = write(tmp_path / "a.img")
    assert "crash" not in _counts(path, structure(path, end))


@pytest.mark.stage
def test_cxi_files_with_a_changed_structure_are_read_or_refused(tmp_path):
    files = crystfel_file.write(tmp_path)
    structure = _structure(files.images, (crystfel_file.DATA,))
    counts = _counts(files.images, structure, files.geom)
    assert counts.get("crash", 0) <= 1, counts


@pytest.mark.stage
def test_changed_geometry_files_are_read_or_refused(tmp_path):
    files = crystfel_file.write(tmp_path)
    whole = [(0, files.geom.stat().st_size)]
    assert "crash" not in _counts(files.geom, whole, files.images)


def _counts(
    path: Path, structure: list[tuple[int, int]], partner: Path | None = None
) -> dict[str, int]:
    """Return how often reading a changed file ended in which way: none in a traceback or never."""
    result = mutated_files.endings(path, structure, N_FILES, partner=partner)
    counts = result["endings"]
    assert sum(counts.values()) == N_FILES
    assert counts.get("refused", 0) > 5, counts
    assert not {"traceback", "hang"} & set(counts), (counts, result["errors"])
    return counts


NONSENSE = {
    "empty": np.empty(0),
    "text": "nonsense",
    "bytes that are no UTF-8": np.bytes_(b"\xff\xfe"),
    "nan": np.nan,
    "negative": -7,
    "huge": 1e300,
    "three numbers": np.arange(3.0),
    "a cube": np.ones((2, 2, 2)),
    "a record": np.zeros(2, [("a", "i4"), ("b", "f4")]),
}
"""Values that no item of a file should have."""


def _items(path: Path) -> list[tuple[str, str | None]]:
    """Return the paths of all items of a file, and again with the name of each attribute."""
    items: list[tuple[str, str | None]] = []
    with h5py.File(path) as f:

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            items.append((name, None))
            items.extend((name, attribute) for attribute in item.attrs)

        f.visititems(visit)
    return items


N_FOR_EACH = 2
"""Kinds of nonsense that each item is given in turn; all of them take half a minute."""


@pytest.mark.stage
def test_an_item_that_holds_nonsense_is_read_or_refused(tmp_path):
    """One item or attribute after the other, also a dataset in place of a group, or the other way
    round.
    """
    whole = tmp_path / "whole.nxs"
    nexus_file.write(whole)
    content = whole.read_bytes()
    path = tmp_path / "a.nxs"
    endings = set()
    kinds = itertools.cycle(NONSENSE)
    for name, attribute in _items(whole) * N_FOR_EACH:
        nonsense = next(kinds)
        path.write_bytes(content)
        with h5py.File(path, "r+") as f:
            if attribute is not None:
                f[name].attrs[attribute] = NONSENSE[nonsense]
            elif nonsense == "empty" and isinstance(f[name], h5py.Dataset):
                del f[name]
                f.create_group(name)
            else:
                del f[name]
                f[name] = NONSENSE[nonsense]
        endings.add(mutated_files.read(path))
    assert endings == {mutated_files.READ, mutated_files.REFUSED}
