"""Shots that come by network: each goes to one reader, and none is lost."""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from spreadflow import cli
from spreadflow.errors import ConfigError, FileError
from spreadflow.stream import zeromq
from spreadflow.stream.shots import Event
from spreadflow.stream.zeromq import PulledShots

zmq = pytest.importorskip("zmq", reason="no pyzmq: install the extra `stream`")

SHAPE = (3, 4)


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def shots(number: int) -> list[tuple[Event, np.ndarray]]:
    """Return shots with ids, a monitor and images of their own."""
    return [
        (Event(10 + 2 * k, k, {"i0": k / 4}), np.full(SHAPE, k, np.uint16)) for k in range(number)
    ]


def sent(number: int, port: int, n_readers: int = 1, rate_hz: float = 0.0) -> threading.Thread:
    """Return a thread that sends shots."""
    arguments = (shots(number), f"tcp://*:{port}", n_readers, rate_hz, lambda _n: None)
    thread = threading.Thread(target=zeromq.push, args=arguments)
    thread.start()
    return thread


def pulled(port: int, reader: int = 0, n_readers: int = 1, accepts=lambda _e: True, **keys) -> list:
    """Return id, image and validity of the shots of a reader, block by block."""
    keys = {"wait_s": 5.0, **keys}
    source = PulledShots(f"tcp://127.0.0.1:{port}", SHAPE, block_shots=8, **keys)
    return [
        list(zip(block.shot_ids.tolist(), block.images.copy(), block.is_valid, strict=True))
        for block in source.blocks(reader, n_readers, accepts)
    ]


def test_a_reader_has_all_shots_in_order(port):
    thread = sent(20, port)
    blocks = pulled(port)
    thread.join()
    assert [len(block) for block in blocks] == [8, 8, 4]
    flat = [shot for block in blocks for shot in block]
    assert [shot_id for shot_id, *_ in flat] == list(range(10, 50, 2))
    np.testing.assert_array_equal([image[2, 3] for _, image, _ in flat], np.arange(20))


def test_readers_share_the_shots(port):
    thread = sent(40, port, n_readers=2)
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda k: pulled(port, k, 2), range(2)))
    thread.join()
    ids = [[shot_id for block in part for shot_id, *_ in block] for part in parts]
    assert all(len(own) > 5 for own in ids)
    assert sorted(ids[0] + ids[1]) == list(range(10, 90, 2))


def test_a_refused_shot_has_no_image(port):
    thread = sent(8, port)
    (block,) = pulled(port, accepts=lambda event: event.monitors["i0"] >= 1)
    thread.join()
    assert [bool(is_valid) for *_, is_valid in block] == [k >= 4 for k in range(8)]


def test_readers_take_no_more_shots_than_are_wanted(port):
    thread = sent(12, port)
    blocks = pulled(port, n_shots=10)
    assert [len(block) for block in blocks] == [8, 2]
    thread.join()


def test_a_stream_that_falls_silent_is_over(port):
    assert pulled(port, wait_s=0.2) == []


def test_slow_shots_do_not_wait_for_a_whole_block(port, monkeypatch):
    monkeypatch.setattr(zeromq, "LONGEST_BLOCK_S", 0.05)
    thread = sent(8, port, rate_hz=25.0)
    blocks = pulled(port)
    thread.join()
    assert len(blocks) > 1
    assert sum(map(len, blocks)) == 8


HEADER = {"shot_id": 1, "dtype": "<u2", "shape": SHAPE}


WRONG = [
    (b"\x00", 24, "header: expected"),
    ({"dtype": "<u2", "shape": SHAPE}, 24, "shot_id: expected this key"),
    ({**HEADER, "dtype": "strange"}, 24, "strange"),
    ({**HEADER, "dtype": "O"}, 24, "object of shape"),
    ({**HEADER, "shape": [4, 3]}, 24, r"of shape \(4, 3\)"),
    (HEADER, 23, "in 23 bytes"),
    ({**HEADER, "shot_id": 3.7}, 24, "shot_id: expected .* integer; found 3.7"),
    ({**HEADER, "shot_id": True}, 24, "shot_id: expected .* integer; found True"),
    ({**HEADER, "shot_id": 2**70}, 24, "shot_id: expected less than 9223372036854775808"),
    ({**HEADER, "shape": ["a", 4]}, 24, "shape.0: expected .* integer; found 'a'"),
    ({**HEADER, "dtype": None}, 24, "dtype: expected .* string; found None"),
    ({**HEADER, "monitors": 3}, 24, "monitors: expected .* dictionary; found 3"),
]
"""Header, bytes of an image, and what is said of the message."""


def blocks_of(messages: list[tuple], port: int, block_shots: int) -> list:
    """Return the blocks of a reader that is sent messages of headers and so many bytes."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.linger = 0
        sender.connect(f"tcp://127.0.0.1:{port}")
        for header, n_bytes, *_ in messages:
            first = header if isinstance(header, bytes) else json.dumps(header).encode()
            sender.send_multipart([first, bytes(n_bytes)])
        sender.send_multipart([b'{"end": true}'])
        source = PulledShots(f"tcp://*:{port}", SHAPE, block_shots, 5.0)
        return list(source.blocks(0, 1, lambda _event: True))


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("block_shots", [2, 8])
def test_where_no_message_is_a_shot_there_is_an_error(port, wrong, block_shots):
    with pytest.raises(FileError, match=rf"messages with a header and an image .*{wrong[2]}"):
        blocks_of([wrong] * 3, port, block_shots)


def test_a_message_that_is_no_shot_is_dropped_and_says_why(port):
    blocks = blocks_of([WRONG[0], (HEADER, 24), *WRONG[1:], (HEADER, 24)], port, 20)
    (block,) = blocks
    assert block.is_valid.tolist() == [False, True, *[False] * (len(WRONG) - 1), True]
    assert [event.number for event in block.events] == list(range(len(WRONG) + 2))
    for problem, (*_, expected) in zip(block.problems, WRONG, strict=True):
        assert re.search(expected, problem)


def test_a_sender_whose_readers_have_gone_ends(port, monkeypatch):
    monkeypatch.setattr(zeromq, "PATIENCE_S", 0.2)
    shots_for_ever = ((Event(k, k), np.zeros(SHAPE, np.uint16)) for k in range(10**9))
    with ThreadPoolExecutor() as pool:
        arguments = (shots_for_ever, f"tcp://*:{port}", 1, 0.0, lambda _n: None)
        sending = pool.submit(zeromq.push, *arguments)
        assert len(pulled(port, n_shots=8)) == 1
        with pytest.raises(FileError, match="start both again"):
            sending.result()


def test_an_address_that_is_none_is_an_error():
    source = PulledShots("nowhere", SHAPE, 8, 1.0)
    with pytest.raises(ConfigError, match="tcp://host:5555"):
        next(source.blocks(0, 1, lambda _event: True))


def test_a_file_is_replayed(port, tmp_path):
    path = tmp_path / "shots.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.arange(60).reshape(5, *SHAPE)
        file["ids"] = [1, 2, 4, 8, 16]
        file["i0"] = np.arange(10.0).reshape(5, 2)
    words = ["--dataset", "images", "--shot-ids", "ids", "--monitor", "i0=i0", "--rate", "500"]
    command = ["stream", "replay", str(path), "--to", f"tcp://*:{port}", *words]
    thread = threading.Thread(target=cli.main, args=(command,))
    thread.start()
    source = PulledShots(f"tcp://127.0.0.1:{port}", SHAPE, 8, 5.0)
    (block,) = source.blocks(0, 1, lambda _event: True)
    thread.join()
    np.testing.assert_array_equal(block.shot_ids, [1, 2, 4, 8, 16])
    np.testing.assert_array_equal(block.images, np.arange(60).reshape(5, *SHAPE))
    assert block.events[3].monitors == {"i0": [6.0, 7.0]}


def test_shots_that_a_replay_leaves_out_are_counted(port, tmp_path, capsys):
    path = tmp_path / "shots.h5"
    images = np.arange(60).reshape(5, *SHAPE)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("images", data=images, chunks=(1, *SHAPE), compression="gzip")
        place = dataset.id.get_chunk_info(2).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[place : place + 8] = bytes(8)
    path.write_bytes(damaged)
    options = ["--to", f"tcp://*:{port}", "--dataset", "images", "--rate", "500"]
    thread = threading.Thread(target=cli.main, args=(["stream", "replay", str(path), *options],))
    thread.start()
    source = PulledShots(f"tcp://127.0.0.1:{port}", SHAPE, 8, 5.0)
    (block,) = source.blocks(0, 1, lambda _event: True)
    thread.join()
    np.testing.assert_array_equal(block.shot_ids, [0, 1, 3, 4])
    assert "1 shots can't be read: left out" in capsys.readouterr().err
