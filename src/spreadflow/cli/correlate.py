"""`spreadflow correlate -c FILE`: pixels correlated in time, on one process or on ranks."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spreadflow.cli import correlation_mask
from spreadflow.errors import ConfigError, FileError

if TYPE_CHECKING:
    from spreadflow.config.correlate import CorrelateSection
    from spreadflow.stages.correlation_setting import Request
    from spreadflow.stages.parcorana import Configured

AFTER_INTERRUPTION = (
    "What was published is in the output, named .inprogress: remove or rename it before you run "
    "the same command again."
)
"""What to do."""

BEGINS_ANEW = "Run the same command again: it begins with the first shot."
"""What to do where a stage of a workflow is interrupted."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("correlate", help="correlate pixels in time (G2)")
    tools = p.add_subparsers(dest="tool", metavar="mask, merge ...", help="masks; sums of outputs")
    correlation_mask.add_to(tools)
    _add_merge(tools)
    config_help = "YAML with a section `correlate`, or a Python file of ParCorAna"
    p.add_argument("-c", "--config", help=config_help)
    images_help = "a manifest, whose shots are correlated, as the stage of a workflow does"
    p.add_argument("--images", type=Path, metavar="MANIFEST", help=images_help)
    ranks_help = "ranks the launcher was asked for (default: as many as it started)"
    p.add_argument("--ranks", type=int, help=ranks_help)
    numevents_help = "the first so many shots alone; a longer buffer gets as short"
    p.add_argument("-n", "--numevents", type=int, help=numevents_help)
    p.add_argument(
        "-v", "--verbosity", choices=["debug", "info", "warning", "error"], help="of the log"
    )
    p.add_argument("-o", "--h5output", "--out", help="the output")
    p.add_argument("-m", "--maskFile", type=Path, help="the mask, .npy")
    dataset_help = "files of shots, a pattern may be quoted; or exp=NAME:run=N, by psana"
    p.add_argument("-d", "--dataset", help=dataset_help)
    p.add_argument("-s", "--numServers", type=int, help="ranks that read")
    early_help = "readers take no turns: the earliest of their next blocks comes first"
    p.add_argument("--earlyServer", action="store_true", help=early_help)
    p.add_argument("--overwrite", action="store_true", help="replace an output of this name")
    check_help = "print the configuration as YAML, check it, and correlate nothing"
    p.add_argument("--check", action="store_true", help=check_help)
    tests = p.add_mutually_exclusive_group()
    main_help = "a few shots and the pixels of the test mask alone"
    tests.add_argument("--test_main", action="store_true", help=main_help)
    alternate_help = "the same by a plain double loop, in one process, into the test's output"
    tests.add_argument("--test_alt", action="store_true", help=alternate_help)
    cmp_help = "compare the outputs of the two"
    tests.add_argument("--cmp", action="store_true", help=cmp_help)
    p.set_defaults(do=run)


def _add_merge(tools: argparse._SubParsersAction) -> None:
    """Add the tool that joins outputs."""
    p = tools.add_parser("merge", help="join outputs: sums of runs, or of shards of pixels")
    p.add_argument("outputs", nargs="+", type=Path, metavar="FILE")
    p.add_argument("-o", "--h5output", required=True, help="the output")
    p.add_argument("--overwrite", action="store_true", help="replace an output of this name")
    p.set_defaults(do=merge)


def merge(arguments: argparse.Namespace) -> None:
    """Join outputs."""
    from spreadflow.stages import correlation_merge

    correlation_merge.merge(arguments.outputs, arguments.h5output, arguments.overwrite)


def changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the section that options replace."""
    replaced = {
        "n_shots": arguments.numevents,
        "out": arguments.h5output,
        "mask": arguments.maskFile,
        "readers": arguments.numServers,
        "takes_turns": False if arguments.earlyServer else None,
        "overwrite": True if arguments.overwrite or arguments.images else None,
    }
    if arguments.test_main or arguments.test_alt:
        replaced["test_shots"] = arguments.numevents
    return {key: value for key, value in replaced.items() if value is not None}


def run(arguments: argparse.Namespace) -> None:
    """Correlate, or test. Where one rank fails, all end."""
    from spreadflow.parallel import World, ending_together

    if arguments.cmp:
        _compare(_request(arguments))
        return
    if arguments.check:
        from spreadflow.stages import correlation_setting

        print(correlation_setting.checked(_request(arguments), World()))
        return
    ranks = 1 if arguments.test_alt else arguments.ranks
    todo = AFTER_INTERRUPTION if arguments.images is None else BEGINS_ANEW
    with ending_together("correlate", ranks, todo) as world:
        from spreadflow.stages import correlate

        request = _request(arguments, is_telling=world.rank == 0)
        if arguments.images is not None:
            world.once(lambda: _clear(request.section))
        if arguments.test_alt:
            correlate.run_alternate(request)
        else:
            correlate.run(request, world, _draw)


def _clear(section: "CorrelateSection") -> None:
    """Remove what a stage of a workflow left that was ended before."""
    from spreadflow.io.g2 import in_progress

    for out in (section.out, section.test_out):
        if out is not None:
            in_progress(Path(out)).unlink(missing_ok=True)


def _draw(*drawn: Any) -> None:
    """Draw curves, as `correlation_viewer.Draw`: on the viewer alone, which loads what draws."""
    from spreadflow.report import correlate as report

    report.draw(*drawn)


def _request(arguments: argparse.Namespace, is_telling: bool = True) -> "Request":
    """Return what is asked for. is_telling: whether warnings are printed. Raises ConfigError."""
    from spreadflow.stages.correlation_setting import Request

    read = configured(
        arguments.config,
        changes(arguments),
        dataset=arguments.dataset,
        images=arguments.images,
        is_telling=is_telling,
    )
    return Request(
        section=read.section,
        user_class=read.user_class,
        system_params=read.system_params,
        is_test=arguments.test_main or arguments.test_alt,
        verbosity=arguments.verbosity or read.verbosity,
        images=arguments.images,
    )


def configured(
    config: str | None,
    replaced: dict[str, Any],
    *,
    dataset: str | None = None,
    images: Path | None = None,
    is_telling: bool = True,
) -> "Configured":
    """Return the configuration in a file; of the stage of a workflow it may be JSON. replaced: keys
    of the section. dataset: where shots come from instead. images: the manifest that they are of;
    None = as the section says. is_telling: as of `_request`. Raises ConfigError.
    """
    from spreadflow.stages import parcorana

    if config is None:
        raise ConfigError("correlate", "-c FILE", "none", "Name the configuration.")
    if images is not None:
        return parcorana.Configured(_of_run(config, replaced, dataset))
    path = Path(config)
    read = parcorana.read if path.suffix == ".py" else parcorana.from_yaml
    result = read(path, replaced, dataset)
    for warning in result.warnings if is_telling else ():
        print(f"spreadflow correlate: {warning}", file=sys.stderr)
    return result


def _of_run(config: str, replaced: dict[str, Any], dataset: str | None) -> "CorrelateSection":
    """Return the section of a run. Raises ConfigError where shots are named beside its own."""
    from spreadflow.config import for_stage
    from spreadflow.config.correlate import valid

    section = valid("--config", dict(for_stage(config, "correlate").correlate) | replaced)
    if section.names_shots or dataset is not None:
        expected = "none but the shots of the manifest"
        raise ConfigError("--images", expected, "others", "Leave out one of them.")
    return section


def _compare(request: "Request") -> None:
    """Compare the outputs of both tests. Raises FileError where they differ."""
    from spreadflow.io import g2, store

    section = request.section
    first, second = (g2.latest(name or "") for name in (section.out, section.test_out))
    worst, lines = g2.differences(first, second, section.largest_difference)
    print("\n".join([*lines, f"largest relative difference: {worst:.3g}"]))
    summary = first.with_suffix(".json")
    if summary.exists():
        figures = json.loads(summary.read_text(encoding="utf-8"))
        figures["max_relative_error_vs_loop"] = worst
        store.write_text(summary, json.dumps(figures, indent=1) + "\n")
    if lines:
        expected = f"the numbers of {second} within {section.largest_difference:g}"
        raise FileError(first, expected, f"{len(lines)} datasets that differ", lines[0])
