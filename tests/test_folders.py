"""Where caches lie, and which folder above a path exists."""

from pathlib import Path

import pytest

from spreadflow.folders import lowest_existing, own_cache, user_cache


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/home/one"}, "/home/one/.cache"),
        ({"HOME": "/home/one", "XDG_CACHE_HOME": "/scratch/one"}, "/scratch/one"),
        ({"HOME": "/home/one", "XDG_CACHE_HOME": ""}, "/home/one/.cache"),
        ({}, Path.home() / ".cache"),
    ],
)
def test_caches_lie_where_the_user_says_else_below_the_home(environment, expected):
    assert user_cache(environment) == Path(expected)
    assert own_cache(environment) == Path(expected, "spreadflow")


def test_the_lowest_folder_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lowest_existing("results/tiny") == tmp_path
    (tmp_path / "results").mkdir()
    assert lowest_existing("results/tiny") == tmp_path / "results"
    assert lowest_existing("results") == tmp_path / "results"
    assert lowest_existing("/no/such/folder") == Path("/")
