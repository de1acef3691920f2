"""Parameters → photons. Pure functions; no files, MPI, config or logging."""
