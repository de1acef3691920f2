"""One source of versions: pyproject → locks → environment and images; an image that is built."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import same
from spreadflow.trial.machines import MACHINES

REPOSITORY = Path(__file__).parents[2]
CONTAINERS = REPOSITORY / "containers"
RECIPES = sorted([*CONTAINERS.glob("*.Dockerfile"), *CONTAINERS.glob("*.def")])
LOCK_OF = {
    "cpu": "requirements.lock",
    "cuda": "requirements-cuda.lock",
    "rocm": "requirements-rocm.lock",
}
"""The lock of each image."""


def _pins(name: str) -> list[Requirement]:
    """Return the requirements of a lock file."""
    text = (REPOSITORY / name).read_text()
    assert "://" not in text, "a lock holds no addresses"
    entries = re.split(r"\n(?=\S)", text.replace("\\\n", " "))
    assert all("--hash=sha256:" in entry for entry in entries if entry.strip()), (
        "every package has its hashes"
    )
    return [Requirement(entry.split(" --hash")[0].strip()) for entry in entries if entry.strip()]


def _lock(name: str) -> dict[str, Requirement]:
    """Return the requirements of a lock file by package."""
    return {_canonical(pin.name): pin for pin in _pins(name)}


def _canonical(name: str) -> str:
    """Return the name of a package as locks spell it."""
    return name.lower().replace("_", "-")


def _in_images(name: str) -> dict[str, str]:
    """Return package → version of a lock file, as Python 3.11 of an image takes them."""
    python = {"python_version": "3.11", "python_full_version": "3.11.2"}
    return {
        _canonical(pin.name): str(pin.specifier).removeprefix("==")
        for pin in _pins(name)
        if pin.marker is None or pin.marker.evaluate(python)
    }


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


@pytest.mark.parametrize("device", ["cuda", "rocm"])
def test_locks_of_devices_add_jax_plugins_alone(device):
    """Else a device would compute with other packages than the tests do."""
    pins = [str(pin) for pin in _pins(LOCK_OF[device])]
    assert [str(pin) for pin in _pins("requirements.lock") if str(pin) not in pins] == []

    added = _in_images(LOCK_OF[device]).keys() - _in_images("requirements.lock").keys()
    plugins = {name for name in added if name.startswith(f"jax-{device}")}
    assert len(plugins) == 2
    assert all(name.startswith("nvidia-") for name in added - plugins)

    packages = _in_images(LOCK_OF[device])
    assert {packages[name] for name in plugins} == {packages["jax"]}
    assert _missing(PROJECT["project"]["optional-dependencies"][device], RUNTIME) == []


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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipes_install_only_their_lock(recipe):
    text = recipe.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    lock = LOCK_OF[recipe.stem]
    assert re.findall(r"sh containers/install\.sh (\S+)$", code, re.M) == [lock]
    assert set(re.findall(r"requirements\S*\.lock", code)) == {lock}
    assert not re.search(r"\b(pip|conda|apt-get|apt|dnf)\b", code), (
        "packages come from scripts alone"
    )
    assert "://" not in code
    scripts = set(re.findall(r"(?<=\bsh )containers/\S+", code))
    copies = re.sub(r"^\s*(RUN )?sh .*$", "", code, flags=re.M)
    for copied in (lock, "pyproject.toml", "README.md", "LICENSE", "src", *scripts):
        assert copied in copies
        assert (REPOSITORY / copied).exists()


def test_all_recipes_start_from_the_same_image():
    bases = {
        re.search(r"^(?:ARG BASE=|From: )(\S+)$", recipe.read_text(), re.M).group(1)
        for recipe in RECIPES
    }
    assert len(bases) == 1
    major_minor = re.search(r"python:(\d+\.\d+)", bases.pop()).group(1)
    assert major_minor in PROJECT["project"]["requires-python"]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_image_of_a_profile_has_a_recipe(machine):
    """Apptainer's is a file, the others' a tag."""
    images = re.findall(r"spreadflow([:-])(\w+)", machine.container)
    assert len(images) == bool(machine.container)
    for mark, name in images:
        assert CONTAINERS / f"{name}{'.Dockerfile' if mark == ':' else '.def'}" in RECIPES


def test_install_uses_hashes_and_nothing_else():
    lines = [
        line
        for line in (CONTAINERS / "install.sh").read_text().splitlines()
        if "pip install" in line
    ]

    assert len(lines) == 2
    assert lines[0].endswith('--require-hashes -r "$lock"')
    assert "--no-deps --no-build-isolation ." in lines[1]


def prefix(root: Path, folder: Path, programs: str) -> str:
    """Return the prefix of a command that runs it in the files below `root`, read-only, and in a
    folder of the host. programs: where they are found.
    """
    words = ["bwrap", "--ro-bind", root, "/", "--bind", folder, folder]
    words += ["--dev-bind", "/dev", "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys"]
    words += ["--setenv", "PATH", programs, "--unsetenv", "PYTHONPATH"]
    words += ["--setenv", "XDG_CACHE_HOME", folder / "cache"]
    return shlex.join(map(str, words))


REFUSED = "found rank 1 of 2"
"""What a stage says that was to have one rank, of a launcher of two."""


@pytest.mark.chain
def test_ranks_know_each_other_from_container_to_container(tmp_path):
    """The launcher outside, each rank in a container of its own that holds this environment."""
    programs = f"{sys.prefix}/bin:/usr/bin:/bin"
    container = shlex.split(prefix(Path("/"), tmp_path, programs))
    if shutil.which("bwrap") is None or subprocess.run([*container, "true"]).returncode:
        pytest.skip("no containers here: bwrap is missing or may not make any")

    config = tmp_path / "config.yaml"
    config.write_text("trial: t\n")
    stage = ["spreadflow", "cells", "--config", config, "--reindex", "x.h5", "--out", "y.h5"]
    launcher = Path(sys.prefix, "bin", "mpiexec")
    command = [*map(str, [launcher, "-n", 2, *container, *stage, "--ranks"])]
    two, one = (
        subprocess.run([*command, ranks], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        for ranks in ("2", "1")
    )
    assert two.returncode == 4, two.stderr  # it gets as far as its input
    assert one.returncode == 5, one.stderr
    assert REFUSED in one.stderr


BUILDERS = ("buildah", "debootstrap", "bwrap")
"""Programs that building an image without Docker and entering it takes."""


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """The files of the CPU image, built from this checkout."""
    missing = [program for program in BUILDERS if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"no image is built here: {', '.join(missing) or 'root'} is missing")
    completed = subprocess.run(
        ["sh", CONTAINERS / "build.sh", "cpu"], capture_output=True, text=True, timeout=1200
    )
    assert completed.returncode == 0, completed.stderr[-5000:]
    yield Path(completed.stdout.strip())
    subprocess.run(["buildah", "rm", "spreadflow-cpu"], capture_output=True, check=True)


@pytest.mark.long
def test_an_image_holds_its_lock_and_lists_it(image):
    lines = (image / "opt/spreadflow/packages.txt").read_text().split()
    packages = {_canonical(name): number for name, _, number in (x.partition("==") for x in lines)}
    assert packages.pop("spreadflow") == PROJECT["project"]["version"]

    packages = {name: packages[name] for name in packages.keys() - {"pip", "setuptools"}}
    assert packages == _in_images("requirements.lock")
    assert "libc6" in (image / "opt/spreadflow/system-packages.txt").read_text()


@pytest.mark.long
def test_the_tiny_chain_in_an_image(image, tiny_chain, chain, tmp_path):
    """On two ranks, by the container of a profile: the same numbers as without, bit for bit."""
    work = tmp_path / "work"
    work.mkdir()
    (image / tmp_path.relative_to("/")).mkdir(parents=True, exist_ok=True)
    container = prefix(image, tmp_path, "/usr/local/bin:/usr/bin:/bin")
    profile = tmp_path / "profile" / "config.yaml"
    profile.parent.mkdir()
    profile.write_text(yaml.safe_dump({"default-resources": {"container": container}}))

    words = ["--printshellcmds", "--workflow-profile", str(profile.parent)]
    output = chain(work, "tiny", *words, cores=2, seconds=1800)
    commands = [line for line in output.splitlines() if " spreadflow " in line]
    assert [line for line in commands if container not in line] == []
    assert sum(f"mpiexec -n 2 {container}" in line for line in commands) > 5

    differences, n_compared = same.compare(tiny_chain, work, same.Renamed({}))
    assert differences == []
    assert n_compared > 1000
