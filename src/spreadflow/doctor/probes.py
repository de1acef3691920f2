"""What is really run: `python -m spreadflow.doctor.probes NAME` prints what it found out, as JSON.

Each probe imports what it tries, and no more.
"""

import json
import sys
import time

N_RANKS = 2
"""Ranks of the probe `ranks`."""


def library() -> dict[str, str]:
    """Return which MPI library mpi4py takes."""
    from spreadflow.parallel import library

    return library.version()


def ranks() -> dict[str, float] | None:
    """Add up arrays of two ranks, as stages do. Returns the seconds to the first rank alone. Ends
    all ranks with a RanksError where there are not two.
    """
    import numpy as np

    from spreadflow.parallel import ending_together

    with ending_together("doctor", N_RANKS) as world:
        start = time.perf_counter()
        total = world.total(np.full(1000, world.rank + 1.0))
        assert (total == N_RANKS * (N_RANKS + 1) / 2).all(), f"a sum is {total[0]}"
        return {"seconds": time.perf_counter() - start} if world.rank == 0 else None


def devices() -> dict[str, object]:
    """Return the devices of JAX, and the seconds that compiling a function for the first of them
    took.
    """
    import jax
    import jax.numpy as jnp

    from spreadflow.physics import precision  # noqa: F401 (sets JAX up, with its cache)

    start = time.perf_counter()
    value = jax.jit(lambda x: jnp.sum(x * x))(jnp.arange(1000.0))
    assert value.dtype == jnp.float64 and float(value) == 332_833_500.0, f"a sum is {value}"
    return {
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "kind": jax.local_devices()[0].device_kind,
        "n_devices": jax.local_device_count(),
        "seconds": time.perf_counter() - start,
    }


def filters() -> dict[str, str]:
    """Write and read a dataset compressed as products and images are; in memory."""
    import h5py
    import numpy as np

    from spreadflow.io.datasets import COMPRESSION

    data = np.arange(10_000)
    with h5py.File("probe.h5", "w", driver="core", backing_store=False, locking=False) as file:
        file.create_dataset("data", data=data, chunks=data.shape, **COMPRESSION)
        assert (file["data"][:] == data).all(), "numbers are not those that were written"
    return {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}


PROBES = {probe.__name__: probe for probe in (library, ranks, devices, filters)}
"""The probes by name."""


if __name__ == "__main__":
    figures = PROBES[sys.argv[1]]()
    if figures is not None:
        print(json.dumps(figures))
