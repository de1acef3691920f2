"""`spreadflow mask RUN|MANIFEST`: the pixels of a run that can't be used, offered as a mask."""

import argparse
from pathlib import Path


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("mask", help="find dead, hot and noisy pixels and shadows of a run")
    run_help = "a manifest, or the name of a run of --config"
    p.add_argument("run", metavar="RUN|MANIFEST", help=run_help)
    config_help = "YAML files in which RUN is, later ones over earlier ones"
    p.add_argument("--config", type=Path, nargs="+", default=[], help=config_help)
    shots_help = "that are looked at, at most, evenly chosen (default 100)"
    p.add_argument("--shots", type=_positive, default=100, metavar="N", help=shots_help)
    edge_help = "leave out so many pixels along the edges of panels (default 0)"
    p.add_argument("--edge", type=_whole, default=0, metavar="N", help=edge_help)
    out_help = "the mask; a JSON and a PNG lie beside it (default mask.h5)"
    p.add_argument("--out", type=Path, default=Path("mask.h5"), help=out_help)
    p.set_defaults(do=run)


def _whole(text: str) -> int:
    """Return a number from 0. Raises ValueError."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _positive(text: str) -> int:
    """Return a number from 1. Raises ValueError."""
    number = _whole(text)
    if number == 0:
        raise ValueError
    return number


def run(arguments: argparse.Namespace) -> None:
    """Write a mask with its figures and picture, and say what was found and how to use it."""
    from spreadflow.log import Progress
    from spreadflow.parallel import World
    from spreadflow.report import mask as report
    from spreadflow.stages import mask

    manifest = _manifest(arguments.run, arguments.config)
    request = mask.Request(manifest, arguments.shots, arguments.edge, arguments.out)
    with Progress("mask", arguments.shots, World(), "shots") as progress:
        masked = mask.run(request, progress.at)
    picture = arguments.out.with_suffix(".png")
    report.draw(masked.figures, masked.unusable, masked.mean, masked.detector, picture)
    print("\n".join(report.text(masked.figures)))


def _manifest(name: str, configs: list[Path]) -> Path:
    """Return the manifest that the user means. Raises ConfigError for a run that is none."""
    from spreadflow import config
    from spreadflow.errors import ConfigError
    from spreadflow.trial import files

    if not configs:
        return Path(name)
    loaded = config.load(*configs)
    if name not in loaded.runs:
        todo = "Name one of them, or a manifest without --config."
        raise ConfigError("mask", f"a run of {', '.join(loaded.runs)}", name, todo)
    return Path(files.manifest(loaded, name))
