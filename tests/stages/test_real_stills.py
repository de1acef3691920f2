"""Real stills of LCLS, as they were written: both lattices of thermolysin that DIALS finds, with
its cell, and the one of the weak Rayonix still.
"""

import numpy as np
import pytest

from spreadflow.config import STAGE_CONFIGS, IndexSection, NoiseSection
from spreadflow.errors import Outcome
from spreadflow.io import images, store
from spreadflow.parallel import World
from spreadflow.products import Index
from spreadflow.stages import index

pytestmark = pytest.mark.stage


def indexed(
    folder, out, section: IndexSection, gain: float, **settings
) -> tuple[list[int], np.ndarray]:
    """Index the CBFs of a folder; return the outcomes of its shots and the lengths (lattice, 3) of
    the cells, Å. settings: of the manifest.
    """
    manifest = out / "manifest.json"
    images.write_manifest(manifest, "real", sorted(folder.glob("*.cbf")), **settings)
    config = STAGE_CONFIGS["index"](index=section, recording=NoiseSection(gain=gain))
    product = out / "index.h5"
    index.run(config, images=manifest, geometry=None, out=product, world=World(1), word="index")
    columns = store.read(product, Index, [Index.shots.outcome, Index.lattices.A])
    axes = np.linalg.inv(columns.lattices.A)
    return columns.shots.outcome.tolist(), np.linalg.norm(axes, axis=-1)


def test_both_stills_of_thermolysin_are_indexed(real_stills, tmp_path):
    """At the gain that the one-photon peak shows, about 9 ADU; charge is shared between pixels.
    DIALS: 93.446 131.28 and 93.435 131.08 Å.
    """
    section = IndexSection(space_group="P 61 2 2", cell=[92.9, 92.9, 130.3, 90, 90, 120])
    folder = real_stills / "thermolysin_cspad"
    outcomes, lengths = indexed(folder, tmp_path, section, gain=2.8, adu_per_photon=9.0)
    assert outcomes == [Outcome.INDEXED] * 2
    assert np.allclose(lengths, [93.44, 93.44, 131.2], rtol=0.003)


def test_the_weak_rayonix_still_is_indexed(real_stills, tmp_path):
    """DIALS: 42.06 76.12 102.39 Å, with 51 spots."""
    section = IndexSection(
        space_group="P 21 21 21",
        cell=[41.85, 76.04, 102.02, 90, 90, 90],
        min_fraction_indexed=0.05,
        spots={"kernel": [3, 3], "min_pixels": 3, "d_min": 2.0},
    )
    outcomes, lengths = indexed(real_stills / "rayonix340", tmp_path, section, gain=0.6)
    assert outcomes == [Outcome.INDEXED]
    assert np.allclose(lengths[0], [42.1, 76.1, 102.4], rtol=0.01)
