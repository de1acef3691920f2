"""Fixtures for all tests."""

from pathlib import Path

import numpy as np
import pytest

from spreadflow.analysis.prediction import predict
from spreadflow.io import schema
from spreadflow.models import Detector, Spectrum
from spreadflow.physics import lattice, rotation
from spreadflow.physics.geometry import radial_axes

REPOSITORY = Path(__file__).parent.parent


def pytest_addoption(parser) -> None:
    default = REPOSITORY.parent / "shared" / "data"
    parser.addoption("--data-dir", type=Path, default=default, help=f"folder of reference data (default {default})")


@pytest.fixture(scope="session")
def shared_data(pytestconfig) -> Path:
    """The folder of reference data; the test is skipped where it is absent."""
    path = pytestconfig.getoption("--data-dir")
    if not path.is_dir():
        pytest.skip(f"no reference data at {path}: pytest --data-dir FOLDER")
    return path


@pytest.fixture(scope="session")
def filled():
    """A function that gives all columns of a schema kind: those given, zeros elsewhere; tables without size empty."""

    def columns(kind: str, sizes: dict[str, int], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = {}
        for name, dataset in schema.FILES[kind].items():
            shape = [sizes.get(d, 0) if isinstance(d, str) else d for d in dataset.dims]
            out[name] = np.asarray(given.get(name, np.zeros(shape)), dtype=dataset.dtype)
        return out

    return columns


TINY = {"cell": [78.0, 78.0, 38.0, 90.0, 90.0, 90.0], "space_group": "P 43 21 2"}
"""a crystal that is not the demo's"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> dict:
    """A run of eight small stills with Gaussian spots where a lattice puts them; made without the simulate stage.

    Shots: lattice, blank, saturated, all zero, unreadable, without spectrum, two lattices, lattice.
    Returns manifest, cell, space_group, and per shot `A` (list of true matrices) and `photons` (expected, by hkl).
    """
    from spreadflow.io import images, nexus

    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(3)
    n_lattices, frames, matrices, photons = (1, 0, 1, 0, 1, 1, 2, 1), [], [], []
    for n in n_lattices:
        image, lattices = _still(rng, n)
        frames.append(image)
        matrices.append([A for A, _ in lattices])
        photons.append([expected for _, expected in lattices])
    frames[2][0, 100:140, 100:160] = 70_000
    frames[3][:] = 0
    energies, pulse = 7100.0 + 2.0 * np.arange(15), np.tile(_PULSE, (len(n_lattices), 1))
    pulse[5] = np.nan
    nexus.write(
        folder / "tiny.h5",
        frames,
        shot_ids=np.arange(len(frames), dtype=np.uint64),
        detector=_DETECTOR,
        energies_ev=energies,
        photons=pulse,
        saturation_adu=60_000,
        offset_adu=10,
        corrupt=[4],
    )
    images.write_manifest(folder / "manifest.json", "tiny", [folder / "tiny.h5"])
    return {"manifest": folder / "manifest.json", "A": matrices, "photons": photons, **TINY}


_DETECTOR = Detector(
    origin_mm=np.array([[-76.8, 76.8, -90.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.3),
    shape=(512, 512),
)
_PULSE = 1e10 * np.exp(-0.5 * ((np.arange(15) - 7) / 3.0) ** 2)


def _still(rng: np.random.Generator, n_lattices: int) -> tuple[np.ndarray, list]:
    """An image (panel, slow, fast) int32 with a pedestal of 10, and per lattice A and {hkl: expected photons}."""
    expected, lattices = np.full(_DETECTOR.shape, 4.0), []
    spectrum = Spectrum(7100.0 + 2.0 * np.arange(15), _PULSE)
    for _ in range(n_lattices):
        A = rotation.random(rng) @ lattice.reciprocal(lattice.radians(TINY["cell"]))
        p = predict(A, 1e-3, 1500.0, spectrum=spectrum, detector=_DETECTOR, space_group=TINY["space_group"], d_min=2.4)
        photons = 2e4 * p.partiality * rng.exponential(size=len(p.d)) * np.exp(-10.0 / p.d**2)
        axes = radial_axes(_DETECTOR, p.panel, p.fast, p.slow)
        for k in range(len(p.d)):
            at = rng.normal(size=(2000, 2)) * (p.radial_px[k] / 2.33, p.transverse_px[k] / 2.33) @ axes[k]
            fast, slow = np.floor(at.T + np.array([[p.fast[k]], [p.slow[k]]])).astype(int)
            on = (fast >= 0) & (fast < 512) & (slow >= 0) & (slow < 512)
            np.add.at(expected, (slow[on], fast[on]), photons[k] / 2000)
        lattices.append((A, {tuple(map(int, h)): float(x) for h, x in zip(p.hkl, photons, strict=True)}))
    return (rng.poisson(expected) + 10 + np.round(rng.normal(size=expected.shape))).astype(np.int32)[None], lattices
