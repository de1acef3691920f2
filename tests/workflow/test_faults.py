"""Workflows that are killed, interrupted or started twice in one folder; clocks that are wrong,
folders that are shared or linked.
"""

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
STUB = Path(__file__).with_name("stub")
WAITING = "#!/bin/bash\ntouch started\nexec sleep 60\n"
HELD = f"#!/bin/bash\ntouch started\nwhile [ ! -e go ]; do sleep 0.05; done\n'{STUB}' \"$@\"\n"
"""A stage that ends when it may."""

TRIAL = {"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}}
FIRST_STAGES = ("--", "level0")
"""Words for Snakemake: no more than is needed, simulate, index and level0."""

HOUR_S = 3600.0


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
    trial = new_trial(TRIAL)
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


def test_a_workflow_that_is_terminated_ends_its_jobs_and_goes_on_later(new_trial, tmp_path):
    trial = new_trial(TRIAL)
    held = tmp_path / "held"
    held.write_text(HELD)
    held.chmod(0o755)
    first = _started(trial.folder, "--cores", 1, "--default-resources", f"container={held}")
    try:
        _until(trial.folder / "started", first)
        os.kill(first.pid, signal.SIGTERM)
        (trial.folder / "go").touch()
        first.wait(60)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    manifest = trial.folder / "data/r/manifest.json"
    at = manifest.stat().st_mtime_ns
    assert not (trial.folder / "results/t/r/index.h5").exists()

    trial.finish(*FIRST_STAGES)
    assert manifest.stat().st_mtime_ns == at
    assert (trial.folder / "results/t/level0.expt").exists()


def _shift(path: Path, seconds: float) -> None:
    """Give a file a time that is later by so much."""
    at = path.stat().st_mtime + seconds
    os.utime(path, (at, at))


def test_a_clock_that_was_ahead_is_named_and_costs_nothing(new_trial, tmp_path):
    """The manifest of a run comes from a machine whose clock is an hour ahead."""
    recorded = tmp_path / "manifest.json"
    recorded.write_text("{}")
    target = {"cell": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0], "space_group": "C 1 2 1"}
    trial = new_trial({"trial": "t", "runs": {"r": {"images": str(recorded)}}, "index": target})
    _shift(recorded, HOUR_S)
    output = trial.snakemake("--cores", "1", "--default-resources", f"container={STUB}", status=1)
    assert "clock skew" in output
    assert str(recorded) in output

    _shift(recorded, -HOUR_S)
    trial.finish(*FIRST_STAGES)
    assert trial.pending(*FIRST_STAGES) == set()


def test_a_clock_that_was_behind_reruns_no_job_whose_inputs_are_the_same(new_trial):
    """The products lie an hour before the images that they were made from."""
    trial = new_trial(TRIAL)
    trial.finish(*FIRST_STAGES)
    for path in (trial.folder / "results").rglob("*"):
        _shift(path, -HOUR_S)
    assert trial.pending(*FIRST_STAGES) == set()


def test_trials_share_images_that_are_made_once(new_trial):
    trial = new_trial(TRIAL)
    trial.finish(*FIRST_STAGES)
    trial.write(TRIAL | {"trial": "other"})
    jobs = trial.pending()
    assert "index r" in jobs
    assert "simulate r" not in jobs


def test_folders_may_be_links(new_trial, tmp_path):
    trial = new_trial(TRIAL)
    for name in ("data", "results"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        (trial.folder / name).symlink_to(tmp_path / "elsewhere" / name)
    trial.finish(*FIRST_STAGES)
    assert (tmp_path / "elsewhere/results/t/level0.expt").exists()
    assert trial.pending(*FIRST_STAGES) == set()


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
