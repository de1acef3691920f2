"""Spatially resolved anomalous dispersion from XFEL stills."""

__version__ = "0.1.0"
