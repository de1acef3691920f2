"""CBF, the crystallographic binary file: stills in full or mini CBF, one image a file.

A CBF is a CIF whose values may be binary sections. gemmi reads the CIF, without them; CBFlib
decompresses them, wrapped in a header of our own, so that it never sees that of the file. fabio
knows neither packed pixels, which LCLS wrote, nor several sections.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import content, imgcif, mini_cbf
from spreadflow.io.images.header_text import ABOUT_HEADERS
from spreadflow.io.images.layout import Layout
from spreadflow.io.images.one_shot import OneShotFile

MAGIC = b"###CBF"
"""First bytes of a CBF."""

OPENING = b"--CIF-BINARY-FORMAT-SECTION--"
"""Before the header of a binary section."""

CLOSING = b"--CIF-BINARY-FORMAT-SECTION----"
"""After a binary section."""

STARTER = b"\x0c\x1a\x04\xd5"
"""Before the bytes of a binary section."""

LONGEST_HEADER = 4096
"""Bytes of the header of a binary section, at most."""

LARGEST_IMAGE = 2**26
"""Pixels of a binary section, at most: four times the largest detector."""

TYPES = {
    f"{sign} {bits}-bit integer": f"<{letter}{bits // 8}"
    for sign, letter in (("signed", "i"), ("unsigned", "u"))
    for bits in (8, 16, 32)
} | {"signed 32-bit real IEEE": "<f4", "signed 64-bit real IEEE": "<f8"}
"""Types of pixels that are understood, as NumPy has them."""

CONVERSIONS = re.compile(
    r'"?x-CBF_(BYTE_OFFSET|PACKED|PACKED_V2|CANONICAL|NONE)"?'
    r'(;\s*"?(uncorrelated_sections|flat)"?)*'
)
"""Ways of compression that CBFlib knows."""

WRAPPER = """###CBF: VERSION 1.5
data_image
_array_data.data
;
{opening}
Content-Type: application/octet-stream;
     conversions={conversions}
Content-Transfer-Encoding: BINARY
X-Binary-Size: {n_bytes}
X-Binary-ID: 1
X-Binary-Element-Type: "{type}"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
X-Binary-Number-of-Elements: {n_pixels}
X-Binary-Size-Fastest-Dimension: {fast}
X-Binary-Size-Second-Dimension: {slow}
X-Binary-Size-Third-Dimension: {planes}

"""
"""What CBFlib reads in place of the file's header."""


class Section(NamedTuple):
    """A binary section: an array of pixels, compressed."""

    data: bytes
    conversions: str
    """how it is compressed"""
    type: str
    """of a pixel: a key of `TYPES`"""
    shape: tuple[int, int, int]
    """(plane, slow, fast)"""
    md5: str
    """checksum of the data; empty where there is none"""


def open_cbf(path: Path | str, layout: Layout | None = None) -> OneShotFile:
    """Open a CBF. layout: in place of the header's geometry. Raises FileError where it is
    truncated, holds several images, or its geometry is not understood.
    """
    path = Path(path)
    text, sections = _split(path, content.whole(path))
    try:
        block = gemmi.cif.read_string(text).sole_block()
        return _open_block(path, block, sections, layout)
    except (ValueError, RuntimeError, KeyError, IndexError, OverflowError) as error:
        raise FileError(path, "a complete CBF", error, ABOUT_HEADERS) from None


def _open_block(
    path: Path, block: gemmi.cif.Block, sections: list[Section], layout: Layout | None
) -> OneShotFile:
    """Return the image that a CIF block describes. Raises FileError."""
    if imgcif.is_full(block):
        header, places = imgcif.read(path, block)
        _check_shapes(path, sections, places)
        return OneShotFile(path, header, lambda: _panels(sections, places), layout)
    if not mini_cbf.is_mini(block) and layout is None:
        expected = f"axes (full CBF) or {mini_cbf.CONTENTS} (mini CBF)"
        raise FileError(path, expected, "neither", ABOUT_HEADERS)

    section = sections[0]
    planes, *shape = section.shape
    if planes > 1 or len(sections) > 1:
        found = f"{max(planes, len(sections))} images"
        raise FileError(path, "one image a file", found, "Split the file.")
    slow, fast = shape
    if mini_cbf.is_mini(block):
        header = mini_cbf.read(path, block, (slow, fast), np.dtype(TYPES[section.type]))
    else:
        header = imgcif.read_without_axes(path, block, section.shape)
    return OneShotFile(path, header, lambda: decoded(section), layout)


def _check_shapes(path: Path, sections: list[Section], places: list[imgcif.PanelPixels]) -> None:
    """Raise FileError where an array is not there or of another shape than its header says."""
    for place in places:
        shape = (1, 1, 1)
        if place.array < len(sections):
            shape = sections[place.array].shape
        wanted = (1, 1, 1, *place.shape)[-3:]
        if shape != wanted or len(place.shape) > len(shape):
            raise FileError(path, f"an array of {place.shape} pixels", shape, ABOUT_HEADERS)


def _panels(sections: list[Section], places: list[imgcif.PanelPixels]) -> np.ndarray:
    """Return the image (panel, slow, fast). Raises OSError where it is damaged."""
    images = {number: decoded(sections[number]) for number in {place.array for place in places}}
    panels = []
    for place in places:
        pixels = images[place.array].reshape(place.shape)[place.pixels]
        pixels = pixels.squeeze(tuple(range(pixels.ndim - 2)))
        panels.append(pixels.T if place.is_transposed else pixels)
    return np.stack(panels)


def decoded(section: Section) -> np.ndarray:
    """Return the pixels (plane, slow, fast) of a binary section. Raises OSError where it is
    damaged.
    """
    import pycbf  # which few detectors need

    if section.md5:
        digest = hashlib.md5(section.data, usedforsecurity=False).digest()
        if base64.b64encode(digest).decode() != section.md5:
            raise OSError("the checksum of the pixels is wrong")
    planes, slow, fast = section.shape
    wrapper = WRAPPER.format(
        opening=OPENING.decode(),
        conversions=section.conversions,
        n_bytes=len(section.data),
        type=section.type,
        n_pixels=planes * slow * fast,
        fast=fast,
        slow=slow,
        planes=planes,
    )
    parts = (wrapper.encode(), STARTER, section.data, b"\n", CLOSING, b"\n;\n")
    try:
        handle = pycbf.cbf_handle_struct()
        handle.read_buffer(b"".join(parts), pycbf.MSG_NODIGEST)
        handle.rewind_datablock()
        handle.find_category("array_data")
        handle.find_column("data")
        handle.select_row(0)
        is_real = "real" in section.type
        read = handle.get_realarray_as_string if is_real else handle.get_integerarray_as_string
        pixels = np.frombuffer(read(), TYPES[section.type])
        return pixels.reshape(section.shape)
    except Exception as error:  # CBFlib knows no other
        raise OSError(f"the pixels can't be decompressed: {error}") from None


# ---------------------------------------------------------------- binary sections


def _split(path: Path, raw: bytes) -> tuple[str, list[Section]]:
    """Return the text of a CBF without its binary sections, and these. Raises FileError."""
    texts = []
    sections = []
    position = 0
    while True:
        opening = raw.find(OPENING, position)
        if opening < 0:
            break
        starter = raw.find(STARTER, opening, opening + LONGEST_HEADER)
        if starter < 0:
            expected = "bytes after the header of a binary section"
            raise FileError(path, expected, "none", "Check that the file is complete.")
        start = starter + len(STARTER)
        header = raw[opening + len(OPENING) : starter].decode("latin1")
        section = _section(path, header, raw, start)
        sections.append(section)
        texts.append(raw[position:opening])

        end = start + len(section.data)
        closing = raw.find(CLOSING, end)
        position = end if closing < 0 else closing + len(CLOSING)
    if not sections:
        raise FileError(path, "a binary section", "none", "Check that the file is complete.")
    return b"".join([*texts, raw[position:]]).decode("latin1"), sections


def _section(path: Path, header: str, raw: bytes, start: int) -> Section:
    """Return the binary section of a header, whose bytes start there. Raises FileError."""
    fields = dict(re.findall(r"^\s*([\w-]+)\s*[:=]\s*(.*?)\s*$", header, re.MULTILINE))
    conversions = fields.get("conversions", '"x-CBF_NONE"')
    kind = fields.get("X-Binary-Element-Type", "signed 32-bit integer").strip('"')
    order = fields.get("X-Binary-Element-Byte-Order", "LITTLE_ENDIAN")
    if kind not in TYPES or order != "LITTLE_ENDIAN" or not CONVERSIONS.fullmatch(conversions):
        expected = f"little-endian pixels, {', '.join(TYPES)}, compressed as CBFlib does"
        found = f"{order}, {kind}, {conversions}"
        raise FileError(path, expected, found, "Not supported.")

    n_bytes = _count(path, fields, "X-Binary-Size")
    data = raw[start : start + n_bytes]
    if len(data) < n_bytes:
        found = f"{len(data)}"
        raise FileError(path, f"{n_bytes} bytes of pixels", found, "Check that it is complete.")
    shape = (
        _count(path, fields, "X-Binary-Size-Third-Dimension", 1),
        _count(path, fields, "X-Binary-Size-Second-Dimension"),
        _count(path, fields, "X-Binary-Size-Fastest-Dimension"),
    )
    n_pixels = shape[0] * shape[1] * shape[2]
    if n_pixels > LARGEST_IMAGE:
        raise FileError(path, f"at most {LARGEST_IMAGE} pixels", n_pixels, "Check the header.")
    return Section(data, conversions, kind, shape, fields.get("Content-MD5", ""))


def _count(path: Path, fields: dict[str, str], name: str, default: int | None = None) -> int:
    """Return a positive number of a binary section's header. Raises FileError."""
    text = fields.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"\d{1,12}", text):
        raise FileError(path, f"a number {name}", repr(text), "Check that it is complete.")
    return max(int(text), default or 0)
