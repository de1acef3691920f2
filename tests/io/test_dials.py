"""DIALS experiment lists: exact round trip, hierarchies as dxtbx resolves them, errors that name
the file.
"""

import copy
import json

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io.lattices.dials import ExperimentList, read_expt
from spreadflow.io.lattices.dials_writer import Still, write_expt, write_stills
from spreadflow.models import Detector
from spreadflow.physics import unit_cell
from spreadflow.physics.geometry import position
from spreadflow.physics.rotation import from_vector


def detector(n: int = 3) -> Detector:
    rng = np.random.default_rng(2)
    turns = from_vector(0.1 * rng.normal(size=(n, 3)))
    corners = rng.normal(size=(n, 3)) * 50 - [0, 0, 141.7]
    return Detector(
        origin_mm=corners,
        fast=turns[:, :, 0],
        slow=-turns[:, :, 1],
        pixel_mm=0.1 + 0.2 / 3,
        shape=(11, 13),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def test_round_trip_is_exact(tmp_path):
    write_expt(tmp_path / "a.expt", detector(), wavelength=1.7413, polarization=0.98)
    read = read_expt(tmp_path / "a.expt")
    for name in ("origin_mm", "fast", "slow", "pixel_mm", "shape", "thickness_mm"):
        assert np.array_equal(getattr(read, name), getattr(detector(), name)), name
    assert np.isclose(read.attenuation_mm, 0.017, rtol=1e-15)

    tree = json.loads((tmp_path / "a.expt").read_text())
    beam = tree["beam"][tree["experiment"][0]["beam"]]
    assert (beam["wavelength"], beam["polarization_fraction"]) == (1.7413, 0.99)


def test_parallax_is_a_strategy_of_the_panels(tmp_path):
    """Written and read under DIALS' name; not where the sensor has no thickness, or a surface's."""
    thick = detector()._replace(parallax_mm=0.017)
    write_expt(tmp_path / "a.expt", thick, wavelength=1.7)
    tree = json.loads((tmp_path / "a.expt").read_text())
    panels = tree["detector"][0]["panels"]
    assert {panel["px_mm_strategy"]["type"] for panel in panels} == {
        "ParallaxCorrectedPxMmStrategy"
    }
    assert np.isclose(read_expt(tmp_path / "a.expt").parallax_mm, 0.017, rtol=1e-15)

    for thickness_mm in (0.0, 0.001):
        panels[0]["thickness"] = thickness_mm
        (tmp_path / "b.expt").write_text(json.dumps(tree))
        surface = read_expt(tmp_path / "b.expt")
        assert (surface.thickness_mm, surface.parallax_mm) == (0.0, None)
    write_expt(tmp_path / "c.expt", detector(), wavelength=1.7)
    assert read_expt(tmp_path / "c.expt").parallax_mm is None


PANEL_KEYS = [
    "name",
    "type",
    "fast_axis",
    "slow_axis",
    "origin",
    "raw_image_offset",
    "image_size",
    "pixel_size",
    "trusted_range",
    "thickness",
    "material",
    "mu",
    "identifier",
    "mask",
    "gain",
    "pedestal",
    "px_mm_strategy",
]


@pytest.mark.parametrize("thickness_mm", [-0.3, float("nan")])
def test_a_sensor_of_no_possible_thickness_is_no_surface(tmp_path, thickness_mm):
    path = tmp_path / "a.expt"
    write_expt(path, detector(), wavelength=1.0)
    tree = json.loads(path.read_text())
    tree["detector"][0]["panels"][0]["thickness"] = thickness_mm
    path.write_text(json.dumps(tree))
    with pytest.raises(FileError, match="a thickness and an attenuation length of the sensor"):
        read_expt(path)


def test_keys_are_those_dials_reads(tmp_path):
    write_expt(tmp_path / "a.expt", detector(), wavelength=1.0)
    tree = json.loads((tmp_path / "a.expt").read_text())
    lists = [
        "experiment",
        "imageset",
        "beam",
        "detector",
        "goniometer",
        "scan",
        "crystal",
        "profile",
        "scaling_model",
    ]

    assert tree["__id__"] == "ExperimentList"
    assert sorted(tree) == sorted(["__id__", *lists])

    panels = tree["detector"][0]["panels"]
    hierarchy = tree["detector"][0]["hierarchy"]
    assert all(sorted(p) == sorted(PANEL_KEYS) for p in panels)
    assert panels[0]["image_size"] == [
        13,
        11,
    ]
    assert sorted(hierarchy) == sorted([*PANEL_KEYS, "children"])
    assert hierarchy["children"] == [{"panel": 0}, {"panel": 1}, {"panel": 2}]


def nested(tmp_path) -> tuple:
    """Panel 1 hangs in a group turned by 90° about z and moved, inside a root that is 100 mm
    downstream.
    """
    write_expt(tmp_path / "a.expt", detector(2), wavelength=1.0)
    tree = json.loads((tmp_path / "a.expt").read_text())
    d = tree["detector"][0]
    d["panels"][1].update(fast_axis=[1, 0, 0], slow_axis=[0, 1, 0], origin=[1, 2, 3])
    group = {
        "fast_axis": [0, 1, 0],
        "slow_axis": [-1, 0, 0],
        "origin": [10, 20, 0],
        "children": [{"panel": 1}],
    }
    d["hierarchy"].update(origin=[0, 0, -100], children=[{"panel": 0}, group])
    return tree, d


def test_hierarchy_is_resolved_to_the_lab(tmp_path):
    tree, _ = nested(tmp_path)
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    read = read_expt(tmp_path / "a.expt")
    assert np.allclose(read.origin_mm[0], detector(2).origin_mm[0] - [0, 0, 100])
    # by hand: (1, 2, 3) in the group → x' = 10 - 2, y' = 20 + 1, z' = 3, then 100 mm downstream
    assert np.allclose(read.origin_mm[1], [8, 21, -97])
    assert np.allclose(read.fast[1], [0, 1, 0])
    assert np.allclose(read.slow[1], [-1, 0, 0])

    pixel = read.pixel_mm
    assert np.allclose(
        position(read, 1, np.array(2.0), np.array(1.0)), [8 - pixel, 21 + 2 * pixel, -97]
    )


def test_without_hierarchy_panels_are_in_the_lab(tmp_path):
    write_expt(tmp_path / "a.expt", detector(), wavelength=1.0)
    tree = json.loads((tmp_path / "a.expt").read_text())
    del tree["detector"][0]["hierarchy"]
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    assert np.array_equal(read_expt(tmp_path / "a.expt").origin_mm, detector().origin_mm)


def _two_detectors(tree, d):
    other = copy.deepcopy(d)
    other["hierarchy"]["origin"][2] -= 0.1 * d["panels"][0]["pixel_size"][0]
    tree["detector"].append(other)
    tree["experiment"].append({"detector": 1})


def _tilted_beam(tree, d):
    tree["beam"][0]["direction"] = [0, 0.01, 1]


def _odd_panel(tree, d):
    d["panels"][0]["image_size"] = [1, 1]


def _no_panels(tree, d):
    del d["panels"]


def _other(tree, d):
    tree["__id__"] = "DataBlock"


def _empty(tree, d):
    tree["experiment"] = []


@pytest.mark.parametrize(
    "spoil", [_two_detectors, _tilted_beam, _odd_panel, _no_panels, _other, _empty]
)
def test_what_can_not_be_used_is_one_clear_error(tmp_path, spoil):
    tree, d = nested(tmp_path)
    spoil(tree, d)
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    with pytest.raises(FileError, match=r"a\.expt"):
        read_expt(tmp_path / "a.expt")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("origin", [0, 0, 400], "downstream of the sample; found panel 1, "),
        ("origin", [0, np.nan, -100], "finite positions of panels"),
        ("fast_axis", [2, 0, 0], "axes of panels of length 1; found 1 to 2"),
        ("fast_axis", [0, 1, 0], "perpendicular axes of each panel; found an angle of 0.000°"),
    ],
)
def test_a_panel_that_can_not_be_is_one_clear_error(tmp_path, key, value, message):
    path = tmp_path / "a.expt"
    write_expt(path, detector(2), wavelength=1.0)
    tree = json.loads(path.read_text())
    tree["detector"][0]["panels"][1].update(fast_axis=[1, 0, 0], slow_axis=[0, -1, 0])
    path.write_text(json.dumps(tree))
    assert read_expt(path).n_panels == 2

    tree["detector"][0]["panels"][1][key] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(FileError, match=message) as caught:
        read_expt(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("edge_mm", [0, -0.1])
def test_pixels_without_an_edge_are_refused(tmp_path, edge_mm):
    path = tmp_path / "a.expt"
    write_expt(path, detector(1), wavelength=1.0)
    tree = json.loads(path.read_text())
    tree["detector"][0]["panels"][0]["pixel_size"] = [edge_mm, edge_mm]
    path.write_text(json.dumps(tree))
    with pytest.raises(FileError, match="pixels with an edge"):
        read_expt(path)


@pytest.mark.parametrize("size", [[0, 5], [5, -1]])
def test_panels_without_pixels_are_refused(tmp_path, size):
    path = tmp_path / "a.expt"
    write_expt(path, detector(1), wavelength=1.0)
    tree = json.loads(path.read_text())
    tree["detector"][0]["panels"][0]["image_size"] = size
    path.write_text(json.dumps(tree))
    with pytest.raises(FileError, match="pixels along both axes"):
        read_expt(path)


@pytest.mark.parametrize("wavelength", [0.0, -1.0, np.nan, np.inf])
def test_a_beam_without_a_wavelength_is_refused(tmp_path, wavelength):
    path = tmp_path / "a.expt"
    write_expt(path, detector(1), wavelength=1.0)
    tree = json.loads(path.read_text())
    tree["beam"][0]["wavelength"] = wavelength
    path.write_text(json.dumps(tree))
    with pytest.raises(FileError, match="a beam with a positive wavelength"):
        read_expt(path)


def test_a_list_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "a.expt"
    path.write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(FileError, match="a DIALS ExperimentList"):
        read_expt(path)


def test_detectors_that_are_the_same_are_one(tmp_path):
    """As each of five experiments has its own copy in lists of dials.ssx_index: apart by rounding,
    or by less than a hundredth of a pixel.
    """
    tree = stills(tmp_path)
    for number, shift in enumerate((0.0, 1e-9, -1e-9, 0.009)):
        other = copy.deepcopy(tree["detector"][0])
        other["hierarchy"]["origin"][0] += shift * other["panels"][0]["pixel_size"][0]
        tree["detector"].append(other)
        tree["experiment"].append(tree["experiment"][0] | {"detector": number + 1})
    path = tmp_path / "a.expt"
    path.write_text(json.dumps(tree))
    detector = read_expt(path)
    np.testing.assert_allclose(detector.origin_mm[1], [8, 21, -97])
    experiments = ExperimentList(path)
    assert len({id(experiments[n].detector) for n in range(len(experiments))}) == 1


def test_a_file_of_dials_1_is_refused_with_what_to_do(tmp_path):
    for name in ("old.expt", "old.pickle"):
        path = tmp_path / name
        path.write_bytes(b"\x80\x02cdials_array_family_flex_ext\nreflection_table\n")
        with pytest.raises(FileError, match=r"a pickle, as DIALS 1 wrote.*as_file\('old\.refl'\)"):
            ExperimentList(path)


def test_experiments_of_lists_without_images_are_numbered(tmp_path):
    """Some lists of 2017."""
    tree = stills(tmp_path)
    for experiment in tree["experiment"]:
        del experiment["imageset"]
    path = tmp_path / "a.expt"
    path.write_text(json.dumps(tree))
    experiments = ExperimentList(path)
    assert [(one.image, one.frame) for one in (experiments[0], experiments[1])] == [
        (path, 0),
        (path, 1),
    ]


@pytest.mark.parametrize("part", ["crystal", "beam", "detector"])
def test_a_part_that_an_experiment_lacks_is_named(tmp_path, part):
    """Lists of strong spots have no crystal."""
    tree = stills(tmp_path)
    del tree["experiment"][0][part]
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    with pytest.raises(FileError, match=f"experiment 0: .*; found one without {part}"):
        ExperimentList(tmp_path / "a.expt")[0]


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_what_is_no_experiment_list_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "a.expt").write_text(content)
    with pytest.raises(FileError, match=r"a\.expt"):
        read_expt(tmp_path / "a.expt")


def stills(tmp_path) -> dict:
    """Two experiments on one detector, as DIALS writes those of stills: cells 40 50 60 and 10 20
    30, angles of 90°.
    """
    tree, _ = nested(tmp_path)
    tree["beam"] = [tree["beam"][0], dict(tree["beam"][0], wavelength=1.25)]
    for n, edges in enumerate(((40, 50, 60), (10, 20, 30))):
        # a along y, b along z, c along x
        axes = {
            "real_space_a": [0, edges[0], 0],
            "real_space_b": [0, 0, edges[1]],
            "real_space_c": [edges[2], 0, 0],
        }
        tree["crystal"].append({"__id__": "crystal", **axes, "space_group_hall_symbol": " P 2 2ab"})
        tree["imageset"].append({"__id__": "ImageSet", "images": [("a.nxs", "/raw/b.nxs")[n]]})
        tree["imageset"][n]["single_file_indices"] = [7 * n]
    links = [{"beam": n, "crystal": n, "imageset": n, "detector": 0} for n in range(2)]
    tree["experiment"] = [
        {"__id__": "Experiment", "identifier": f"id{n}", **link} for n, link in enumerate(links)
    ]
    return tree


def test_experiments_are_read(tmp_path):
    (tmp_path / "a.expt").write_text(json.dumps(stills(tmp_path)))
    experiments = ExperimentList(tmp_path / "a.expt")
    one = experiments[0]
    two = experiments[1]

    assert len(experiments) == 2
    assert (one.identifier, two.identifier) == ("id0", "id1")
    assert (one.image, one.frame) == (tmp_path / "a.nxs", 0)
    assert (str(two.image), two.frame) == (
        "/raw/b.nxs",
        7,
    )
    assert (one.wavelength, two.wavelength) == (1.0, 1.25)
    assert one.hall == " P 2 2ab"
    # a* = 1/40 along y, b* = 1/50 along z, c* = 1/60 along x; columns
    assert np.allclose(one.A, [[0, 0, 1 / 60], [1 / 40, 0, 0], [0, 1 / 50, 0]], rtol=1e-14, atol=0)
    assert np.allclose(unit_cell.degrees(unit_cell.cell_of(two.A)), [10, 20, 30, 90, 90, 90])
    assert np.allclose(two.detector.origin_mm[1], [8, 21, -97])


def _as_sequence(tree, template, *ranges, kind="ImageSequence") -> None:
    """Make the stills a sequence, with a scan for each, as dials.ssx_index does."""
    tree["imageset"] = [{"__id__": kind, "template": template}]
    tree["scan"] = [{"image_range": list(one)} for one in ranges]
    for n, experiment in enumerate(tree["experiment"]):
        experiment.update(imageset=0, scan=n)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a.nxs", [("a.nxs", 2), ("a.nxs", 11)]),
        ("/raw/still_####.cbf", [("/raw/still_0003.cbf", 0), ("/raw/still_0012.cbf", 0)]),
    ],
)
def test_stills_of_a_sequence_are_images_by_the_number_of_their_scan(tmp_path, template, expected):
    """A sequence was a sweep until 2019."""
    for kind in ("ImageSequence", "ImageSweep"):
        tree = stills(tmp_path)
        _as_sequence(tree, template, (3, 3), (12, 12), kind=kind)
        (tmp_path / "a.expt").write_text(json.dumps(tree))
        experiments = ExperimentList(tmp_path / "a.expt")
        images = [(experiments[n].image, experiments[n].frame) for n in range(2)]
        assert images == [(tmp_path / name, frame) for name, frame in expected]


def _several_in_a_scan(tree):
    _as_sequence(tree, "a.nxs", (1, 3), (4, 4))


def _no_scan(tree):
    _as_sequence(tree, "a.nxs", (1, 1), (4, 4))
    del tree["experiment"][0]["scan"]


def _no_crystal(tree):
    del tree["experiment"][0]["crystal"]


def _no_image(tree):
    del tree["imageset"][0]["images"]


def _two_images(tree):
    tree["imageset"][0]["images"] *= 2


def _left_handed(tree):
    tree["crystal"][0]["real_space_a"] = [0, -40, 0]


def _not_finite(tree):
    tree["crystal"][0]["real_space_a"] = [0, float("nan"), 0]


def _flat(tree):
    tree["crystal"][0]["real_space_a"] = [0, 40]


def _no_group(tree):
    tree["crystal"][0]["space_group_hall_symbol"] = "P 43 21 2"


def _tilted(tree):
    tree["beam"][0]["direction"] = [0, 0.01, 1]


def _no_wavelength(tree):
    tree["beam"][0]["wavelength"] = float("nan")


def _wavelength_0(tree):
    tree["beam"][0]["wavelength"] = 0.0


SPOILERS = [
    _no_crystal,
    _no_image,
    _two_images,
    _left_handed,
    _not_finite,
    _flat,
    _no_group,
    _tilted,
    _no_wavelength,
    _wavelength_0,
    _several_in_a_scan,
    _no_scan,
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_spoilt_experiment_is_one_clear_error_and_costs_no_other(tmp_path, spoil):
    tree = stills(tmp_path)
    spoil(tree)
    (tmp_path / "a.expt").write_text(json.dumps(tree))
    experiments = ExperimentList(tmp_path / "a.expt")
    with pytest.raises(FileError, match=r"a\.expt, experiment 0"):
        experiments[0]
    assert experiments[1].identifier == "id1"


def test_stills_read_back_as_they_were_written(tmp_path):
    """Two lattices of one shot share its beam and image; a third has its own, on another
    detector.
    """
    cell = unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
    turns = from_vector(np.random.default_rng(3).normal(size=(3, 3)))
    hall = " C 2y"
    shots = [("a.h5", 4, 0), ("a.h5", 4, 0), ("b.h5", 0, 1)]
    stills = [
        Still(f"shot-{n}", image, frame, number, 1.74, 0.9, turn @ unit_cell.reciprocal(cell), hall)
        for n, ((image, frame, number), turn) in enumerate(zip(shots, turns, strict=True))
    ]
    other = detector()._replace(pixel_mm=0.25)
    path = tmp_path / "stills.expt"
    write_stills(path, stills, [(detector(), ""), (other, "CdTe")])
    experiments = ExperimentList(path)
    assert len(experiments) == 3
    for number, still in enumerate(stills):
        read = experiments[number]
        assert (read.identifier, read.frame, read.hall) == (still.identifier, still.frame, " C 2y")
        assert read.image == tmp_path / still.image
        assert read.wavelength == 1.74
        np.testing.assert_allclose(read.A, still.A, rtol=1e-12, atol=1e-15)
        assert read.detector.pixel_mm == (detector(), other)[still.detector].pixel_mm
    tree = json.loads(path.read_text())
    assert [len(tree[name]) for name in ("beam", "imageset", "crystal")] == [2, 2, 3]
    assert tree["beam"][0]["polarization_fraction"] == pytest.approx(0.95)
    materials = [{panel["material"] for panel in one["panels"]} for one in tree["detector"]]
    assert materials == [{""}, {"CdTe"}]
