"""Shoeboxes made without images hold what images hold."""

import numpy as np
import pytest

from lab import TRICLINIC, simulation_of
from spreadflow.analysis.pixels import shoeboxes
from spreadflow.config import SimulateConfig
from spreadflow.physics import mosaic, noise, rotation
from spreadflow.recipes import patch as patches
from spreadflow.recipes import still

TREE = TRICLINIC | {
    "seed": 5,
    "runs": {"r": {"simulate": {"n_single": 1}}},
    "beam": {"n_channels": 20, "first_channel_ev": 7100.5, "channel_ev": 2.0, "envelope_ev": 6.0},
    "simulate": {"precision": "float64"},
}
RANGE = {"d_min": 2.3, "d_max": 4.0}


def staged(**changes) -> SimulateConfig:
    return simulation_of(TREE, changes)


@pytest.mark.stage
@pytest.mark.parametrize(
    ("mosaicity", "oversample"), [("continuous", 1), ("domains", 3), ("per_shot", 1)]
)
def test_the_pixels_of_the_whole_image(mosaicity, oversample):
    """Without noise the pixels are those of the images that `Simulator.exposure` computes."""
    crystal = {"mosaicity": mosaicity, "n_domains": 7}
    how = TREE["simulate"] | {"oversample": oversample}
    simulator = still.Simulator(staged(crystal=TREE["crystal"] | crystal, simulate=how))
    patch = patches.patch(simulator, 3, **RANGE)
    boxes = patch.shoeboxes
    image, (truth,) = simulator.exposure(3, "single", simulator.pulse(3, 3))
    where = shoeboxes.addresses(boxes.panel, boxes.bbox)[1]

    assert len(boxes.panel) > 20
    assert set(boxes.panel) == {0, 1}
    assert patch.bragg.max() > 50
    np.testing.assert_allclose(patch.bragg + patch.background, image[where], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(patch.parameters.crystal.A, truth.crystal.A, rtol=1e-12)

    turns = patch.parameters.mosaic.rotations
    assert rotation.angle(rotation.mean(turns)) < 1e-12
    assert len(turns) == (len(mosaic.continuous().share) if mosaicity == "continuous" else 7)


@pytest.mark.stage
def test_the_noise_of_a_frame():
    """Deviations from what is expected have the variance of counting, readout and gains; bad pixels
    are invalid.
    """
    quiet = {"calibration_error": 0.05, "readout_photons": 3.0}
    simulator = still.Simulator(staged(recording=quiet, detector={"quantum_gain": 2.0}))
    patch = patches.patch(simulator, 1, **RANGE)
    model = patch.bragg + patch.background
    boxes = patch.shoeboxes
    variance = model + 3.0**2 + (0.05 * model) ** 2
    z = (boxes.photons - model) / np.sqrt(variance)

    assert len(z) > 5000
    assert np.std(z) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(z)) + 0.01)
    assert abs(z.mean()) < 5 / np.sqrt(len(z))

    panel, slow, _ = shoeboxes.addresses(boxes.panel, boxes.bbox)[1]
    is_bad = (panel == 1) & (slow >= 60) & (slow < 80)
    np.testing.assert_array_equal(boxes.valid, ~is_bad)

    again, other = (patches.patch(simulator, n, **RANGE) for n in (1, 2))
    np.testing.assert_array_equal(again.shoeboxes.photons, boxes.photons)
    assert len(other.shoeboxes.photons) != len(boxes.photons)


@pytest.mark.stage
@pytest.mark.parametrize("psf", ["fiber", "gauss"])
def test_light_that_spreads_between_pixels(psf):
    """A patch has the expectation of frames of the same shot pixel by pixel, and the variance and
    the correlation of their noise.
    """
    recording = {
        "psf": psf,
        "psf_fwhm_mm": 0.25,
        "readout_photons": 2.0,
        "calibration_error": 0.02,
    }
    simulator = still.Simulator(staged(recording=recording, detector={"psf_radius_px": 6}))
    image, _ = simulator.exposure(3, "single", simulator.pulse(3, 3))
    patch = patches.patch(simulator, 3, **RANGE)
    boxes = patch.shoeboxes
    model = patch.bragg + patch.background
    box, where = shoeboxes.addresses(boxes.panel, boxes.bbox)
    expected = noise.spread_out(image, simulator.kernel)[where]

    np.testing.assert_allclose(model, expected, rtol=2e-5, atol=2e-5 * expected.max())

    alone = patches.patch(still.Simulator(staged()), 3, **RANGE)
    assert alone.bragg.max() > 1.3 * patch.bragg.max() > 30

    frames = [simulator.frame(seed, image)[where] - 10.0 - expected for seed in range(100, 116)]
    # one draw of each shoebox beside many frames: readout and counts of one, the same gains in all
    frame_noise = np.array(frames)
    patch_noise = boxes.photons - model
    bright = expected > np.quantile(expected, 0.95)
    for pixels in (bright, ~bright):
        valid = pixels & boxes.valid
        patch_variance = (patch_noise[valid] ** 2).mean()
        frame_variance = (frame_noise[:, valid] ** 2).mean()
        ratio = patch_variance / frame_variance
        assert ratio == pytest.approx(1.0, abs=6 * np.sqrt(2 / pixels.sum()))
    beside = boxes.valid[1:] & boxes.valid[:-1] & (box[1:] == box[:-1])
    shared = [
        (d[..., 1:] * d[..., :-1])[..., beside].mean() / (d[..., boxes.valid] ** 2).mean()
        for d in (patch_noise, frame_noise)
    ]

    assert shared[0] == pytest.approx(shared[1], abs=0.03)
    assert shared[1] > 0.1
