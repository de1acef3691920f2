"""`spreadflow stream replay FILE...`: shots of files as a stream, at the rate of an experiment."""

import argparse
import sys


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser(
        "stream", help="send the shots of files by network, at the rate of an experiment"
    )
    p.add_argument("action", choices=["replay"])
    p.add_argument("files", nargs="+", metavar="FILE", help="files of shots; patterns are sorted")
    dataset_help = "path of the images in HDF5 files (default: files of a format that is known)"
    p.add_argument("--dataset", help=dataset_help)
    ids_help = "path of whole numbers, the times of the shots (default: they are counted)"
    p.add_argument("--shot-ids", metavar="PATH", help=ids_help)
    monitor_help = "what else was recorded with the shots"
    p.add_argument("--monitor", nargs="+", default=[], metavar="NAME=PATH", help=monitor_help)
    rate_help = "shots a second; 0 = as fast as they are taken (default 120)"
    p.add_argument("--rate", type=float, default=120.0, help=rate_help)
    to_help = "address of ZeroMQ that is bound (default %(default)s)"
    p.add_argument("--to", default="tcp://*:5555", metavar="ADDRESS", help=to_help)
    readers_help = "readers that have to be there before anything is sent (default 1)"
    p.add_argument("--readers", type=int, default=1, help=readers_help)
    p.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> None:
    """Send the shots."""
    from spreadflow.errors import ConfigError
    from spreadflow.log import Progress
    from spreadflow.parallel import World
    from spreadflow.stream import stacks, zeromq
    from spreadflow.stream.shots import each

    pairs = [text.partition("=") for text in arguments.monitor]
    if not all(name and path for name, _, path in pairs):
        raise ConfigError("--monitor", "NAME=PATH", arguments.monitor, "For example i0=/entry/i0.")
    monitors = {name: path for name, _, path in pairs}
    datasets = stacks.Datasets(arguments.dataset, arguments.shot_ids, monitors)
    shots = stacks.Stacks(arguments.files, datasets, block_shots=1)
    with Progress("stream", shots.n_shots, World(), "shots") as progress:
        n_pushed = zeromq.push(
            each(shots), arguments.to, arguments.readers, arguments.rate, progress.at
        )
    if n_pushed < shots.n_shots:
        n_unreadable = shots.n_shots - n_pushed
        print(f"spreadflow stream: {n_unreadable} shots can't be read: left out", file=sys.stderr)
