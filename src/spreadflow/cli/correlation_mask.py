"""`spreadflow correlate mask ...`: masks and colours to begin with, and arrays as images."""

import argparse
from pathlib import Path


def add_to(tools: argparse._SubParsersAction) -> None:
    """Add the tool to those of `correlate`."""
    p = tools.add_parser("mask", help="masks and colours to begin with, and arrays as images")
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")
    start_help = "write the mean of some shots, a mask, one for tests, and colours"
    _add_start(actions.add_parser("start", help=start_help))
    for name, other in (("image", "array"), ("array", "image")):
        one = actions.add_parser(name, help=f"turn an {other} into an {name}, and draw it")
        one.add_argument("file", type=Path, metavar=other.upper(), help=f"the {other}, .npy")
        base_help = "--out of `start`, which wrote the map between the two"
        one.add_argument("--map", type=Path, required=True, metavar="NAME", help=base_help)
        one.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"the {name}")
        one.set_defaults(do=convert)


def _add_start(p: argparse.ArgumentParser) -> None:
    """Add the options of `start`."""
    config_help = "YAML with a section `correlate`, or a Python file of ParCorAna"
    p.add_argument("-c", "--config", required=True, help=config_help)
    images_help = "a manifest, for a run of a trial"
    p.add_argument("--images", type=Path, metavar="MANIFEST", help=images_help)
    out_help = "beginning of the names of what is written"
    p.add_argument("--out", type=Path, required=True, metavar="NAME", help=out_help)
    shots_help = "shots that the mean is of, at most (default 300)"
    p.add_argument("--shots", type=int, default=300, metavar="N", help=shots_help)
    p.add_argument("--colours", type=int, default=6, metavar="N", help="colours (default 6)")
    fine_help = "fine colours (default 18)"
    p.add_argument("--fine-colours", type=int, default=18, metavar="N", help=fine_help)
    by_help = "rings of equal width in q, or as many pixels each in the order of their intensity"
    p.add_argument("--by", choices=["q", "intensity"], help=f"{by_help} (default: q if known)")
    range_help = "of the rings, Å⁻¹ (default: of all pixels)"
    p.add_argument("--q-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=range_help)
    geometry_help = ".geom or .expt (default: that in the images, if they have one)"
    p.add_argument("--geometry", type=Path, metavar="FILE", help=geometry_help)
    energy_help = "of the photons (default: that in the images)"
    p.add_argument("--energy-ev", type=float, metavar="EV", help=energy_help)
    mask_help = "pixels that may be used: .npy (1 = may) or a mask of `spreadflow mask`"
    p.add_argument("--mask", type=Path, metavar="FILE", help=mask_help)
    test_help = "pixels of the mask for tests (default 10)"
    p.add_argument("--test-pixels", type=int, default=10, metavar="N", help=test_help)
    p.add_argument("-f", "--force", action="store_true", help="replace files of these names")
    p.set_defaults(do=start)


def start(arguments: argparse.Namespace) -> None:
    """Write masks and colours with their picture, and say how to use them."""
    from spreadflow.cli.correlate import configured
    from spreadflow.log import Progress
    from spreadflow.parallel import World
    from spreadflow.report import correlation_mask as report
    from spreadflow.stages import correlation_mask as stage

    request = stage.Request(
        section=configured(arguments.config, {}, images=arguments.images).section,
        images=arguments.images,
        out=arguments.out,
        n_shots=arguments.shots,
        n_colours=arguments.colours,
        n_fine_colours=arguments.fine_colours,
        by=arguments.by,
        q_range=None if arguments.q_range is None else tuple(arguments.q_range),
        geometry=arguments.geometry,
        energy_ev=arguments.energy_ev,
        mask=arguments.mask,
        n_test_pixels=arguments.test_pixels,
        is_replacing=arguments.force,
    )
    with Progress("correlate mask", arguments.shots, World(), "shots") as progress:
        written = stage.start(request, progress.at)
    report.draw(written.arrays, arguments.out.name, stage.pictured(arguments.out))
    keys = {key: stage.named(arguments.out, key) for key in stage.ARRAYS[1:]}
    print("\n".join(report.text(written.figures, arguments.out, keys)))


def convert(arguments: argparse.Namespace) -> None:
    """Write an array as an image, or an image as an array, and its picture."""
    from spreadflow.io.colours import write_array
    from spreadflow.report import correlation_mask as report
    from spreadflow.stages import correlation_mask as stage

    turned = stage.to_image if arguments.action == "image" else stage.to_array
    array = turned(arguments.file, arguments.map)
    write_array(arguments.out, array)
    report.draw_array(array, arguments.out.name, arguments.out.with_suffix(".png"))
