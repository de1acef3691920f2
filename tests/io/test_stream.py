"""CrystFEL streams: numbers computed by hand from a file written by the format's description; what
is none is refused with its line; files of any size in the memory of a shot.
"""

import tracemalloc

import numpy as np
import pytest

import stream_file
from spreadflow.errors import FileError
from spreadflow.io.images.geom import Geom
from spreadflow.io.images.geom_writer import geom_of
from spreadflow.io.lattices.crystfel import Stream
from spreadflow.models import Detector
from spreadflow.physics.geometry import corner_distance_px, position
from stream_file import AXES, chunk, crystal, text, write


def one(tmp_path, *chunks: str, **keys) -> Stream:
    return Stream(write(tmp_path / "x.stream", *chunks, **keys))


def test_a_shot_is_what_stands_there(tmp_path):
    """CrystFEL's x and z are the other way round in the laboratory; 1 nm⁻¹ is 0.1 Å⁻¹; four ADU are
    a photon; a bandwidth is a standard deviation, and ours a full width at half maximum.
    """
    stream = one(tmp_path, chunk("//7", crystal()))
    (name,) = stream.names
    assert (name.image, name.frame, name.event) == ("/far/away/x.cxi", 7, "")
    shot = stream.read(0)
    assert (shot.energy_ev, shot.is_hit) == (9012.5, True)
    assert shot.bandwidth == pytest.approx(2e-3 * 2.3548, rel=1e-4)

    (stated,) = shot.lattices
    expected = [[-0.01, 0, 0], [0, 0.02, 0.003], [0, 0, -0.04]]
    np.testing.assert_allclose(stated.lattice.A, expected, rtol=0, atol=1e-15)
    assert stated.lattice.hall == "C 1"
    assert stated.d_min == pytest.approx(2.5)
    assert stated.line == text(chunk("//7", crystal())).splitlines().index("--- Begin crystal") + 1

    rows = stated.lattice.reflections
    assert rows.hkl.tolist() == [[1, 2, -3], [-4, 0, 5]]
    assert rows.intensity.tolist() == [100, -2.5]
    assert rows.sigma.tolist() == [5, 3]
    assert rows.background.tolist() == [2, 4]
    assert rows.panel.tolist() == [0, 1]
    assert (rows.fast.tolist(), rows.slow.tolist()) == ([2.5, 1.5], [3.0, 2.0])
    assert stated.is_saturated.tolist() == [False, True], "max_adu is 2000"

    spots = shot.spots
    assert (spots.panel, spots.fast, spots.slow, spots.intensity) == (1, 4.5, 1.25, 210)
    x, y, z = position(stream.detector, spots.panel, spots.fast, spots.slow)[0]
    assert (x, y, z) == pytest.approx((-0.75, -0.075, -100)), "3 + 4.5 and -2 + 1.25 px of 0.1 mm"


@pytest.mark.parametrize("minor", [1, 2])
def test_older_formats_name_no_panels(tmp_path, minor):
    """Places are in the data, and one panel is there."""
    stream = one(tmp_path, chunk("//0", crystal(minor), minor=minor), minor=minor)
    shot = stream.read(0)
    rows = shot.lattices[0].lattice.reflections
    assert (rows.panel, rows.fast, rows.slow) == (0, 2.5, 3.0)
    assert (rows.intensity, rows.sigma) == (100, 5)
    assert (rows.background is None) == (minor == 1)
    assert (shot.spots.panel, shot.spots.slow) == (1, 1.25)


def test_panels_that_share_a_place_need_names(tmp_path):
    geometry = stream_file.GEOMETRY.replace("dim1 = ss", "dim1 = ss\ndim3 = 0")
    geometry = geometry.replace("b/min_ss = 8", "b/min_ss = 0").replace(
        "b/max_ss = 15", "b/max_ss = 7"
    )
    stream = one(tmp_path, chunk("//0", crystal(2), minor=2), minor=2, geometry=geometry)
    with pytest.raises(FileError, match=r"line \d+: expected a place in one panel.*in 2 panels"):
        stream.read(0)


@pytest.mark.parametrize(
    ("event", "frame", "name"),
    [
        (None, 0, ""),
        ("//", 0, ""),
        ("//12", 12, ""),
        ("tag-57375862//", -1, "tag-57375862//"),
        ("run/a//3", -1, "run/a//3"),
    ],
)
def test_events(tmp_path, event, frame, name):
    (found,) = one(tmp_path, chunk(event)).names
    assert (found.frame, found.event) == (frame, name)


def test_several_crystals_of_a_chunk_and_chunks_without(tmp_path):
    turned = AXES.replace("+0.1000000 +0.0000000", "+0.1000000 +0.0010000")
    stream = one(
        tmp_path,
        chunk("//0", crystal(), crystal(axes=turned)),
        chunk("//1"),
        chunk("//2", crystal()),
    )
    assert [name.n_lattices for name in stream.names] == [2, 0, 1]
    first, second = stream.read(0).lattices
    assert second.lattice.A[1, 0] == pytest.approx(1e-4)
    assert first.lattice.A[1, 0] == 0
    assert second.line > first.line
    assert not stream.read(1).is_hit
    assert stream.read(2).lattices[0].lattice.frame == 2


def test_a_camera_length_in_the_images_is_that_of_the_chunks(tmp_path):
    geometry = stream_file.GEOMETRY.replace("clen = 0.1", "clen = /LCLS/z\ncoffset = 0.58")
    stream = one(tmp_path, chunk(), geometry=geometry)
    np.testing.assert_allclose(stream.detector.origin_mm[:, 2], -100, rtol=0, atol=1e-9)


def test_a_geometry_file_and_a_gain_in_place_of_those_of_the_stream(tmp_path):
    path = write(tmp_path / "x.stream", chunk("//0", crystal()), geometry=None)
    with pytest.raises(FileError, match=r"a geometry file in its header; found none.*geometry"):
        Stream(path)
    (tmp_path / "own.geom").write_text(stream_file.GEOMETRY)
    stream = Stream(path, tmp_path / "own.geom", 8.0)
    assert stream.read(0).lattices[0].lattice.reflections.intensity[0] == 50


def test_a_gain_that_nobody_states_is_told(tmp_path):
    geometry = stream_file.GEOMETRY.replace("adu_per_photon = 4\n", "")
    assert "one ADU is taken for one photon" in one(tmp_path, chunk(), geometry=geometry).remarks[0]


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.97])
def test_a_chunk_that_was_cut_off_is_left_out_by_its_line(tmp_path, keep):
    """Also where a new program went on writing after it."""
    whole = chunk("//0", crystal())
    torn = whole[: int(keep * len(whole))]
    n_before = len(text(whole).splitlines())
    for rest, n_whole in (("", 1), ("\n" + whole.replace("//0", "//1"), 2)):
        stream = one(tmp_path, whole, torn + rest)
        assert len(stream.names) == n_whole
        assert list(stream.torn) == [n_before + 1]
        stream.read(n_whole - 1)


@pytest.mark.parametrize(
    ("old", "new", "line_of", "message"),
    [
        (" 400.00", " 4OO.00", "   1    2", "a number as I; found '4OO.00'"),
        (" 400.00", " nan", "   1    2", "a finite number as I; found nan"),
        ("100.00       8.00    2.5    3.0 a", "100.00", "   1    2", "the 10 columns"),
        ("3.0 a", "3.0 z", "   1    2", "a panel of the geometry file; found 'z'"),
        ("+0.2000000", "+0.2x", "bstar", "bstar = 3 finite numbers"),
        ("bstar = +0.0", "bsta = +0.0", "--- Begin crystal", "astar, bstar and cstar"),
        ("9012.500000", "inf", "photon_energy_eV", "photon_energy_eV = a finite number"),
        ("centering = C", "centering = X", "--- Begin crystal", "one of the centrings"),
        ("840.00   b", "840.00", "   4.50", "the 5 columns"),
    ],
)
def test_numbers_that_are_none_are_named_by_their_line(tmp_path, old, new, line_of, message):
    good = chunk("//0", crystal())
    assert good.count(old) == 1
    lines = text(good).replace(old, new, 1).splitlines()
    path = tmp_path / "x.stream"
    path.write_text("\n".join(lines) + "\n")
    number = next(n for n, line in enumerate(lines, 1) if line.startswith(line_of))
    with pytest.raises(FileError, match=rf"x.stream, line {number}: expected {message}"):
        Stream(path).read(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("CrystFEL stream format 3.0\n", "format 2.0 to 2.3"),
        ("\x89HDF\r\n", "format 2.0 to 2.3"),
        ("", "format 2.0 to 2.3"),
        (text(), "chunks of shots; found none"),
        (text(chunk()[:200]), "chunks of shots; found one that has no end"),
    ],
)
def test_what_is_no_stream_is_refused(tmp_path, content, message):
    path = tmp_path / "x.stream"
    path.write_text(content)
    with pytest.raises(FileError, match=message):
        Stream(path)


def test_columns_of_ours_come_by_their_names(tmp_path):
    own = (
        chunk("//0", crystal(lines="centering = C\nspreadflow/eta_rad = 0.001\n"))
        .replace("ss/px panel", "ss/px panel partiality slopes_0 slopes_1 slopes_2")
        .replace("3.0 a", "3.0 a 0.5 1 2 3")
        .replace("10.0 b", "10.0 b 0.25 4 5 6")
    )
    (stated,) = one(tmp_path, own).read(0).lattices
    assert stated.own["eta_rad"].tolist() == [[0.001]]
    assert stated.own_reflections["partiality"].tolist() == [0.5, 0.25]
    assert stated.own_reflections["slopes"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert stated.lattice.reflections.intensity.tolist() == [100, -2.5]


def test_words_after_the_last_column_are_passed_over(tmp_path):
    more = chunk("//0", crystal().replace("3.0 a", "3.0 a and more"))
    rows = one(tmp_path, more).read(0).lattices[0].lattice.reflections
    assert rows.intensity.tolist() == [100, -2.5]


def test_a_large_file_takes_the_memory_of_a_shot(tmp_path):
    """Of nearly 2 MB a quarter is never held."""
    shots = [
        chunk(
            f"//{n}",
            crystal().replace(
                "End of r",
                400 * "   1    2   -3     400.00      20.00     100.00       8.00    2.5    3.0 a\n"
                + "End of r",
            ),
        )
        for n in range(60)
    ]
    path = write(tmp_path / "x.stream", *shots)
    size = path.stat().st_size
    assert size > 1.5e6
    del shots
    tracemalloc.start()
    stream = Stream(path)
    n_rows = [len(stream.read(n).lattices[0].lattice.reflections.hkl) for n in range(60)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(n_rows) == {402}
    assert peak < 0.25 * size


@pytest.mark.parametrize("n_panels", [1, 3])
def test_a_geometry_file_of_ours_reads_back(tmp_path, n_panels):
    rng = np.random.default_rng(n_panels)
    axes = np.array([np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(n_panels)])
    detector = Detector(
        origin_mm=np.column_stack(
            [rng.normal(size=(n_panels, 2)) * 90, -rng.uniform(150, 151, n_panels)]
        ),
        fast=axes[:, 0],
        slow=axes[:, 1],
        pixel_mm=0.172,
        shape=(195, 487),
    )
    path = tmp_path / "own.geom"
    path.write_text(geom_of(detector, energy_ev=7120.0))
    read = Geom(path).layout("x", None, None).detector
    assert corner_distance_px(read, detector) < 1e-6
    assert "e-" not in path.read_text(), "CrystFEL's vectors have no exponents"
