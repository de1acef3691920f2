"""Importing this module sets JAX up: float64 on, compiled programs cached on disk, one thread per
rank respected.
"""

import os
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spreadflow" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
