"""One source of versions: pyproject → locks → environment and images."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
CONTAINERS = REPOSITORY / "containers"


def _lock(name: str) -> dict[str, Requirement]:
    """Return the requirements of a lock file by package."""
    text = (REPOSITORY / name).read_text()
    assert "://" not in text, "a lock holds no addresses"
    entries = re.split(r"\n(?=\S)", text.replace("\\\n", " "))
    assert all("--hash=sha256:" in entry for entry in entries if entry.strip()), (
        "every package has its hashes"
    )
    pins = [Requirement(entry.split(" --hash")[0].strip()) for entry in entries if entry.strip()]
    return {pin.name.lower().replace("_", "-"): pin for pin in pins}


RUNTIME = _lock("requirements.lock")
DEV = _lock("requirements-dev.lock")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def _missing(wanted: list[str], lock: dict[str, Requirement]) -> list[str]:
    requirements = [Requirement(text) for text in wanted]
    pins = {r.name: lock.get(r.name.lower().replace("_", "-")) for r in requirements}
    return [
        str(r)
        for r in requirements
        if pins[r.name] is None
        or not r.specifier.contains(str(pins[r.name].specifier).removeprefix("=="))
    ]


def test_locks_satisfy_the_project():
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    runtime = [
        *project["dependencies"],
        *extras["mpi"],
        *extras["slurm"],
        *PROJECT["build-system"]["requires"],
    ]

    assert _missing(runtime, RUNTIME) == [], "run `make lock`"
    assert _missing(extras["dev"], DEV) == [], "run `make lock`"


def test_the_dev_lock_extends_the_runtime_lock():
    assert {name: str(DEV.get(name)) for name in RUNTIME} == {
        name: str(pin) for name, pin in RUNTIME.items()
    }


def test_this_environment_is_the_lock():
    pins = {
        name: str(pin.specifier)
        for name, pin in DEV.items()
        if pin.marker is None or pin.marker.evaluate()
    }
    found = {name: f"=={version(name)}" for name in pins}
    assert found == pins


def test_dockerfile_lint():
    hadolint = Path(sys.prefix, "bin", "hadolint")
    completed = subprocess.run(
        [hadolint, *CONTAINERS.glob("*.Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize(
    "recipe", sorted([*CONTAINERS.glob("*.Dockerfile"), *CONTAINERS.glob("*.def")]), ids=str
)
def test_recipes_install_only_the_lock(recipe):
    text = recipe.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "sh containers/install.sh" in code
    assert not re.search(r"\b(pip|conda|apt-get|apt|dnf)\b", code), (
        "packages come from install.sh alone"
    )
    assert "requirements.lock" in code
    assert "://" not in code
    for copied in (
        "requirements.lock",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "src",
        "containers/install.sh",
    ):
        assert copied in code
        assert (REPOSITORY / copied).exists()


def test_recipes_start_from_the_same_image():
    bases = {re.search(r"^(?:FROM|From:) (\S+)$", recipe.read_text(), re.M).group(1)
             for recipe in (CONTAINERS / "cpu.Dockerfile", CONTAINERS / "cpu.def")}  # fmt: skip
    assert len(bases) == 1
    major_minor = re.search(r"python:(\d+\.\d+)", bases.pop()).group(1)
    assert major_minor in PROJECT["project"]["requires-python"]


def test_install_uses_hashes_and_nothing_else():
    lines = [
        line
        for line in (CONTAINERS / "install.sh").read_text().splitlines()
        if "pip install" in line
    ]

    assert len(lines) == 2
    assert lines[0].endswith("--require-hashes -r requirements.lock")
    assert "--no-deps --no-build-isolation ." in lines[1]
