"""Pixels → parameters. Pure functions; may call physics; no files, MPI, config or logging."""
