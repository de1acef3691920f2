"""Shots as messages of ZeroMQ: a sender that pushes, readers that pull. Each message goes to one
reader, in turns, so that readers need not know of each other.

A shot is a message of two frames. The first is JSON: `shot_id` (a whole number), `dtype` (of NumPy,
such as `<u2`), `shape`, and `monitors`, a name → a number or a list; the second has the numbers of
the image, the last axis running fastest. A message of one frame, `{"end": true}`, says to its
reader that all shots have come. An address with `*`, such as tcp://*:5555, is bound, and others are
connected to: on either side, for one of the two.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from spreadflow.errors import ConfigError, FileError
from spreadflow.stream.shots import Accepts, Block, Event

LONGEST_BLOCK_S = 1.0
"""Seconds that the first shot of a block waits for others."""

PAUSE_S = 0.1
"""Seconds without a message after which a block is looked at."""

N_QUEUED = 64
"""Messages that wait on either side: of 8 MB each, half a gigabyte. A sender waits when they are
as many.
"""

PATIENCE_S = 60
"""Seconds that a sender waits for readers that take no messages, in the end and before."""

END = {"end": True}
"""What the last message says."""

ABOUT = "docs/correlate.md has the layout of messages."
"""What to do about a message that is none."""


def _zmq() -> Any:
    """Return the library. Raises ConfigError where it is not installed."""
    try:
        import zmq
    except ImportError as error:
        todo = "Install it: pip install 'spreadflow[stream]'."
        raise ConfigError("correlate.stream", "pyzmq", error, todo) from None
    return zmq


@contextmanager
def _socket(kind: str, endpoint: str, n_peers: int = 0) -> Iterator[Any]:
    """Provide a socket, PUSH or PULL, at an address, when so many peers are connected to it. What
    was sent and not taken is kept for a while when all went well. Raises ConfigError where it can't
    be there.
    """
    zmq = _zmq()
    with zmq.Context() as context, context.socket(getattr(zmq, kind)) as socket:
        socket.set_hwm(N_QUEUED)
        socket.linger = 0
        with socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as peers:
            try:
                if "*" in endpoint:
                    socket.bind(endpoint)
                else:
                    socket.connect(endpoint)
            except zmq.ZMQError as error:
                expected = "an address such as tcp://host:5555, that is free where it has a *"
                todo = "Check correlate.stream.endpoint."
                raise ConfigError(endpoint, expected, error, todo) from None
            for _ in range(n_peers):
                peers.recv_multipart()
            socket.disable_monitor()
        yield socket
        socket.linger = int(1000 * PATIENCE_S)


class PulledShots:
    """Shots that are pulled. wait_s: seconds without a message after which all have come. n_shots:
    the first so many alone, shared between the readers; 0 = all.
    """

    def __init__(
        self,
        endpoint: str,
        shape: tuple[int, ...],
        block_shots: int,
        wait_s: float,
        n_shots: int = 0,
    ):
        _zmq()
        self.shape = shape
        self._endpoint = endpoint
        self._block_shots = block_shots
        self._wait_s = wait_s
        self._n_shots = n_shots

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`, of the shots that it is sent. A block has
        fewer shots where they come slowly. Raises FileError for messages that are no shots.
        """
        most = self._n_shots // n_readers + (reader < self._n_shots % n_readers)
        together = np.empty((self._block_shots, *self.shape), np.float32)
        events: list[Event] = []
        is_valid: list[bool] = []
        began = 0.0
        for shot in self._shots(most if self._n_shots else None):
            if shot is not None:
                if not events:
                    began = time.monotonic()
                is_valid.append(accepts(shot.event))
                if is_valid[-1]:
                    together[len(events)] = self._image(shot)
                events.append(shot.event)
            has_waited = time.monotonic() - began >= LONGEST_BLOCK_S
            if events and (has_waited or len(events) == self._block_shots):
                yield Block(events, together[: len(events)], np.array(is_valid, bool))
                events = []
                is_valid = []
        if events:
            yield Block(events, together[: len(events)], np.array(is_valid, bool))

    def _shots(self, most: int | None) -> Iterator["_Shot | None"]:
        """Yield the shots of a reader as they come, and None now and then while none comes. most:
        of them; None = all.
        """
        if most == 0:
            return
        with _socket("PULL", self._endpoint) as socket:
            number = 0
            last_came = time.monotonic()
            while time.monotonic() - last_came < self._wait_s:
                if not socket.poll(1000 * PAUSE_S):
                    yield None
                    continue
                last_came = time.monotonic()
                shot = self._shot(socket.recv_multipart(copy=False), number)
                if shot is None:
                    return
                yield shot
                number += 1
                if number == most:
                    return

    def _shot(self, frames: list[Any], number: int) -> "_Shot | None":
        """Return the shot in a message, or None for the last one. Raises FileError."""
        try:
            header = json.loads(frames[0].bytes)
            if header == END:
                return None
            event = Event(int(header["shot_id"]), number, dict(header.get("monitors", {})))
            dtype = np.dtype(header["dtype"])
            shape = tuple(header["shape"])
            payload = frames[1].buffer
        except (ValueError, KeyError, TypeError, IndexError) as error:
            expected = "a message with a header and an image"
            raise FileError(self._endpoint, expected, repr(error), ABOUT) from None
        n_bytes = dtype.itemsize * int(np.prod(shape))
        if shape != self.shape or dtype.kind not in "fiu" or len(payload) != n_bytes:
            expected = f"images of shape {self.shape}, each number in {dtype.itemsize} bytes"
            found = f"{dtype} of shape {shape} in {len(payload)} bytes"
            raise FileError(self._endpoint, expected, found, "Check correlate.stream.shape.")
        return _Shot(event, dtype, payload)

    def _image(self, shot: "_Shot") -> np.ndarray:
        """Return the image of a shot."""
        return np.frombuffer(shot.payload, shot.dtype).reshape(self.shape)


class _Shot(NamedTuple):
    """A shot as it came."""

    event: Event
    dtype: np.dtype
    payload: Any
    """the bytes of its image"""


def push(
    shots: Iterable[tuple[Event, np.ndarray]],
    endpoint: str,
    n_readers: int,
    rate_hz: float,
    at: Callable[[int], None],
) -> int:
    """Push shots, events with their images, at a rate, when so many readers are there; the last
    message goes to each of them. Return the number of shots. rate_hz: 0 = as fast as they are
    taken. at: is called with the number of those that were pushed. Raises ConfigError.
    """
    n_pushed = 0
    with _socket("PUSH", endpoint, n_readers) as socket:
        socket.sndtimeo = int(1000 * PATIENCE_S)
        start = time.monotonic()
        for number, (event, image) in enumerate(shots):
            if rate_hz:
                time.sleep(max(0.0, start + number / rate_hz - time.monotonic()))
            header = {
                "shot_id": event.shot_id,
                "dtype": image.dtype.str,
                "shape": image.shape,
                "monitors": {name: np.asarray(v).tolist() for name, v in event.monitors.items()},
            }
            _send(socket, [json.dumps(header).encode(), np.ascontiguousarray(image)])
            n_pushed = number + 1
            at(n_pushed)
        for _ in range(n_readers):
            _send(socket, [json.dumps(END).encode()])
    return n_pushed


def _send(socket: Any, frames: list[Any]) -> None:
    """Send a message. Raises FileError where nobody takes it."""
    try:
        socket.send_multipart(frames)
    except _zmq().Again:
        found = f"none within {PATIENCE_S} s"
        todo = "Readers have ended; start both again."
        raise FileError("stream", "a reader that takes shots", found, todo) from None
