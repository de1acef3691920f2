"""Fixtures for all tests."""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from spreadflow.trial.threads import THREAD_CAPS  # imports neither NumPy nor JAX

# These hold from the import of NumPy and JAX on, and for all processes that tests start. Two
# workers on two cores have a thread each: with two each they would wait for one another.
for _cap in THREAD_CAPS:
    os.environ.setdefault(_cap, "1")

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 2)  # one of them stands in for a GPU (test_gpu.py)

from lab import TRICLINIC, cached_folder
from spreadflow import products
from spreadflow.analysis.still.prediction import MosaicLattice, predict
from spreadflow.models import Detector, Spectrum
from spreadflow.physics import rotation, unit_cell
from spreadflow.physics.geometry import radial_axes
from spreadflow.products import Annulus, Merge, Pack, Reindex, Stage1, Wide

pytest_plugins = ("tiers",)

REPOSITORY = Path(__file__).parent.parent


def pytest_addoption(parser) -> None:
    default = REPOSITORY.parent / "shared" / "data"
    parser.addoption(
        "--data-dir",
        type=Path,
        default=default,
        help=f"folder of reference data (default {default})",
    )


@pytest.fixture(scope="session")
def shared_data(pytestconfig) -> Path:
    """The folder of reference data; the test is skipped where it is absent."""
    path = pytestconfig.getoption("--data-dir")
    if not path.is_dir():
        pytest.skip(f"no reference data at {path}: pytest --data-dir FOLDER")
    return path


@pytest.fixture(scope="session")
def real_stills(pytestconfig) -> Path:
    """The folder of real stills, beside that of reference data; the test is skipped where it is
    absent.
    """
    path = pytestconfig.getoption("--data-dir").parent / "real"
    if not path.is_dir():
        pytest.skip(f"no real stills at {path}: pytest --data-dir FOLDER")
    return path


@pytest.fixture(scope="session")
def filled():
    """A function that gives a product of a kind: the datasets supplied by name, zeros elsewhere;
    tables without a size are empty.
    """

    def product(
        kind: str, sizes: dict[str, int], supplied: dict[str, np.ndarray]
    ) -> products.Product:
        described = products.BY_KIND[kind].described()
        assert supplied.keys() <= described.keys()
        columns = {}
        for path, column in described.items():
            shape = [sizes.get(d, 0) if isinstance(d, str) else d for d in column.dims]
            columns[path] = np.asarray(supplied.get(path, np.zeros(shape)), dtype=column.dtype)
        return products.BY_KIND[kind].from_columns(columns)

    return product


TINY = {"cell": [78.0, 78.0, 38.0, 90.0, 90.0, 90.0], "space_group": "P 43 21 2"}
"""a crystal that is not the demo's"""


@pytest.fixture(scope="session")
def tiny_run() -> dict:
    """A run of eight small stills with Gaussian spots where a lattice puts them; made without the
    simulate stage.

    Shots: lattice, blank, saturated, all zero, unreadable, without spectrum, two lattices, lattice.
    Returns manifest, cell, space_group, and per shot `A` (list of true matrices) and `photons`
    (expected, by hkl).
    """
    folder = cached_folder(
        "tiny_run",
        _make_tiny_run,
        "spreadflow.analysis.still.prediction",
        "spreadflow.io.images",
        "spreadflow.io.nexus_writer",
        also=Path(__file__).read_text(),
    )
    truth = pickle.loads((folder / "truth.pickle").read_bytes())
    return {"manifest": folder / "manifest.json", **truth, **TINY}


def _make_tiny_run(folder: Path) -> None:
    from spreadflow.io import images, nexus_writer

    rng = np.random.default_rng(3)
    n_lattices = (1, 0, 1, 0, 1, 1, 2, 1)
    frames = []
    matrices = []
    photons = []
    for n in n_lattices:
        image, lattices = _still(rng, n)
        frames.append(image)
        matrices.append([A for A, _ in lattices])
        photons.append([expected for _, expected in lattices])
    frames[2][0, 100:140, 100:160] = 70_000
    frames[3][:] = 0
    energies = 7100.0 + 2.0 * np.arange(15)
    pulse = np.tile(_PULSE, (len(n_lattices), 1))
    pulse[5] = np.nan
    stills = nexus_writer.Stills(
        images=frames,
        shot_ids=np.arange(len(frames), dtype=np.uint64),
        energies_ev=energies,
        photons=pulse,
        corrupt=[4],
    )
    instrument = nexus_writer.Instrument(_DETECTOR, saturation_adu=60_000, offset_adu=10)
    nexus_writer.write(folder / "tiny.h5", stills, instrument)
    images.write_manifest(folder / "manifest.json", "tiny", [folder / "tiny.h5"])
    (folder / "truth.pickle").write_bytes(pickle.dumps({"A": matrices, "photons": photons}))


_DETECTOR = Detector(
    origin_mm=np.array([[-76.8, 76.8, -90.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(0.3),
    shape=(512, 512),
)
_PULSE = 1e10 * np.exp(-0.5 * ((np.arange(15) - 7) / 3.0) ** 2)


def _still(rng: np.random.Generator, n_lattices: int) -> tuple[np.ndarray, list]:
    """Return an image (panel, slow, fast) int32 with a pedestal of 10, and for each lattice its A
    and {hkl: expected photons}.
    """
    expected = np.full(_DETECTOR.shape, 4.0)
    lattices = []
    spectrum = Spectrum(7100.0 + 2.0 * np.arange(15), _PULSE)
    for _ in range(n_lattices):
        A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(TINY["cell"]))
        p = predict(
            MosaicLattice(A, 1e-3, 1500.0),
            spectrum,
            _DETECTOR,
            space_group=TINY["space_group"],
            d_min=2.4,
        )
        photons = 2e4 * p.partiality * rng.exponential(size=len(p.d)) * np.exp(-10.0 / p.d**2)
        axes = radial_axes(_DETECTOR, p.panel, p.fast, p.slow)
        for k in range(len(p.d)):
            displacement = (
                rng.normal(size=(2000, 2))
                * (p.radial_px[k] / 2.33, p.transverse_px[k] / 2.33)
                @ axes[k]
            )
            fast, slow = np.floor(displacement.T + np.array([[p.fast[k]], [p.slow[k]]])).astype(int)
            on = (fast >= 0) & (fast < 512) & (slow >= 0) & (slow < 512)
            np.add.at(expected, (slow[on], fast[on]), photons[k] / 2000)
        lattices.append(
            (A, {tuple(map(int, h)): float(x) for h, x in zip(p.hkl, photons, strict=True)})
        )
    return (rng.poisson(expected) + 10 + np.round(rng.normal(size=expected.shape))).astype(
        np.int32
    )[None], lattices


PACKED = TRICLINIC | {
    "seed": 5,
    "runs": {"r": {"simulate": {"n_single": 1}}},
    "crystal": TRICLINIC["crystal"]
    | {
        "mosaicity": "domains",
        "n_domains": 9,
        "mosaic_spread_deg": 0.1,
        "domains_per_crystal": 5000.0,
    },
    "beam": {
        "n_channels": 20,
        "first_channel_ev": 7100.5,
        "channel_ev": 2.0,
        "envelope_ev": 6.0,
        "photons": 4e11,
    },
    "detector": TRICLINIC["detector"],
    "recording": {"calibration_error": 0.0},
    "simulate": {"precision": "float64", "oversample": 1},
}
"""a triclinic crystal on two panels"""


@pytest.fixture(scope="session")
def packed_run(filled) -> SimpleNamespace:
    """An annulus of four lattices in two parts, made without images: `annulus`, `cells`, `tree`
    (its configuration).
    """
    folder = cached_folder(
        "packed_run",
        lambda folder: _make_packed_run(folder, filled),
        "spreadflow.recipes.patch",
        "spreadflow.io.store",
        also=Path(__file__).read_text() + repr(PACKED),
    )
    return SimpleNamespace(annulus=folder / "annulus.h5", cells=folder / "cells.h5", tree=PACKED)


def _make_packed_run(folder: Path, filled) -> None:
    from spreadflow.config import for_stage, parse, section
    from spreadflow.io import shoebox_blocks, store
    from spreadflow.parallel import World
    from spreadflow.recipes.patch import patch
    from spreadflow.recipes.still import Simulator

    limits = {"d_min": 2.3, "d_max": 4.0}
    simulator = Simulator(for_stage(section(parse(PACKED), "simulate", "r"), "simulate"))
    blocks = ([1, 2], [3, 4])
    parts = store.Parts(folder / "annulus.h5", Annulus, "packed", blocks)
    for n, block in enumerate(blocks):
        pieces = [
            _packed(filled, simulator, number, patch(simulator, number, **limits))
            for number in block
        ]
        parts.write(n, Annulus.joined(pieces))
    detector = json.loads(json.dumps(simulator.detector._asdict(), default=np.ndarray.tolist))
    parts.finish(
        World(),
        **shoebox_blocks.recorded(parts, World()),
        config=limits,
        runs=["r"],
        space_group="P 1",
        detectors=[detector],
        polarizations=[simulator.beam.polarization],
    )
    lattices = {"lattices/shot_id": [1, 2, 3, 4], "lattices/outcome": [0] * 4}
    cells = filled("cells", {"lattices": 4, "clusters": 1, "features": 1}, lattices)
    store.write(folder / "cells.h5", cells, key="cells", runs=["r"])


def _packed(filled, simulator, number: int, patch) -> Annulus:
    """Return an annulus of one lattice, with true strengths and their counting errors."""
    boxes = patch.shoeboxes
    true = patch.parameters
    predicted = patch.predicted
    n = len(boxes.hkl)
    size = boxes.n_pixels
    first = np.cumsum(size) - size
    photons, level = (np.add.reduceat(values, first) for values in (patch.bragg, patch.background))
    fast, slow = (
        np.add.reduceat(patch.bragg * coordinate, first) / photons
        for coordinate in _coordinates(boxes)
    )
    strong = photons > 5 * np.sqrt(photons + level)
    planted = {
        "lattices/shot_id": [number],
        "lattices/A": true.crystal.A[None],
        "lattices/eta_rad": true.crystal.eta_rad[None],
        "lattices/domain_ang": [
            true.crystal.n_cells[0] * np.linalg.det(true.crystal.A) ** (-1 / 3)
        ],
        "spectra/shot_id": [number],
        **{f"spectra/{name}": column[None] for name, column in true.spectrum._asdict().items()},
        **{f"reflections/{name}": getattr(boxes, name) for name in ("hkl", "panel", "bbox")},
        **{f"reflections/{name}": getattr(predicted, name) for name in ("d", "fast", "slow")},
        "reflections/fast_obs": np.where(strong, fast, np.nan),
        "reflections/slow_obs": np.where(strong, slow, np.nan),
        "reflections/intensity": photons,
        "reflections/sigma": np.sqrt(photons + level),
        "reflections/first_pixel": first,
        "pixels/photons": boxes.photons,
        "pixels/valid": boxes.valid,
    }
    sizes = {
        "lattices": 1,
        "spectra": 1,
        "channels": len(true.spectrum.photons),
        "reflections": n,
        "pixels": size.sum(),
    }
    return filled("annulus", sizes, planted)


def _coordinates(boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return fast and slow of the middle of each pixel of shoeboxes, px."""
    from spreadflow.analysis.pixels.shoeboxes import addresses

    _, slow, fast = addresses(boxes.panel, boxes.bbox)[1]
    return fast + 0.5, slow + 0.5


METAL = [{"atom": "FE1", "curve": "metallic"}, {"atom": "FE2", "curve": "metallic"}]
"""Sites with curves that are not the true ones."""

WIDE = PACKED | {
    "stage1": {
        "oversample": 1,
        "structure_factors": {"sites": METAL},
        "refine": ["scale", "rotation", "eta"],
    },
    "spread": {
        "step_ev": 6.0,
        "max_cycles": 2,
        "converged": 1e-9,
        "block_lattices": 1,
        "unknown_f": "none",
    },
}
"""The packed run's configuration with few nodes and two cycles; its model is right but for the
curves.
"""


@pytest.fixture(scope="session")
def wide_run(packed_run) -> SimpleNamespace:
    """The packed run refined by stage 1 with the metal's curves; its last lattice did not converge.

    Returns `wide`, `stage1` and `tree`, its configuration.
    """
    folder = cached_folder(
        "wide_run",
        lambda folder: _make_wide_run(folder, packed_run),
        "spreadflow.recipes.patch",
        "spreadflow.stages.stage1",
        also=Path(__file__).read_text() + repr(PACKED),
    )
    return SimpleNamespace(wide=folder / "wide.h5", stage1=folder / "stage1.h5", tree=WIDE)


def _make_wide_run(folder: Path, packed_run: SimpleNamespace) -> None:
    from spreadflow.config import for_stage, parse, section
    from spreadflow.errors import RefinedOutcome
    from spreadflow.io import shoebox_blocks, store
    from spreadflow.parallel import World
    from spreadflow.stages import stage1

    config = for_stage(section(parse(WIDE), "stage1"), "stage1")
    refined = folder / "all.h5"
    stage1.run(config, shoeboxes=packed_run.annulus, out=refined, world=World())
    product = store.read(refined, Stage1)
    attributes = store.attributes(refined, Stage1)
    product.lattices.outcome[3] = RefinedOutcome.NOT_CONVERGED
    parts = store.Parts(folder / "stage1.h5", Stage1, "wide", [[1]])
    parts.write(0, product)
    parts.finish(World(), config=attributes["config"], unknowns=attributes["unknowns"])
    attributes = store.attributes(packed_run.annulus, Annulus)
    parts = store.Parts(folder / "wide.h5", Wide, "wide", [[1, 2], [3, 4]])
    for n, part in enumerate(store.parts_of(packed_run.annulus, Annulus)):
        parts.write(n, Wide(**part.read().tables))
    names = ("runs", "space_group", "detectors", "polarizations", "config")
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in names})


STAGE2 = WIDE | {"stage2": {"block_lattices": 1, "max_cycles": 2, "n_bins": 3}}
"""The same with two cycles of intensities."""


@pytest.fixture(scope="session")
def stage2_run(wide_run, filled, tmp_path_factory) -> SimpleNamespace:
    """The wide run as `pack` stores it, with merged intensities that are the model's, 5 % off.

    Returns `pack`, `stage1`, `merge` and `tree`, its configuration, and `model`: the model's
    reflections, on a third of the scale of the merge.
    """
    from spreadflow.config import for_stage, parse, section
    from spreadflow.io import shoebox_blocks, store
    from spreadflow.io.shoebox_blocks import read_recording
    from spreadflow.parallel import World
    from spreadflow.recipes import intensities
    from spreadflow.recipes.run_model import run_models

    folder = tmp_path_factory.mktemp("stage2")
    attributes = store.attributes(wide_run.wide, Wide)
    parts = store.Parts(folder / "pack.h5", Pack, "packed", [[1, 2], [3, 4]])
    for n, part in enumerate(store.parts_of(wide_run.wide, Wide)):
        parts.write(n, Pack(**part.read().tables))
    names = ("runs", "space_group", "detectors", "polarizations", "config")
    recorded = shoebox_blocks.recorded(parts, World())
    parts.finish(World(), **recorded, **{name: attributes[name] for name in names})

    config = for_stage(section(parse(STAGE2), "stage2"), "stage2")
    recording = read_recording(folder / "pack.h5", "pack")
    factors = run_models(config, recording, "stage2")[0].factors
    cell = np.array(config.structure_factors.cell)
    model = intensities.from_model(factors, cell, "P 1", recording.photons)
    merge = _planted_merge(model, filled)
    crystal = {"cell": cell, "space_group": "P 1", "wavelength_ang": 1.7}
    store.write(folder / "merge.h5", merge, key="merge", **crystal)
    return SimpleNamespace(
        pack=folder / "pack.h5",
        stage1=wide_run.stage1,
        merge=folder / "merge.h5",
        tree=STAGE2,
        model=model,
    )


def _planted_merge(model, filled) -> Merge:
    """Return a merge of a model's intensities, 5 % off and three times as large."""
    n = len(model.intensity)
    noise = 1.0 + 0.05 * np.random.default_rng(4).standard_normal(n)
    noisy = 3.0 * model.intensity * noise
    planted = {
        "merged/hkl": model.unique.hkl,
        "merged/friedel": model.unique.friedel,
        "merged/intensity": noisy,
        "merged/sigma": 0.15 * model.intensity,
        "merged/half": np.repeat(noisy[:, None], 2, axis=1),
        "merged/n": np.full(n, 2),
    }
    return filled("merge", {"merged": n, "lattices": 4, "bins": 1}, planted)


SMALL_STILLS = {
    "seed": 3,
    "runs": {"tiny": {"images": "manifest.json"}},
    "index": TINY,
    "structure_factors": {"d_min": 2.3},
    "predict": {"d_min": 2.5},
}
"""The tiny run's configuration from stage 1 on."""

LOST = {0: "TOO_FEW", 2: "NOT_CONVERGED"}
"""Rows of the tiny run's four lattices that stage 1 did not refine to the end: one alone in its
shot, one beside another.
"""


@pytest.fixture(scope="session")
def refined_run(tiny_run, filled) -> SimpleNamespace:
    """The tiny run indexed, and a product of stage 1 that has its lattices as they are, all refined
    but two (`LOST`), with domains a tenth larger.

    Returns `manifest`, `reindex`, `stage1` and `tree`, its configuration.
    """
    folder = cached_folder(
        "refined_run",
        lambda folder: _make_refined_run(folder, tiny_run, filled),
        "spreadflow.stages.index",
        also=Path(__file__).read_text(),
    )
    return SimpleNamespace(
        manifest=tiny_run["manifest"],
        reindex=folder / "reindex.h5",
        stage1=folder / "stage1.h5",
        tree=SMALL_STILLS,
    )


def _make_refined_run(folder: Path, tiny_run: dict, filled) -> None:
    from spreadflow.config import IndexSection, NoiseSection, ReindexConfig
    from spreadflow.errors import RefinedOutcome
    from spreadflow.io import images, store
    from spreadflow.io.lattices import dials_writer
    from spreadflow.parallel import World
    from spreadflow.stages import index

    geometry = folder / "level0.expt"
    dials_writer.write_expt(
        geometry, images.Source(tiny_run["manifest"]).detector, wavelength=1.743
    )
    how = {"d_min": 2.4, "domain_ang": 1500.0, "block_shots": 1, "n_directions": 4096}
    section = IndexSection(**TINY, **how)
    index.run(
        ReindexConfig(reindex=section, recording=NoiseSection()),
        images=tiny_run["manifest"],
        geometry=geometry,
        out=folder / "reindex.h5",
        world=World(),
        word="reindex",
    )
    lattices = store.read(folder / "reindex.h5", Reindex, [Reindex.lattices]).lattices
    n = len(lattices)
    outcomes = np.full(n, RefinedOutcome.REFINED)
    for row, end in LOST.items():
        outcomes[row] = RefinedOutcome[end]
    volumes = [unit_cell.volume(cell) for cell in lattices.cell]
    n_cells = 1.1 * lattices.domain_ang / np.array(volumes) ** (1 / 3)
    planted = {
        "lattices/outcome": outcomes,
        "lattices/n_cells": np.repeat(n_cells[:, None], 3, axis=1),
        **{f"lattices/{name}": lattices.as_dict()[name] for name in COPIED},
    }
    parts = store.Parts(folder / "stage1.h5", Stage1, "refined", [[1]])
    parts.write(0, filled("stage1", {"lattices": n, "unknown": 1}, planted))
    parts.finish(World(), unknowns=["scale"], runs=["tiny"])


COPIED = ("shot_id", "k", "A", "eta_rad")
"""Columns of lattices that stage 1 has as reindex has them."""
