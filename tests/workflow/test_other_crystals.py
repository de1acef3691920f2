"""The real chain from simulate to reindex for another crystal and another detector.

The bars are those of the demo (docs/status.md), wider where a figure is over 96 lattices there and
over few here.
"""

import numpy as np
import pytest
import yaml

from spreadflow.io import images, store
from spreadflow.models import ReflectionFlag
from spreadflow.products import Reindex
from trials import check_header_error, summary_of

pytestmark = pytest.mark.chain


@pytest.fixture(
    scope="module", params=[pytest.param("tetragonal", marks=pytest.mark.long), "panels"]
)
def other(request, tmp_path_factory, chain):
    """Folder and name of a trial that has run from simulate to reindex."""
    folder = tmp_path_factory.mktemp(request.param)
    config = request.param
    chain(
        folder,
        config,
        *(f"results/{config}/{stage}.json" for stage in ("index", "level0", "reindex")),
    )
    return folder, config


def test_another_crystal_and_another_detector(other):
    folder, config = other
    level0 = summary_of(folder, config, "level0")
    check_header_error(level0, 0.003 * (96 / 6) ** 0.5, 0.1)
    assert np.linalg.norm(level0["true_shift_mm"]) > 0.05

    for stage in ("index", "reindex"):
        f = summary_of(folder, config, stage)
        assert (f["n_shots"], f["n_singles"], f["n_blanks"]) == (7, 6, 1)
        assert f["n_singles_indexed"] == f["n_indexed"] == f["n_hits"] == 6
        assert f["index_rate"] == 1.0
        assert f["n_lattices_wrong"] == 0
        assert f["n_blanks_with_lattice"] == 0
        assert f["miller_right"] >= 0.999
        assert f["n_spots_indexed"] > 200
    before = summary_of(folder, config, "index")["misorientation_deg_median"]

    assert before <= 0.03, "index finds how far the header is off, shot by shot"
    assert f["misorientation_deg_median"] <= 0.03
    assert abs(f["pull_mean"]) <= 0.15
    assert 0.85 <= f["pull_sd"] <= 1.15
    assert f["prediction_recall"] >= 0.98


def test_bad_pixels_are_on_no_spot_and_flag_their_reflections(other, pytestconfig):
    """All panels have spots; the masked column and patch are not used."""
    folder, config = other
    tree = yaml.safe_load((pytestconfig.rootpath / "config" / f"{config}.yaml").read_text())
    found = store.read(folder / "results" / config / config / "reindex.h5", Reindex)
    reflections = found.reflections
    source = images.Source(folder / "data" / config / "manifest.json")
    panels = source.detector.n_panels

    assert set(reflections.panel) == set(found.spots.panel) == set(range(panels))

    shot = source.read(0)
    for panel, slow0, slow1, fast0, fast1 in tree["detector"].get("bad_pixels", []):
        assert not shot.mask[panel, slow0:slow1, fast0:fast1].any()
        inside = reflections.panel == panel
        inside &= (reflections.fast > fast0) & (reflections.fast < fast1)
        inside &= (reflections.slow > slow0) & (reflections.slow < slow1)
        assert np.all(reflections.flags[inside] & ReflectionFlag.FAILED)
