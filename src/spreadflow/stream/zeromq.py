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
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spreadflow.config.base import first_error
from spreadflow.errors import ConfigError, FileError
from spreadflow.stream.shots import Accepts, Block, Event, Filling, Unreadable

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

ABOUT = "Check correlate.stream.shape; docs/correlate.md has the layout of messages."
"""What to do about messages that are none."""


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


class _Header(BaseModel):
    """The first frame of a shot. Neither text nor true and false stand for numbers."""

    model_config = ConfigDict(strict=True)

    shot_id: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    dtype: str
    shape: list[int]
    monitors: dict[str, Any] = {}


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
        """Yield the blocks of one reader, as `Source`, of the messages that it is sent. A block has
        fewer where they come slowly. A message that is no shot is not valid. Raises FileError where
        none of a whole block is one before the first that is, or none at all.
        """
        most = self._n_shots // n_readers + (reader < self._n_shots % n_readers)
        filling = Filling(self._block_shots, self.shape)
        first_problem: Unreadable | None = None
        has_shot = False
        number = 0
        began = 0.0
        for frames in self._messages(most if self._n_shots else None):
            if frames is not None:
                began = began if len(filling) else time.monotonic()
                try:
                    shot = self._shot(frames, number)
                except Unreadable as error:
                    first_problem = first_problem or error
                    filling.lose(number, error)
                else:
                    has_shot = True
                    filling.add(shot.event, accepts, shot.read)
                number += 1
            if filling.is_full:
                self._check(has_shot, first_problem)
            has_waited = time.monotonic() - began >= LONGEST_BLOCK_S
            if len(filling) and (has_waited or filling.is_full):
                yield filling.block()
        self._check(has_shot, first_problem)
        if len(filling):
            yield filling.block()

    def _check(self, has_shot: bool, problem: Unreadable | None) -> None:
        """Raise FileError where no message was a shot. problem: of the first that was none."""
        if problem is not None and not has_shot:
            expected = f"messages with a header and an image of shape {self.shape}"
            raise FileError(self._endpoint, expected, problem, ABOUT)

    def _messages(self, most: int | None) -> Iterator[list[Any] | None]:
        """Yield the messages of a reader as they come, as frames, up to the one that is the last;
        and None now and then while none comes. most: of them; None = all.
        """
        if most == 0:
            return
        with _socket("PULL", self._endpoint) as socket:
            n = 0
            last_came = time.monotonic()
            while n != most and time.monotonic() - last_came < self._wait_s:
                if not socket.poll(1000 * PAUSE_S):
                    yield None
                    continue
                last_came = time.monotonic()
                frames = socket.recv_multipart(copy=False)
                if len(frames) == 1 and _header(frames) == END:
                    return
                yield frames
                n += 1

    def _shot(self, frames: list[Any], number: int) -> "_Shot":
        """Return the shot in a message. Raises Unreadable."""
        try:
            header = _Header.model_validate(_header(frames))
            dtype = np.dtype(header.dtype)
            payload = frames[1].buffer
        except ValidationError as error:
            key, expected, found = first_error(error, _Header)
            raise Unreadable(f"{key or 'header'}: expected {expected}; found {found}") from None
        except (ValueError, TypeError, IndexError) as error:
            raise Unreadable(f"it is no header with an image: {error!r}") from None
        shape = tuple(header.shape)
        n_bytes = dtype.itemsize * int(np.prod(self.shape))
        if shape != self.shape or dtype.kind not in "fiu" or len(payload) != n_bytes:
            raise Unreadable(f"it is {dtype} of shape {shape} in {len(payload)} bytes")
        event = Event(header.shot_id, number, header.monitors)
        return _Shot(event, np.frombuffer(payload, dtype).reshape(shape))


def _header(frames: list[Any]) -> Any:
    """Return what the first frame says; None where it is no JSON."""
    try:
        return json.loads(frames[0].bytes)
    except (ValueError, RecursionError):
        return None


class _Shot(NamedTuple):
    """A shot as it came."""

    event: Event
    pixels: np.ndarray
    """its image, where the message lies"""

    def read(self, image: np.ndarray) -> None:
        """Set an array to its image."""
        image[:] = self.pixels


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
