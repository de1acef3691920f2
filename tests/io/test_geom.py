"""CrystFEL geometry files: places of pixels computed by hand; what is no geometry is refused with
its line.
"""

import numpy as np
import pytest

import crystfel_file
from crystfel_file import GEOM, HEAD
from spreadflow.errors import FileError
from spreadflow.io.images import geom_text
from spreadflow.io.images.geom import Geom
from spreadflow.io.images.geom_masks import plain_mask
from spreadflow.io.images.geom_text import Setting
from spreadflow.models import Detector

FIXED = GEOM.replace(f"clen = {crystfel_file.ENCODER}", "clen = 99.5 mm").replace(
    "coffset = 0.550", "coffset = 0.0005"
)
"""With a camera length of 100 mm in all."""


def read(tmp_path, text: str) -> Geom:
    path = tmp_path / "a.geom"
    path.write_text(text)
    return Geom(path)


def detector(tmp_path, text: str = FIXED) -> Detector:
    return read(tmp_path, text).layout("x", None, None).detector


def position(whole: Detector, panel: int, fast: float, slow: float) -> np.ndarray:
    """The place of a pixel in the laboratory, mm."""
    along = fast * whole.fast[panel] + slow * whole.slow[panel]
    return whole.origin_mm[panel] + whole.pixel_mm * along


def test_pixels_are_where_they_are_by_hand(tmp_path):
    """Panel a, 2.5 px along fs and 1.5 along ss: x = -10 + 2.5 · 0.6 - 1.5 · 0.8 = -9.7 px, y = 5 +
    2.5 · 0.8 + 1.5 · 0.6 = 7.9 px, of 0.1 mm. Panel b, 2 px along fs and 4 along ss: x = 3 - 2, y =
    -2.5 + 4 · 0.96, z = -4 · 0.28 px beside 100 mm along the beam. The laboratory has x and z the
    other way round.
    """
    whole = detector(tmp_path)
    assert np.allclose(position(whole, 0, 2.5, 1.5), [0.97, 0.79, -100], rtol=0, atol=1e-12)
    expected = [-0.1, 0.134, -100 + 0.112]
    assert np.allclose(position(whole, 1, 2, 4), expected, rtol=0, atol=1e-12)
    assert (whole.shape, whole.pixel_mm) == (crystfel_file.SHAPE, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("clen", "length_mm"),
    [("0.12", 120.0), ("0.12 m", 120.0), ("95.3 mm", 95.3), ("9.53cm", 95.3), ("1e2mm", 100.0)],
)
def test_a_camera_length_without_a_unit_is_in_metres(tmp_path, clen, length_mm):
    text = FIXED.replace("clen = 99.5 mm", f"clen = {clen}").replace("0.0005", "0")
    assert detector(tmp_path, text).origin_mm[:, 2] == pytest.approx(-length_mm)


def test_what_stands_before_a_panel_is_its_default_and_no_others(tmp_path):
    late = FIXED.replace("b/min_fs = 0", "max_adu = 7\nb/min_fs = 0") + "a/max_adu = 5\n"
    panels = read(tmp_path, late).panels
    assert [panel.settings["max_adu"].text for panel in panels] == ["5", "7"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", [1, 0, 0]),
        ("-y", [0, -1, 0]),
        ("+0.0057x -0.99998y", [0.0057, -0.99998, 0]),
        ("-.5 x + 1.5e-1z", [-0.5, 0, 0.15]),
        ("- x", [-1, 0, 0]),
    ],
)
def test_vectors_as_crystfel_writes_them(text, expected):
    assert geom_text.vector(Setting("here", text)).tolist() == expected


@pytest.mark.parametrize("text", ["", "0x", "1.0", "x y", "x + w", "1..2x", "nanx", "1e999x", "xx"])
def test_vectors_that_are_none(text):
    with pytest.raises(FileError, match=r"here: expected a vector such as"):
        geom_text.vector(Setting("here", text))


def test_axes_that_are_nearly_unit_vectors_are_made_so_about_the_centre_of_the_panel(tmp_path):
    """An fs of 1.01 px stretches 6 px by 0.06: the centre stays, a corner moves by half of it."""
    text = FIXED.replace("b/fs = -x", "b/fs = -1.01x")
    geom = read(tmp_path, text.replace("0b/fs", "0"))
    whole = geom.layout("x", None, None).detector
    centre_px = 3 - 1.01 * 3.0
    assert position(whole, 1, 3, 2)[0] == pytest.approx(-0.1 * centre_px)
    assert np.allclose(np.linalg.norm(whole.fast, axis=1), 1, rtol=0, atol=1e-12)
    assert geom.remarks == []

    wide = text.replace("max_fs = 5", "max_fs = 99")
    (remark,) = read(tmp_path, wide).remarks
    assert "moves pixels by up to 0.50 px (b)" in remark


def test_settings_that_are_not_understood_are_named(tmp_path):
    text = FIXED + "a/saturation_map = /x\npeak_list = /y\na/adu_bias = 3\n"
    (remark,) = read(tmp_path, text).remarks
    assert remark.endswith("not understood, and not used: saturation_map, adu_bias")


REFUSED = {
    "no panel": (HEAD, "panels, such as `p0/corner_x"),
    "no text": ("", "panels, such as `p0/corner_x"),
    "no setting": (GEOM.replace("coffset =", "coffset"), r"line 6: expected `parameter = value`"),
    "no value": (GEOM.replace("a/max_fs = 5", "a/max_fs ="), "expected `parameter = value`"),
    "no edge": (GEOM.replace("a/max_fs = 5\n", ""), "panel a: expected a/max_fs; found none"),
    "no vector": (GEOM.replace("a/fs = 0.6x +0.8y\n", ""), "panel a: expected a/fs; found none"),
    "no pixel size": (GEOM.replace("res = 10000\n", ""), "panel a: expected a/res; found none"),
    "no camera length": (FIXED.replace("clen = 99.5 mm\n", ""), "panel a: expected a/clen"),
    "half a pixel": (GEOM.replace("a/max_fs = 5", "a/max_fs = 5.5"), "a whole number from 0"),
    "turned edges": (GEOM.replace("a/min_fs = 0", "a/min_fs = 9"), "1 to 65536 pixels along"),
    "a huge panel": (GEOM.replace("a/max_fs = 5", "a/max_fs = 1e9"), "1 to 65536 pixels along"),
    "a number that is none": (GEOM.replace("-10.0", "ten"), "a/corner_x: expected a finite number"),
    "infinity": (GEOM.replace("-10.0", "inf"), "a/corner_x: expected a finite number; found 'inf'"),
    "a pixel of no size": (
        GEOM.replace("res = 10000", "res = 0"),
        "res: expected a positive number",
    ),
    "long vectors": (GEOM.replace("a/fs = 0.6x", "a/fs = 0.9x"), "of length 1 .px., at a right"),
    "skewed vectors": (GEOM.replace("a/ss = -0.8x", "a/ss = 0.8x"), "at a right angle"),
    "an unknown unit": (FIXED.replace("99.5 mm", "99.5 furlong"), "or the path of a dataset"),
    "panels of two shapes": (GEOM.replace("a/max_ss = 3", "a/max_ss = 2"), "panels of equal shape"),
    "pixels of two sizes": (FIXED + "b/res = 9000\n", "square pixels of equal size"),
    "upstream": (FIXED.replace("clen = 99.5", "clen = -99.5"), "downstream of the sample"),
    "two axes of frames": (GEOM.replace("dim1 = ss", "dim1 = %"), "of which one is ss"),
    "an axis left out": (GEOM.replace("dim1 = ss\n", ""), "panel a: expected a/dim1"),
    "other axes": (GEOM + "b/dim1 = fs\nb/dim2 = ss\n", "b: expected dimensions as of a"),
    "a rail across": (GEOM.replace("a/min_fs", "a/rail_direction = x\na/min_fs"), "Not supported"),
    "a shift": ("detector_shift_x = /x mm\n" + GEOM, "Add it to corner_x of each panel"),
    "electrons": ("electron_voltage = 300 kV\n" + GEOM, "Only X-rays are understood"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_geometry_is_refused_by_name(tmp_path, name):
    text, words = REFUSED[name]
    with pytest.raises(FileError, match=words) as caught:
        detector(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "a.geom"))


def test_a_camera_length_in_a_dataset_needs_a_file(tmp_path):
    with pytest.raises(FileError, match=r"x: expected the camera length that .*line 5: clen names"):
        detector(tmp_path, GEOM)


def test_panels_regions_and_edges_that_are_left_out(tmp_path):
    """Region one: x = 2.4 to 3 px of panel b, its first column, whose centres are at 2.5; region
    two: two pixels of the data, of panel a.
    """
    regions = """
badone/min_x = 2.4
badone/max_x = 3.0
badone/min_y = -3
badone/max_y = 99
badtwo/min_fs = 4
badtwo/max_fs = 5
badtwo/min_ss = 2
badtwo/max_ss = 2
badtwo/panel = a
"""
    good = plain_mask(read(tmp_path, FIXED + regions))
    expected = np.ones((2, *crystfel_file.SHAPE), bool)
    expected[1, :, 0] = False
    expected[0, 2, 4:] = False
    assert np.array_equal(good, expected)

    edges = plain_mask(read(tmp_path, FIXED + "a/mask_edge_pixels = 1\nb/no_index = 1\n"))
    expected[:] = False
    expected[0, 1:-1, 1:-1] = True
    assert np.array_equal(edges, expected)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ("bada/min_x = 1\n", "bada with min_x, max_x.*; found no max_x"),
        ("bada/min_fs = 1\n", "found no max_fs"),
        (
            "bada/min_x = 1\nbada/max_x = 2\nbada/min_y = 1\nbada/max_y = 2\nbada/min_fs = 0\n",
            "found some of both",
        ),
        (
            "bada/min_x = 3\nbada/max_x = 2\nbada/min_y = 1\nbada/max_y = 2\n",
            "line .*: bada/min_x: expected ends from low to high",
        ),
        ("bada/min_x = 3\nbada/panel = c\n", "bada/panel: expected the panel of bada: one of a, b"),
    ],
)
def test_regions_that_make_no_sense(tmp_path, region, words):
    with pytest.raises(FileError, match=words):
        plain_mask(read(tmp_path, FIXED + region))


def test_geometry_files_of_crystfel(real_stills):
    """The Jungfrau of SwissFEL and a toy. The centre of the first module is 515 px along fs and 257
    along ss from its corner, in pixels of 1/13333.3 m.
    """
    toy = Geom(real_stills / "geom" / "simple.geom").layout("x", None, None).detector
    assert toy.shape == (512, 1024)
    assert np.allclose(position(toy, 0, 512, 0), [0, 0.75, -50], rtol=0, atol=1e-5)
    assert np.allclose(position(toy, 1, 512, 512), [0, -0.75, -50], rtol=0, atol=1e-5)

    geom = Geom(real_stills / "geom" / "jf-swissfel-16M.geom")
    jungfrau = geom.layout("x", None, None).detector
    assert (jungfrau.n_panels, jungfrau.shape) == (32, (514, 1030))
    x = 2147.07110898 + 515 * 0.000342 - 257 * 0.998976
    y = 1131.30172146 - 515 * 0.999931 - 257 * 0.00005
    expected = [-x / 13.3333, y / 13.3333, -95.215]
    assert np.allclose(position(jungfrau, 0, 515, 257), expected, rtol=0, atol=1e-6)
    good = plain_mask(geom)
    assert good[15, 7710 - 15 * 514 :, 890:].sum() == 514 * 140 - 61 * 140
