# Image for AMD's GPUs: ROCm's libraries, the locked packages and this checkout. The driver is the host's.
# Build from the root of the checkout:
#   docker build -f containers/rocm.Dockerfile -t spreadflow:rocm .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

WORKDIR /opt/spreadflow
COPY requirements-rocm.lock pyproject.toml README.md LICENSE ./
COPY src ./src
COPY containers/install.sh containers/rocm.sh ./containers/
RUN sh containers/rocm.sh && sh containers/install.sh requirements-rocm.lock

# Caches (JAX, Numba, matplotlib) must not go to a home that may be read-only on compute nodes.
ENV XDG_CACHE_HOME=/tmp/spreadflow-cache MPLCONFIGDIR=/tmp/spreadflow-cache/matplotlib

CMD ["spreadflow", "--help"]
