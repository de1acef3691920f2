"""What the jobs of a trial ask for under a profile, read without Snakemake."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spreadflow.config import Config, read
from spreadflow.doctor.host import Host
from spreadflow.doctor.jobs import Job, job
from spreadflow.errors import ConfigError
from spreadflow.trial import BY_WORD, wanted
from spreadflow.trial.commands import most_ranks

FOLDER = Path("profiles")
"""Where profiles lie, in the folder of the workflow."""


def read_profile(name: str) -> dict[str, Any]:
    """Return the keys of a profile. name: of a folder in `profiles`, or the folder. Raises
    ConfigError.
    """
    folders = [folder for folder in (FOLDER / name, Path(name)) if folder.is_dir()]
    paths = [folder / "config.yaml" for folder in folders]
    for path in paths:
        if path.is_file():
            return read(path)
    there = ", ".join(sorted(path.parent.name for path in FOLDER.glob("*/config.yaml")))
    todo = "Call this in the folder of the workflow."
    raise ConfigError("--profile", f"a profile (there are: {there or 'none'})", name, todo)


def _resources(value: Mapping[str, Any] | list[str] | None) -> dict[str, Any]:
    """Return resources as a mapping: a profile may have a list of NAME=VALUE instead."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs = [text.partition("=") for text in value or []]
    return {name: resource for name, _, resource in pairs}


def jobs(config: Config, profile: Mapping[str, Any], host: Host) -> list[Job]:
    """Return what the jobs of all stages of a trial ask for."""
    defaults = _resources(profile.get("default-resources"))
    changes = profile.get("set-resources") or {}
    is_here = profile.get("executor", "local") == "local"
    cores = min(len(os.sched_getaffinity(0)), most_ranks(host.launcher))
    trial = []
    for word in wanted(config):
        ranks = cores if BY_WORD[word].is_parallel else 1
        own = {"mpi": host.launcher, "tasks": ranks}
        trial.append(job(word, defaults | own | _resources(changes.get(word)), is_here))
    return trial
