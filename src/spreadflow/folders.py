"""Folders of a machine: that of the user's caches, and the lowest one that exists."""

import os
from collections.abc import Mapping
from pathlib import Path


def user_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of the user's caches (XDG). environment: its variables. Raises RuntimeError
    where none is named and the user has no home.
    """
    named = environment.get("XDG_CACHE_HOME")
    return Path(named) if named else Path(environment.get("HOME") or Path.home(), ".cache")


def own_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder in which this package keeps what takes long to make anew, as `user_cache`
    does that of all.
    """
    return user_cache(environment) / "spreadflow"


def lowest_existing(path: Path | str) -> Path:
    """Return a path, or the lowest folder above it that exists."""
    absolute = Path(os.path.abspath(path))
    return next(one for one in (absolute, *absolute.parents) if os.path.exists(one))
