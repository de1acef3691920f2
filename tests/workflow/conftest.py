"""A trial whose stages are stand-ins, so that Snakemake's own records can be tested in seconds."""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from every_stage import EVERY_STAGE
from trials import AS_USERS

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent

Call = Callable[..., str]


@pytest.fixture(scope="session")
def call() -> Iterator[Call]:
    """`call(cwd, *argv, status=0)` runs Snakemake (imported once) and returns what it printed."""
    server = subprocess.Popen(
        [sys.executable, HERE / "forking_snakemake.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def snakemake(cwd: Path, *argv: str, status: int = 0) -> str:
        server.stdin.write(json.dumps({"cwd": str(cwd), "argv": [*map(str, argv)]}) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        assert answer["status"] == status, answer["output"]
        return answer["output"]

    yield snakemake
    server.stdin.close()
    server.wait(timeout=10)


class Trial:
    """A folder with a config and the workflow, run by stand-ins for the stages."""

    def __init__(self, folder: Path, call: Call, config: dict):
        self.folder = folder
        self._call = call
        folder.mkdir()
        for name in ("Snakefile", "workflow", "profiles"):
            (folder / name).symlink_to(REPOSITORY / name)
        self.write(config)

    def write(self, config: dict) -> None:
        self.config = config
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))

    def snakemake(self, *argv: str, status: int = 0) -> str:
        return self._call(self.folder, *argv, status=status)

    def finish(self, *argv: str) -> str:
        """Run everything there is to run, on one rank."""
        return self.snakemake(
            "--cores", "1", "--default-resources", f"container={HERE / 'stub'}", *argv
        )

    def pending(self, *argv: str) -> set[str]:
        """Return the jobs that a run would do: `rule`, `rule run` or `summary stage`."""
        output = self.snakemake("--dry-run", *argv)
        jobs = set()
        for block in re.split(r"\n(?=(?:local)?rule )", output)[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", block).group(1)
            wildcard = re.search(r"\n    wildcards: \w+=(\S+)", block)
            jobs.add(f"{rule} {wildcard.group(1)}" if wildcard else rule)
        return jobs - {"all", "whole"}


SMALL = {
    "trial": "t",
    "runs": {"r1": {"simulate": {"n_single": 2}}, "r2": {"simulate": {"n_single": 2}}},
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory, call) -> Trial:
    """Two simulated runs, everything finished."""
    trial = Trial(tmp_path_factory.mktemp("workflow") / "finished", call, SMALL)
    trial.finish()
    return trial


@pytest.fixture(scope="session")
def whole_trial(tmp_path_factory, call) -> Trial:
    """A trial with every stage; nothing has run yet."""
    trial = Trial(tmp_path_factory.mktemp("workflow") / "whole", call, EVERY_STAGE)
    (trial.folder / "two.txt").touch()
    return trial


@pytest.fixture
def new_trial(tmp_path, call) -> Callable[..., Trial]:
    """`new_trial(config, name="trial")`: nothing has run yet. name: of its folder."""
    return lambda config, name="trial": Trial(tmp_path / name, call, config)


def run_chain(folder: Path, config: str, *argv: str, cores: int = 1, seconds: int = 600) -> str:
    """The real workflow in a folder of its own. Returns Snakemake's words.

    config: of config/<config>.yaml, or an absolute path without its suffix; cores: as many ranks
    has a stage, each of which compiles all that the stage needs.
    """
    command = [
        Path(sys.prefix, "bin", "snakemake"),
        "--snakefile",
        REPOSITORY / "Snakefile",
        "--cores",
        str(cores),
    ]
    command += [
        *argv,
        "--configfile",
        REPOSITORY / "config" / f"{config}.yaml",
    ]  # which takes all words after it
    completed = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        env=AS_USERS,
    )
    assert completed.returncode == 0, completed.stderr[-6000:]
    return completed.stdout + completed.stderr


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory) -> Path:
    """The tiny trial, finished with two local ranks: the folder that holds `data` and `results`.

    It is run once: a second worker waits for the first one's.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "tiny"
    finished = root / "tiny.finished"
    with open(root / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            folder.mkdir(exist_ok=True)
            run_chain(folder, "tiny", cores=2)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def chain() -> Callable[..., str]:
    return run_chain
