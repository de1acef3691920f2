"""From the configuration's units to the models'."""

import numpy as np
import pytest

from spreadflow import build
from spreadflow.config import BeamSection, CrystalSection, DetectorSection, PanelSection, parse
from spreadflow.errors import ConfigError
from spreadflow.physics import geometry


def test_the_demo_crystal_and_beam_are_the_published_ones():
    crystal = CrystalSection()
    np.testing.assert_array_equal(build.n_cells(crystal), [57, 57, 57])
    assert build.eta_rad(crystal) == pytest.approx(8.7266e-4, rel=1e-4)
    np.testing.assert_allclose(build.cell(crystal)[3:], np.deg2rad([90, 110.3, 90]))
    energies = build.channels(BeamSection())
    assert len(energies) == 100 and energies[0] == 7070.5 and energies[-1] == 7169.5


def test_one_panel_normal_to_the_beam():
    detector = build.detector(DetectorSection())
    fast, slow = geometry.beam_center(detector)
    assert (fast[0], slow[0]) == pytest.approx((960.5, 960.5))
    assert geometry.distances_mm(detector)[0] == pytest.approx(141.7)
    elsewhere = build.detector(DetectorSection(beam_center_px=[100.25, 300.0]))
    assert [c[0] for c in geometry.beam_center(elsewhere)] == pytest.approx([100.25, 300.0])


def test_axes_of_panels_are_made_orthonormal():
    panel = PanelSection(origin_mm=[0, 0, -100], fast=[2.0, 0.02, 0.0], slow=[0.0, -1.0, 0.01])
    detector = build.detector(DetectorSection(panels=[panel, panel]))
    assert detector.n_panels == 2
    axes = np.array([detector.fast[0], detector.slow[0]])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    skewed = panel.model_dump() | {"slow": [1.0, 0.1, 0.0]}
    with pytest.raises(ConfigError, match=r"detector.panels.0: expected fast and slow axes"):
        parse({"detector": {"panels": [skewed]}})


def test_pulses_lie_within_their_channels():
    with pytest.raises(ConfigError, match=r"beam.energy_ev.*7070-7170 eV.*9000"):
        parse({"beam": {"energy_ev": 9000.0}})


def test_bad_pixels():
    section = DetectorSection(shape=[10, 20], bad_pixels=[[0, 2, 4, 5, 9]])
    good = build.good_pixels(section, 1)
    assert good.shape == (1, 10, 20) and (~good).sum() == 2 * 4 and not good[0, 2:4, 5:9].any()
    for wrong in ([1, 0, 1, 0, 1], [0, 0, 11, 0, 1], [0, 3, 3, 0, 1]):
        with pytest.raises(ConfigError, match="bad_pixels"):
            parse({"detector": {"shape": [10, 20], "bad_pixels": [wrong]}})
