"""The laboratory: what the tests of physics, analysis, recipes and stages share.

`cached` makes expensive fixtures once. What they return is kept on disk under a digest of the
modules that they come from: it is made again where one of these was edited, and all workers share
it.
"""

import ast
import hashlib
import importlib.util
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import tiers
from spreadflow.folders import own_cache

if TYPE_CHECKING:
    from spreadflow.config import SimulateConfig

REPOSITORY = Path(__file__).parent.parent
SOURCE = REPOSITORY / "src"

Value = TypeVar("Value")

TRICLINIC = {
    "crystal": {
        "cell": [40.0, 36.0, 30.0, 80.0, 108.0, 95.0],
        "space_group": "P 1",
        "domain_ang": 1200.0,
    },
    "structure_factors": {"d_min": 2.0},
    "detector": {
        "shape": [180, 200],
        "pixel_mm": 0.3,
        "panels": [
            {"origin_mm": [-61.0, 28.0, -60.0]},
            {"origin_mm": [1.0, 27.0, -60.5], "fast": [1.0, 0.02, 0.01]},
        ],
        "water_mm": 0.002,
        "air_mm": 1.0,
        "bad_pixels": [[1, 60, 80, 0, 200]],
    },
}
"""Sections of a triclinic crystal on two panels, one of them turned."""


def simulation_of(tree: dict, changes: dict[str, dict]) -> "SimulateConfig":
    """Return the configuration of `simulate` for the run `r` of a trial's configuration.

    changes: by section, the keys that replace those of `tree`.
    """
    from spreadflow.config import for_stage, parse, section

    changed = {
        name: keys | changes.get(name, {}) if isinstance(keys, dict) else keys
        for name, keys in ({section: {} for section in changes} | tree).items()
    }
    return for_stage(section(parse(changed), "simulate", "r"), "simulate")


def benchmark(name: str) -> ModuleType:
    """Return a benchmark as a module."""
    path = REPOSITORY / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def cache_folder() -> Path:
    """Return the folder that fixtures are kept in, beside JAX's compiled programs."""
    return own_cache(os.environ) / "fixtures"


def path_of(module: str) -> Path | None:
    """Return the file of a module of the package, or None where no module has this name."""
    base = SOURCE / module.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("spreadflow") and path_of(name)}


@cache
def modules_below(module: str) -> frozenset[str]:
    """Return a module and all that it imports, directly or not."""
    reached: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        path = path_of(name)
        assert path is not None, f"no module {name}"
        waiting |= imports_of(path) - reached
    return frozenset(reached)


def digest_of(*modules: str, also: str = "") -> str:
    """Return a digest of the text of modules and of all that they import, 16 hexadecimal digits.

    also: settings that change the result.
    """
    names = sorted(set().union(*map(modules_below, modules)))
    text = hashlib.sha256(also.encode())
    for name in names:
        text.update(path_of(name).read_bytes())
    return text.hexdigest()[:16]


def cached(name: str, make: Callable[[], Value], *modules: str, also: str = "") -> Value:
    """Return what `make` returns, from disk where the same modules made it before.

    The time to make it does not count as time of the test that asks first. name: of the file;
    modules: names of the modules whose code decides the result; also: text that decides it too,
    that of the fixture's own file among it. The value must survive pickling.
    """
    path = cache_folder() / f"{name}-{digest_of(*modules, also=also)}.pickle"
    if path.is_file():
        return pickle.loads(path.read_bytes())
    start = time.perf_counter()
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(pickle.dumps(value))
    temporary.replace(path)
    tiers.excuse(time.perf_counter() - start)
    return value


def cached_folder(name: str, make: Callable[[Path], None], *modules: str, also: str = "") -> Path:
    """Return a folder that `make` fills, from the cache where the same modules filled it before.

    Nobody writes to the folder afterwards.

    The arguments are those of `cached`.
    """
    folder = cache_folder() / f"{name}-{digest_of(*modules, also=also)}"
    if folder.is_dir():
        return folder
    start = time.perf_counter()
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    make(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # another worker was faster
        shutil.rmtree(temporary)
    tiers.excuse(time.perf_counter() - start)
    return folder
