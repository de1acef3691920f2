"""The report and the closing table of a trial."""

import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import pytest

from spreadflow.errors import FileError, StageWarning
from spreadflow.report import page, summary, table
from spreadflow.report.checks import collect

pytestmark = pytest.mark.stage


def test_page_is_self_contained_and_its_links_lead_somewhere(trial, summaries):
    out = trial.folder / "report.html"
    page.run(list(summaries.values()), out)
    text = out.read_text()
    assert text.count('src="data:image/png;base64,') == len(summaries)
    assert not re.search(r'(src|href)="(https?:|//)', text)

    links = [link for link in re.findall(r'href="([^"#]+)"', text)]
    assert len(links) >= 7
    assert all((trial.folder / link).exists() for link in links)
    assert "✗" not in text
    assert text.count("✓") == 22


def test_a_report_draws_what_is_missing_and_what_has_changed(trial, tmp_path):
    """Summary and picture of the same files stay as they are."""
    products = [tmp_path / name for name in ("merge.h5", "cells.h5")]
    for path in products:
        shutil.copy(trial.folder / path.name, path)
    written = [
        tmp_path / f"{word}.{kind}" for word in ("cells", "merge") for kind in ("json", "png")
    ]
    before: list[int] = []

    def report(images=()) -> list[str]:
        """Report, and return which files were written anew."""
        paths = summary.write_missing(products, list(images), tmp_path)
        assert [path.name for path in paths] == ["cells.json", "merge.json"]
        times = [path.stat().st_mtime_ns for path in written]
        anew = [
            path.name
            for path, time, earlier in zip(written, times, before or [0] * 4, strict=True)
            if time != earlier
        ]
        before[:] = times
        return anew

    everything = ["cells.json", "cells.png", "merge.json", "merge.png"]
    assert report() == everything
    assert report() == []

    (tmp_path / "cells.png").unlink()
    assert report() == ["cells.json", "cells.png"]

    with h5py.File(tmp_path / "merge.h5", "r+") as file:
        file.attrs["key"] = "another"
    assert report() == ["merge.json", "merge.png"]

    assert report(trial.manifests) == everything


def test_a_file_without_a_summary_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"spread.csv: expected one of manifest.json, index.h5"):
        summary.write_missing([tmp_path / "spread.csv"], [], tmp_path)


def test_counts_that_differ_are_found(summaries):
    figures = {stage: json.loads(path.read_text()) for stage, path in summaries.items()}
    assert all(check.holds for check in collect(figures))
    figures["cells"]["n_in"] += 1
    assert [check.statement for check in collect(figures) if not check.holds] == [
        "each lattice of reindex reaches cells",
        "each lattice of cells has one outcome",
        "each lattice of reindex reaches predict",
    ]


def test_table_sums_seconds_over_runs(trial, summaries, capsys):
    folder = trial.folder / "benchmarks"
    folder.mkdir()
    for name, seconds in (("reindex.one", 10.2), ("reindex.two", 31.1), ("summary.cells", 2.0)):
        (folder / f"{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:10\t-\n")
    table.run(trial.folder)
    text = capsys.readouterr().out

    assert "41" in text
    assert "24 shots: 18 indexed" in re.sub(r"\s+", " ", text)
    assert "15 of 18 lattices accepted" in text


def test_warnings_come_first(summaries, tmp_path, capsys, monkeypatch):
    """On the page in a box above everything else, in the closing table above the stage's facts."""
    figures = json.loads(summaries["merge"].read_text())
    assert figures["warnings"] == []
    warning = StageWarning("the scales [still] move by", 1.25, 1.0001, "Look at merge.png.")
    (tmp_path / "merge.json").write_text(json.dumps(figures | {"warnings": [warning._asdict()]}))
    sentence = "the scales [still] move by: 1.25 (should be 1). Look at merge.png."
    assert warning.sentence() == sentence

    page.run([tmp_path / "merge.json"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "1 warning<" in text
    assert text.index("<h1>") < text.index(sentence) < text.index("observations of")

    monkeypatch.setenv("COLUMNS", "200")
    table.run(tmp_path)
    text = capsys.readouterr().out
    assert text.index(f"warning: {sentence}") < text.index("observations of")


def test_what_summaries_hold_is_text_and_no_page(summaries, tmp_path):
    figures = json.loads(summaries["merge"].read_text())
    script = "<script>alert(1)</script>"
    warning = StageWarning(script, script, script, script)._asdict()
    spoilt = {"software": script, "products": {script: script}, script: script}
    spoilt |= {"warnings": [warning]}
    (tmp_path / "merge.json").write_text(json.dumps(figures | spoilt))
    page.run([tmp_path / "merge.json"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6


@pytest.mark.chain
def test_the_page_needs_no_locale(summaries, tmp_path):
    (tmp_path / "merge.json").write_bytes(summaries["merge"].read_bytes())
    program = (
        "from pathlib import Path\n"
        "from spreadflow.report import page\n"
        "page.run([Path('merge.json')], Path('report.html'))\n"
    )
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | ascii_alone,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "report.html").read_text(encoding="utf-8").isascii()


def test_a_folder_without_summaries_is_said(tmp_path):
    with pytest.raises(FileError, match="summaries"):
        table.run(tmp_path)
    with pytest.raises(FileError, match="Run `spreadflow summary`"):
        page.run([tmp_path / "cells.json"], tmp_path / "report.html")
