"""On how many threads a process computes. Imports nothing: it is asked before all else."""

THREAD_CAPS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
"""Variables that say on how many threads a process computes: OpenMP, BLAS, and XLA."""
