"""Ranks that die in the middle of a stage: the others end, and a rerun on any number of ranks gives
the same product.
"""

import signal

import pytest

from same_product import assert_same
from spreadflow.products import Index

pytestmark = pytest.mark.chain

DYING = """
import os, sys
from spreadflow import cli
from spreadflow.io import store

number = int(sys.argv.pop(1))
write = store.write_part
written = []

def second_kills(path, *content):
    if written:
        os.kill(os.getpid(), number)
    written.append(path)
    write(path, *content)

store.write_part = second_kills
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command line: a rank gets a signal where it would write its second piece."""


@pytest.mark.parametrize(
    "name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.long), "SIGINT"]
)
def test_a_rank_that_dies_costs_nothing_that_is_finished(index, ended, tmp_path, name):
    number = signal.Signals[name]
    whole = tmp_path / "whole" / "index.h5"
    out = tmp_path / "killed" / "index.h5"
    ended(index(whole), 0)

    words = index(out, 2)
    start = words.index("-m")
    words[start : start + 2] = ["-c", DYING, str(int(number))]
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
