"""Reading files nobody vouches for: the readers in a child process with bounded time and memory.

The child is kept between files, so a file costs one message each way and no start-up. It answers with a line
of JSON and, for a frame, its raw float32 bytes: nothing it sends is ever unpickled or executed.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import astuple
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from nowcast import errors
from nowcast.frame.frame import Quantity, RawFrame
from nowcast.frame.grid import Grid
from nowcast.readers import Declared, Limits, read

#: Longest header line [bytes] the child may send; a grid's WKT takes a few thousand.
LONGEST_HEADER = 1 << 20

#: Files after which the child is replaced, so that a leak in a format library cannot grow for ever.
FILES_PER_CHILD = 2000


class SandboxedReader:
    """Reads files like :func:`nowcast.readers.read`, in a child process that may fail in any way it likes.

    Args:
        seconds: Longest time for one frame, or one member of an archive; then the child is killed and
            the file refused.
        memory_mb: Address space [MiB] the child may take.
        limits: Bounds on sizes, as for the readers.
        preexec: What the child does before anything else, such as asking to end with its parent.
    """

    def __init__(
        self,
        *,
        seconds: float = 60.0,
        memory_mb: int = 3072,
        limits: Limits | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self._preexec = preexec
        self.seconds = seconds
        self.memory_mb = memory_mb
        self.limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._files = 0
        self._answering = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None
            self._answering = False

    def warm_up(self) -> None:
        """Start the child now, so that the first file does not wait for its imports."""
        self._running_child()

    def read(self, path: Path, declared: Declared | None = None) -> Generator[RawFrame]:
        """Yield the raw frames of a file; abandon the iterator and the child is replaced.

        Args:
            path: The file.
            declared: What a person says of it where it is silent itself.

        Raises:
            InputError: As the readers do; also when the child ran out of time or memory, or died.
        """
        if self._answering:  # an earlier file was abandoned: its answers must not pass for this one's
            self.close()
        child = self._running_child()
        assert child.stdin is not None and child.stdout is not None
        deadline = time.monotonic() + self.seconds
        finished = False
        self._answering = True
        try:
            said = declared.said() if declared else {}
            request = {"path": str(path.absolute()), "declared": said}
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            while True:
                header = self._header(child.stdout, deadline)
                if header["kind"] == "end":
                    finished = True
                    return
                if header["kind"] == "working":  # on the next member of an archive
                    deadline = time.monotonic() + self.seconds
                    continue
                if header["kind"] == "error":
                    finished = True
                    raise _rebuilt_error(header)
                yield self._frame(header, child.stdout, deadline)
                deadline = time.monotonic() + self.seconds
        except TimeoutError:
            raise errors.UnreadableFile(
                f"{path.name}: reading took longer than {self.seconds:g} s and was stopped"
            ) from None
        except (EOFError, BrokenPipeError):
            code = child.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise errors.ReaderDied(f"{path.name}: the reading process died of it ({how})") from None
        except (KeyError, ValueError, TypeError) as error:
            raise errors.UnreadableFile(
                f"{path.name}: the reading process answered nonsense ({error})"
            ) from error
        finally:
            if self._child is child:  # else a later file has taken over already
                self._files += 1
                self._answering = False
                if not finished or self._files >= FILES_PER_CHILD:
                    self.close()

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "nowcast.readers.sandbox", str(self.memory_mb)),
                    *map(str, astuple(self.limits)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                preexec_fn=self._preexec,
            )
            self._files = 0
            assert self._child.stdout is not None
            header = self._header(self._child.stdout, time.monotonic() + 60.0)
            if header != {"kind": "ready"}:
                raise errors.UnreadableFile(f"the reading process did not start: {header}")
        return self._child

    def _header(self, pipe: BinaryIO | Any, deadline: float) -> dict[str, Any]:
        length = int.from_bytes(_receive(pipe, 4, deadline), "big")
        if length > LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header: dict[str, Any] = json.loads(bytes(_receive(pipe, length, deadline)))
        return header

    def _frame(self, header: dict[str, Any], pipe: BinaryIO | Any, deadline: float) -> RawFrame:
        grid = Grid(**header["grid"])
        self.limits.check_cells(grid.ny, grid.nx, "the reading process")
        values = np.frombuffer(_receive(pipe, 4 * grid.ny * grid.nx, deadline), dtype=np.float32)
        return RawFrame(
            values=values.reshape(grid.shape),
            quantity=Quantity(header["quantity"]),
            time=datetime.fromisoformat(header["time"]),
            grid=grid,
            interval_minutes=header["interval_minutes"],
            source=header["source"],
            attributes=header["attributes"],
        )


def _receive(pipe: BinaryIO | Any, size: int, deadline: float) -> bytearray:
    received = bytearray(size)
    view = memoryview(received)
    got = 0
    descriptor = pipe.fileno()
    while got < size:
        ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise TimeoutError
        count = os.readv(descriptor, [view[got:]])
        if count == 0:
            raise EOFError
        got += count
    return received


def _rebuilt_error(header: dict[str, Any]) -> errors.InputError:
    kind = getattr(errors, str(header["type"]), errors.UnreadableFile)
    if not (isinstance(kind, type) and issubclass(kind, errors.InputError)):
        kind = errors.UnreadableFile
    return kind(str(header["message"])[:2000])


def _send(pipe: BinaryIO, header: dict[str, Any]) -> None:
    line = json.dumps(header).encode()
    pipe.write(len(line).to_bytes(4, "big") + line)


def _answer(path: Path, limits: Limits, declared: Declared, pipe: BinaryIO) -> None:
    def working() -> None:
        _send(pipe, {"kind": "working"})
        pipe.flush()

    try:
        for raw in read(path, limits, declared, told=working):
            grid = raw.grid
            _send(
                pipe,
                {
                    "kind": "frame",
                    "grid": {
                        name: getattr(grid, name) for name in ("crs_wkt", "nx", "ny", "x0", "y0", "dx", "dy")
                    },
                    "quantity": str(raw.quantity),
                    "time": raw.time.isoformat(),
                    "interval_minutes": raw.interval_minutes,
                    "source": raw.source,
                    "attributes": raw.attributes,
                },
            )
            pipe.write(np.ascontiguousarray(raw.values).data.cast("B"))
    except errors.InputError as error:
        _send(pipe, {"kind": "error", "type": type(error).__name__, "message": str(error)})
    except MemoryError:
        message = f"{path.name}: takes more memory to read than it may"
        _send(pipe, {"kind": "error", "type": "TooLarge", "message": message})
    except FileNotFoundError:
        _send(pipe, {"kind": "error", "type": "UnreadableFile", "message": f"{path.name}: is gone"})
    else:
        _send(pipe, {"kind": "end"})
    pipe.flush()


def main() -> None:
    """Answer requests on standard input until it closes: the child's life."""
    memory_mb, *sizes = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What C libraries print to standard output must not mix with the answers.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _send(pipe, {"kind": "ready"})
    pipe.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _answer(Path(request["path"]), Limits(*sizes), Declared(**request["declared"]), pipe)


if __name__ == "__main__":
    main()
