"""`spreadflow manifest GLOB... --out FILE` describes a run's image files; with `--check` it
verifies those of FILE.
"""

import argparse
import sys
from pathlib import Path

from spreadflow.cli import detector_settings

GEOMETRY_HELP = "in place of the headers' geometry: a DIALS .expt or a CrystFEL .geom"
"""Help for `--geometry` of every word that has it."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("manifest", help="describe the image files of a run, or check them")
    images_help = (
        "image files (NXmx, CXI and other HDF5, CBF, SMV, locators of XTC); quote patterns to have "
        "them sorted here"
    )
    p.add_argument("images", nargs="*", metavar="GLOB", help=images_help)
    p.add_argument("--out", type=Path, required=True, help="the manifest")
    p.add_argument("--run", help="name of the run (default: the folder of --out)")
    offset_help = "pedestal (default: as the files state, else 0)"
    p.add_argument("--offset-adu", type=float, help=offset_help)
    gain_help = "gain (default: as the files state, else 1)"
    p.add_argument("--adu-per-photon", type=float, help=gain_help)
    polarization_help = "Kahn's K along the lab x axis (default: as the files state, else 1)"
    p.add_argument("--polarization", type=float, help=polarization_help)
    bandwidth_help = "relative FWHM of pulses without a spectrum (default: a single energy)"
    p.add_argument("--bandwidth", type=float, help=bandwidth_help)
    p.add_argument("--geometry", type=Path, metavar="FILE", help=GEOMETRY_HELP)
    mask_help = "HDF5 file with a dataset `mask`, non-zero = not to be used"
    p.add_argument("--mask", type=Path, help=mask_help)
    detector_settings.add_to(p)
    check_help = "verify sizes and checksums of the files of --out"
    p.add_argument("--check", action="store_true", help=check_help)
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Write a manifest, or check one."""
    from spreadflow.io import images

    if arguments.check:
        images.check_manifest(arguments.out)
        print(f"{arguments.out}: all files are as described")
        return
    manifest = images.write_manifest(
        arguments.out,
        arguments.run or arguments.out.absolute().parent.name,
        images.expand(arguments.images),
        offset_adu=arguments.offset_adu,
        adu_per_photon=arguments.adu_per_photon,
        polarization=arguments.polarization,
        bandwidth=arguments.bandwidth,
        geometry=arguments.geometry,
        mask=arguments.mask,
        settings=detector_settings.settings(arguments),
    )
    for remark in manifest.remarks:
        print(f"{arguments.out}: {remark}", file=sys.stderr)
    n_shots = sum(file.n_frames for file in manifest.files)
    print(f"{arguments.out}: {len(manifest.files)} files, {n_shots} shots")
