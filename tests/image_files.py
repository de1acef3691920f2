"""Small CBF and SMV files, written without the readers under test: headers as text, pixels
compressed by fabio.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from fabio.compression import compByteOffset

ELEMENT_TYPES = {"int32": "signed 32-bit integer", "uint32": "unsigned 32-bit integer"}

CHAIN = """
loop_
_axis.id
_axis.type
_axis.equipment
_axis.depends_on
_axis.vector[1]
_axis.vector[2]
_axis.vector[3]
_axis.offset[1]
_axis.offset[2]
_axis.offset[3]
 SOURCE general source . 0 0 1 . . .
 GRAVITY general gravity . 0 -1 0 . . .
 D_Z translation detector . 0 0 1 . . .
 QUADRANT translation detector D_Z 1 0 0 10 0 0
 SENSOR rotation detector QUADRANT 0 0 1 0 5 0
 A_S translation detector SENSOR 0 -1 0 -1 2 0
 A_F translation detector A_S 1 0 0 0 0 0
 B_S translation detector D_Z 0 -1 0 -3 1.5 0
 B_F translation detector B_S 1 0 0 0 0 0
"""
"""Two panels: A on a sensor that is turned by 90°, B straight."""

SETTINGS = """
loop_
_diffrn_scan_frame_axis.axis_id
_diffrn_scan_frame_axis.frame_id
_diffrn_scan_frame_axis.angle
_diffrn_scan_frame_axis.displacement
 D_Z FRAME1 0 -100.0
 QUADRANT FRAME1 0 0
 SENSOR FRAME1 90 0
"""

STEPS = """
loop_
_array_structure_list_axis.axis_set_id
_array_structure_list_axis.axis_id
_array_structure_list_axis.displacement
_array_structure_list_axis.displacement_increment
 A_F A_F 0.0 0.1
 A_S A_S 0.0 0.1
 B_F B_F 0.0 0.1
 B_S B_S 0.0 0.1
"""

LISTS = """
loop_
_array_structure_list.array_id
_array_structure_list.array_section_id
_array_structure_list.index
_array_structure_list.dimension
_array_structure_list.precedence
_array_structure_list.direction
_array_structure_list.axis_set_id
 ARRAY . 1 6 1 increasing .
 ARRAY . 2 4 2 increasing .
 ARRAY . 3 2 3 increasing .
 ARRAY PANEL_A 1 3 1 increasing A_F
 ARRAY PANEL_A 2 4 2 increasing A_S
 ARRAY PANEL_B 1 3 1 increasing B_F
 ARRAY PANEL_B 2 4 2 increasing B_S

loop_
_array_structure_list_section.array_id
_array_structure_list_section.id
_array_structure_list_section.index
_array_structure_list_section.start
_array_structure_list_section.end
 ARRAY PANEL_A 1 1 3
 ARRAY PANEL_A 2 1 4
 ARRAY PANEL_A 3 1 1
 ARRAY PANEL_B 1 4 6
 ARRAY PANEL_B 2 1 4
 ARRAY PANEL_B 3 2 2
"""
"""Sections of one array of two planes: the left half of the first, the right half of the second."""

WAVELENGTH = """
_diffrn_radiation_wavelength.id WAVELENGTH1
_diffrn_radiation_wavelength.wavelength 1.25
_diffrn_radiation_wavelength.wt 1.0
"""

INTENSITIES = """
_array_intensities.array_id ARRAY
_array_intensities.binary_id 1
_array_intensities.linearity linear
_array_intensities.gain 9.0
_array_intensities.overload 1000
_array_intensities.undefined_value -400
"""

FULL = (
    "###CBF: VERSION 1.7.10\n\ndata_still\n"
    + LISTS
    + STEPS
    + CHAIN
    + SETTINGS
    + WAVELENGTH
    + INTENSITIES
)
"""The header of a full CBF of two panels of (4, 3) px."""

MINI = """###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors

data_image_00001

_array_data.header_convention "PILATUS_1.2"
_array_data.header_contents
;
# Detector: PILATUS 6M, S/N 60-0101
# 2012-06-22T18:11:06.129
# Pixel_size 172e-6 m x 172e-6 m
# Silicon sensor, thickness 0.000320 m
# Exposure_time 0.2 s
# Count_cutoff 1048574 counts
# N_excluded_pixels = 321
# Wavelength 0.9793 A
# Detector_distance 0.25 m
# Beam_xy (3.5, 1.25) pixels
# Detector_2theta 0.0 deg.
;
"""
"""The header of a mini CBF."""

SMV = {
    "DIM": "2",
    "BYTE_ORDER": "little_endian",
    "TYPE": "unsigned_short",
    "SIZE1": "6",
    "SIZE2": "4",
    "PIXEL_SIZE": "0.1024",
    "DISTANCE": "150.0",
    "WAVELENGTH": "1.116",
    "BEAM_CENTER_X": "0.2",
    "BEAM_CENTER_Y": "0.5",
}
"""The header of an SMV file of (4, 6) px, as ADSC writes it."""


def image(*shape: int, dtype: str = "int32", seed: int = 0) -> np.ndarray:
    """Return counts of which neighbours may differ much."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3, shape) * np.where(rng.random(shape) < 0.2, 300, 1)
    return counts.astype(dtype)


def section(pixels: np.ndarray, number: int = 1) -> bytes:
    """Return pixels (slow, fast) or (plane, slow, fast) as a binary section, by byte offsets."""
    data = compByteOffset(pixels)
    planes, slow, fast = (1, *pixels.shape)[-3:]
    header = f"""
;
--CIF-BINARY-FORMAT-SECTION--
Content-Type: application/octet-stream;
     conversions="x-CBF_BYTE_OFFSET"
Content-Transfer-Encoding: BINARY
X-Binary-Size: {len(data)}
X-Binary-ID: {number}
X-Binary-Element-Type: "{ELEMENT_TYPES[str(pixels.dtype)]}"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
Content-MD5: {base64.b64encode(hashlib.md5(data).digest()).decode()}
X-Binary-Number-of-Elements: {pixels.size}
X-Binary-Size-Fastest-Dimension: {fast}
X-Binary-Size-Second-Dimension: {slow}
X-Binary-Size-Third-Dimension: {planes}
X-Binary-Size-Padding: 64

"""
    closing = bytes(64) + b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n"
    return header.replace("\n", "\r\n").encode() + b"\x0c\x1a\x04\xd5" + data + closing


def full_cbf(path: Path, arrays: Mapping[str, np.ndarray], header: str = FULL) -> Path:
    """Write a full CBF: array_id → pixels."""
    parts = [header.replace("\n", "\r\n").encode("latin1")]
    parts.append(b"\r\nloop_\r\n_array_data.array_id\r\n_array_data.binary_id\r\n")
    parts.append(b"_array_data.data\r\n")
    for number, (name, pixels) in enumerate(arrays.items(), start=1):
        parts.append(f" {name} {number}".encode())
        parts.append(section(pixels, number))
    path.write_bytes(b"".join(parts))
    return path


def mini_cbf(path: Path, pixels: np.ndarray, header: str = MINI) -> Path:
    """Write a mini CBF."""
    content = header.replace("\n", "\r\n").encode() + b"\r\n_array_data.data" + section(pixels)
    path.write_bytes(content)
    return path


def smv(path: Path, pixels: np.ndarray, settings: Mapping[str, str] = SMV) -> Path:
    """Write an SMV file of 16-bit pixels, in the byte order that its header states."""
    order = ">" if settings.get("BYTE_ORDER") == "big_endian" else "<"
    lines = ["{", "HEADER_BYTES=  512;"]
    lines += [f"{key}={value};" for key, value in settings.items()]
    lines += ["}", "\f"]
    header = "\n".join(lines).encode().ljust(512)
    path.write_bytes(header + pixels.astype(f"{order}u2").tobytes())
    return path
