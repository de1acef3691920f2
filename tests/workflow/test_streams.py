"""A trial whose only run is a CrystFEL stream, from `adopt` to the page, without an image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trials import summary_of

pytestmark = pytest.mark.chain


def test_a_stream_alone_is_a_trial(tiny_chain, chain, tmp_path, pytestconfig):
    """The stream that we write of the tiny trial is merged to the figures of that; stages that
    need pixels are absent, and the page says why.
    """
    command = [Path(sys.executable).with_name("spreadflow"), "export", "--to", "crystfel"]
    product = "results/tiny/tiny/reindex.h5"
    subprocess.run([*command, product, "--out", tmp_path / "old"], cwd=tiny_chain, check=True)
    tree = yaml.safe_load((pytestconfig.rootpath / "config" / "tiny.yaml").read_text())
    target = {"space_group": "C 1 2 1", "cell": tree["reindex"]["cell"]}
    config = {"trial": "old", "runs": {"tiny": {"lattices": "old.stream"}}, "index": target}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    chain(tmp_path, str(tmp_path / "old"))

    folder = tmp_path / "results" / "old"
    words = {path.stem for path in folder.glob("*.json")} - {"cells.ranks", "merge.ranks"}
    assert words == {"adopt", "reindex", "cells", "merge"}
    page = (folder / "report.html").read_text()
    assert "no images of tiny: stages that need pixels leave it out" in page
    assert "✗" not in page, "nothing disappears"

    ours, theirs = (
        summary_of(root, trial, "merge")
        for root, trial in ((tmp_path, "old"), (tiny_chain, "tiny"))
    )
    for name in set(theirs) - {"products", "software", "reflections", "seconds", "ranks"}:
        assert json.dumps(ours[name]) == json.dumps(theirs[name]), name
    used = [figures["reflections"]["used"] for figures in (ours, theirs)]
    assert used[0] == used[1]
    assert summary_of(tmp_path, "old", "adopt")["without_images"] == ["tiny"]
