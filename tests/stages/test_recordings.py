"""Runs that were recorded without and with a point spread, refined together to curves."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import convolve

from spreadflow.config import for_stage, parse, section
from spreadflow.errors import ConfigError, RefinedOutcome
from spreadflow.io import shoebox_blocks, store
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.physics import noise
from spreadflow.products import Spread, Stage1, Wide
from spreadflow.stages import spread, stage1

pytestmark = pytest.mark.stage

PSF = {"psf": "gauss", "psf_fwhm_mm": 0.4}
"""point spread of the second run"""


def spread_out(part: Wide, pixel_mm: float) -> np.ndarray:
    """Return the photons of a part after the point spread."""
    kernel = noise.gauss_kernel(PSF["psf_fwhm_mm"], pixel_mm, 10)
    photons = part.pixels.photons.copy()
    for first, bbox in zip(part.reflections.first_pixel, part.reflections.bbox, strict=True):
        fast0, fast1, slow0, slow1 = bbox.astype(int)
        shape = (slow1 - slow0, fast1 - fast0)
        pixels = slice(int(first), int(first) + shape[0] * shape[1])
        image = photons[pixels].reshape(shape).astype(float)
        photons[pixels] = convolve(image, kernel, mode="reflect").ravel()
    return photons


@pytest.fixture(scope="module")
def two_runs(wide_run, tmp_path_factory) -> SimpleNamespace:
    """The wide run as two: the second half of its lattices was recorded with a point spread."""
    path = tmp_path_factory.mktemp("recordings") / "wide.h5"
    attributes = store.attributes(wide_run.wide, Wide)
    pixel_mm = float(Detector.from_json(attributes["detectors"][0]).pixel_mm)
    parts = store.Parts(path, Wide, "two", [[1, 2], [3, 4]])
    for number, part in enumerate(store.parts_of(wide_run.wide, Wide)):
        wide = part.read()
        if number == 1:
            wide.lattices.run = np.ones_like(wide.lattices.run)
            wide.pixels.photons = spread_out(wide, pixel_mm)
        parts.write(number, wide)
    of_runs = {"runs": ["psff", "psft"]}
    of_runs |= {name: attributes[name] * 2 for name in ("detectors", "polarizations")}
    alike = {name: attributes[name] for name in ("space_group", "config")}
    parts.finish(World(), **shoebox_blocks.recorded(parts, World()), **of_runs, **alike)
    return SimpleNamespace(wide=path, tree=wide_run.tree)


def configured(tree: dict, word: str, runs: dict[str, dict]):
    """Return the configuration of a stage. runs: name → keys of its recording."""
    keys = {run: {"simulate": {}, "recording": recording} for run, recording in runs.items()}
    ranged = tree["stage1"] | {"range": "wide"}
    return for_stage(section(parse(tree | {"runs": keys, "stage1": ranged}), word), word)


def refined(inputs: SimpleNamespace, out, runs: dict[str, dict]) -> Stage1:
    """Return the product of stage 1."""
    config = configured(inputs.tree, "stage1", runs)
    stage1.run(config, shoeboxes=inputs.wide, out=out, world=World())
    return store.read(out, Stage1)


def test_runs_of_different_point_spreads_are_refined_together(wide_run, two_runs, tmp_path):
    """Their lattices are those of stills without a point spread, and so are the curves."""
    alone = {"r": {}}
    together = {"psff": {}, "psft": PSF}
    before = refined(wide_run, tmp_path / "before.h5", alone)
    after = refined(two_runs, tmp_path / "after.h5", together)
    assert (after.lattices.outcome == RefinedOutcome.REFINED).all()
    assert after.lattices.run.tolist() == [0, 0, 1, 1]
    sigma = before.lattices.sigma_sandwich
    change = np.abs(after.lattices.values - before.lattices.values) / sigma
    assert np.nanmax(change[:2]) == 0.0
    print("change of the lattices behind the point spread, σ:", np.nanmax(change[2:]))
    assert np.nanmax(change[2:]) < 0.5

    curves = {}
    for name, inputs, runs in (("before", wide_run, alone), ("after", two_runs, together)):
        out = tmp_path / f"{name}-spread.h5"
        stage1_product = tmp_path / f"{name}.h5"
        config = configured(inputs.tree, "spread", runs)
        spread.run(config, shoeboxes=inputs.wide, stage1=stage1_product, out=out, world=World())
        curves[name] = store.read(out, Spread)
    sigma = curves["before"].curves.fp_sigma
    change = np.abs(curves["after"].curves.fp - curves["before"].curves.fp) / sigma
    print("change of f′, σ:", np.nanmax(change))
    assert np.nanmax(change) < 1.0


def test_a_point_spread_that_is_not_stated_makes_the_model_wrong(two_runs, tmp_path):
    stated, ignored = (
        refined(two_runs, tmp_path / f"{n}.h5", {"psff": {}, "psft": keys}).lattices.sigma_z
        for n, keys in enumerate((PSF, {}))
    )
    np.testing.assert_array_equal(stated[:2], ignored[:2])
    print("σ_Z with and without:", stated[2:], ignored[2:])
    assert (ignored[2:] > 1.5 * stated[2:]).all()


def test_other_runs_than_those_of_the_data_are_refused(two_runs, tmp_path):
    with pytest.raises(ConfigError, match="the 2 runs of the trial"):
        refined(two_runs, tmp_path / "out.h5", {"psff": {}})
