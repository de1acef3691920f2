"""Ranks that die in the middle of a stage: the others end, and a rerun on any number of ranks gives
the same product.
"""

import signal
from pathlib import Path

import pytest

from same_product import assert_same
from spreadflow.products import Index

pytestmark = pytest.mark.chain

SIGNALLED = Path(__file__).with_name("signalled.py")


@pytest.fixture(scope="module")
def whole(index, ended, tmp_path_factory) -> Path:
    """The product of a stage that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "index.h5"
    ended(index(out), 0)
    return out


@pytest.mark.parametrize(
    "name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.long), "SIGINT"]
)
def test_a_rank_that_dies_costs_nothing_that_is_finished(index, ended, whole, tmp_path, name):
    number = signal.Signals[name]
    out = tmp_path / "index.h5"

    words = index(out, 2)
    start = words.index("-m")
    words[start : start + 2] = [str(SIGNALLED), str(int(number)), "2"]
    is_caught = number != signal.SIGKILL
    stderr = ended(words, 128 + number if is_caught else number)
    assert ("was interrupted by" in stderr) == is_caught
    assert "Traceback" not in stderr
    pieces = {path: path.stat().st_mtime_ns for path in out.parent.rglob("*.h5")}
    assert pieces
    assert not out.exists()

    ended(index(out, 3), 0)
    assert_same(out, whole, Index)
    assert not list(out.parent.rglob("*.tmp"))
