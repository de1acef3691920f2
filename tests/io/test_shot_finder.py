"""By which rule the image of a list is found among those of a run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from spreadflow.io.lattices.shot_finder import Rule, ShotFinder


@pytest.fixture
def finder(tmp_path) -> ShotFinder:
    """The finder of a run of four files of three frames."""
    names = ("a/x.nxs", "b/x.nxs", "b/y.nxs", "b/z.h5")
    return ShotFinder(tmp_path, [SimpleNamespace(path=name, n_frames=3) for name in names])


def test_a_file_of_the_run_is_known_by_its_path(finder, tmp_path):
    assert finder.find(tmp_path / "a" / "x.nxs", 1) == (1, Rule.PATH)
    assert finder.find(tmp_path / "a" / ".." / "b" / "x.nxs", 2) == (5, Rule.PATH)
    assert finder.find(tmp_path / "a" / "x.nxs", 3).shot == -1
    assert finder.find(tmp_path / "a" / "x.nxs", -1).shot == -1


def test_one_that_is_gone_is_known_by_its_name(finder, tmp_path):
    """Not where several of the run have it, nor where it is there all the same."""
    assert finder.find(Path("/gone/y.nxs"), 0) == (6, Rule.NAME)
    assert finder.find(Path("/gone/x.nxs"), 0).shot == -1
    other = tmp_path / "y.nxs"
    other.touch()
    assert finder.find(other, 0).shot == -1


def test_one_in_another_format_is_known_by_its_stem(finder, tmp_path):
    """It may still be there: it is no file of the run."""
    assert finder.find(Path("/gone/y.cbf"), 1) == (7, Rule.STEM)
    other = tmp_path / "z.cbf"
    other.touch()
    assert finder.find(other, 0) == (9, Rule.STEM)
    assert finder.find(other, 3).shot == -1
    assert finder.find(Path("/gone/x.cbf"), 0).shot == -1
    assert finder.find(Path("/gone/w.cbf"), 0).shot == -1
