"""Workflows that are killed, interrupted or started twice in one folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.chain

REPOSITORY = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.prefix) / "bin" / "snakemake"
WAITING = "#!/bin/bash\ntouch started\nexec sleep 60\n"


def _until(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait for a file that a process makes."""
    ends = time.monotonic() + seconds
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None and time.monotonic() < ends, f"no {path}"
        time.sleep(0.05)


def _started(folder: Path, *words: object) -> subprocess.Popen:
    """Start Snakemake in a folder, in a group of processes of its own."""
    command = [*map(str, [SNAKEMAKE, *words])]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )


def test_a_second_workflow_is_refused_and_a_killed_one_is_unlocked(new_trial, tmp_path):
    trial = new_trial({"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}})
    waiting = tmp_path / "waiting"
    waiting.write_text(WAITING)
    waiting.chmod(0o755)
    resource = f"container={waiting}"
    words = ["--cores", 1, "--default-resources", resource, "--", "data/r/manifest.json"]
    first = _started(trial.folder, *words)
    try:
        _until(trial.folder / "started", first)
        assert "LockException" in trial.snakemake("--cores", "1", status=1)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()

    assert "LockException" in trial.snakemake("--cores", "1", status=1)
    trial.snakemake("--unlock")
    trial.finish("--rerun-incomplete")
    assert (trial.folder / "results/t/report.html").exists()


@pytest.mark.long
def test_ctrl_c_ends_all_ranks_and_keeps_what_is_finished(tmp_path):
    shutil.copy(REPOSITORY / "config" / "tiny.yaml", tmp_path / "tiny.yaml")
    words = ["--snakefile", REPOSITORY / "Snakefile", "--cores", 2, "--rerun-incomplete"]
    words += ["--config", "simulate={block_shots: 1}", "--configfile", "tiny.yaml"]
    words += ["--", "data/tiny/manifest.json"]
    process = _started(tmp_path, *words)
    images = tmp_path / "data" / "tiny" / "images"
    _until(images / "*.nxs", process, seconds=400)
    finished = {path: path.stat().st_mtime_ns for path in images.glob("*.nxs")}

    os.killpg(process.pid, signal.SIGINT)
    try:
        assert process.wait(60) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no rank is left

    assert _started(tmp_path, *words).wait(400) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())
