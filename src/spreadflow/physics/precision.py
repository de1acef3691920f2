"""Importing this module sets JAX up, for CPUs and devices alike: float64 on, products of float32
with all their bits, compiled programs cached on disk, memory of a device taken when it is needed,
one thread per rank respected.

By itself JAX lets the devices of NVIDIA round the factors of float32 to 10 bits (TF32), and takes
most of a device's memory at its start. But other ranks may share it, and other jobs as well, of
which none of them knows.
"""

import os

import jax

from spreadflow.folders import own_cache

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(own_cache(os.environ) / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before the first array
