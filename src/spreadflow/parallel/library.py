"""Which MPI library there is, asked without starting MPI."""


def version() -> dict[str, str]:
    """Return the version of mpi4py, and what the MPI library that it takes says of itself. Raises
    ImportError, OSError or RuntimeError where either can't be loaded.
    """
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return {"mpi4py": mpi4py.__version__, "version": MPI.Get_library_version().strip("\0\n ")}
