"""A small CXI file and the CrystFEL geometry file that describes it, written without the reader."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

N_FRAMES = 3
SHAPE = (4, 6)
"""(slow, fast) of a panel"""
DATA = "/entry_1/data_1/data"
MASK = "/entry_1/data_1/mask"
ENERGY = "/LCLS/photon_energy_eV"
ENCODER = "/LCLS/detector_1/EncoderValue"
ENERGIES_EV = np.array([7100.0, 7110.0, 7125.0])
ENCODER_MM = -450.0

HEAD = f"""; a detector of two panels, one above the other in the data
photon_energy = {ENERGY} eV
adu_per_photon = 4
max_adu = 1000        ; saturated above
clen = {ENCODER}
coffset = 0.550
res = 10000
data = {DATA}
dim0 = %
dim1 = ss
dim2 = fs
rigid_group_q0 = a,b
rigid_group_collection_all = q0
"""

PANELS = """
a/min_fs = 0
a/max_fs = 5
a/min_ss = 0
a/max_ss = 3
a/corner_x = -10.0
a/corner_y = 5.0
a/fs = 0.6x +0.8y
a/ss = -0.8x +0.6y

b/min_fs = 0
b/max_fs = 5
b/min_ss = 4
b/max_ss = 7
b/corner_x = 3
b/corner_y = -2.5
b/fs = -x
b/ss = +0.96y - 2.8e-1z
"""

GEOM = HEAD + PANELS


class CxiFile(NamedTuple):
    """Files that belong together."""

    images: Path
    geom: Path


def frames(dtype: str = "int16", seed: int = 3) -> np.ndarray:
    """The frames (frame, slow, fast) as they are stored, two panels one above the other."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 900, (N_FRAMES, 2 * SHAPE[0], SHAPE[1])).astype(dtype)


def panels(stored: np.ndarray) -> np.ndarray:
    """The panels (panel, slow, fast) of a frame."""
    return stored.reshape(2, *SHAPE)


def write(
    folder: Path, geom: str = GEOM, edit: Callable[[h5py.File], None] | None = None
) -> CxiFile:
    """Write a CXI file, changed by an edit, and the text of a geometry file."""
    files = CxiFile(folder / "a.cxi", folder / "a.geom")
    files.geom.write_text(geom)
    with h5py.File(files.images, "w") as f:
        f["cxi_version"] = 140
        f.create_dataset(DATA, data=frames(), chunks=(1, 2 * SHAPE[0], SHAPE[1]))
        f[ENERGY] = ENERGIES_EV
        f[ENCODER] = np.full(N_FRAMES, ENCODER_MM)
        if edit is not None:
            edit(f)
    return files


def put(f: h5py.File, name: str, value: object) -> None:
    """Put a dataset in the place of another."""
    if name in f:
        del f[name]
    f[name] = value
