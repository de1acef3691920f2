# Image for NVIDIA's GPUs: the locked packages, CUDA 12 among them, and this checkout. The driver is the host's.
# Build from the root of the checkout:
#   docker build -f containers/cuda.Dockerfile -t spreadflow:cuda .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

WORKDIR /opt/spreadflow
COPY requirements-cuda.lock pyproject.toml README.md LICENSE ./
COPY src ./src
COPY containers/install.sh ./containers/install.sh
RUN sh containers/install.sh requirements-cuda.lock

# Caches (JAX, Numba, matplotlib) must not go to a home that may be read-only on compute nodes.
ENV XDG_CACHE_HOME=/tmp/spreadflow-cache MPLCONFIGDIR=/tmp/spreadflow-cache/matplotlib

CMD ["spreadflow", "--help"]
