"""The processes that run i2i on inputs: a server has the libraries ready and forks a worker, which does some inputs and ends.

A worker calls the program's own ``main`` with the words of a request, a JSON line, and answers with what it saw: the exit code,
both streams as the system has them (libraries of C write there too), the error behind a message, seconds, and memory.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SILENT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python itself does not show."""
PIECE = 600
"""Pixels on a side of the two pieces that are read of an image too large to be run."""


class Worker:
    """``folder``: where it keeps its two streams."""

    def __init__(self, folder: Path) -> None:
        self._streams = {1: folder / "stdout", 2: folder / "stderr"}
        for number, path in self._streams.items():
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
            os.dup2(handle, number)
            os.close(handle)
        faulthandler.enable(2, all_threads=True)
        faulthandler.register(signal.SIGUSR1, 2, all_threads=True)
        self._errors: list[BaseException] = []
        logger = logging.getLogger("i2i")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(_Keep(self._errors))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What happened at one request."""
        self._errors.clear()
        for number in self._streams:
            os.ftruncate(number, 0)
        _forget_peak()
        began = time.perf_counter()
        code, raised = _call(request)
        sys.stdout.flush()
        seconds, peak = time.perf_counter() - began, _peak()
        error = raised or next(iter(self._errors), None)
        found = {
            "code": code, "raised": raised is not None, "error": error and _described(error), "seconds": seconds, "peak": peak,
            "torch": "torch" in sys.modules, "threads": threading.active_count(),
            **{path.name: path.read_bytes().decode("utf-8", "replace") for path in self._streams.values()},
        }  # fmt: skip
        self._errors.clear()
        return found


class _Keep(logging.Handler):
    """Keeps the exceptions that are logged."""

    def __init__(self, kept: list[BaseException]) -> None:
        super().__init__()
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info, tuple) and record.exc_info[1]:
            self._kept.append(record.exc_info[1])


def _call(request: dict[str, Any]) -> tuple[int | None, BaseException | None]:
    """The exit code, or what no one caught."""
    from i2i.cli import main

    try:
        with _warned():
            if request["do"] == "pieces":
                _read_pieces(Path(request["words"][0]))
                return 0, None
            main(list(request["words"]))
    except SystemExit as stop:
        return (stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1), None
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is what the fuzzer looks for)
        return None, error
    return None, AssertionError("main came back")


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Every warning is shown, and not only the first from each line."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("always")
        for category in SILENT:
            warnings.simplefilter("ignore", category)
        yield


def _read_pieces(path: Path) -> None:
    """The first and the last pixels of an image, and of its smallest level, as the program reads them: what is damaged is an
    ``InputError``."""
    from i2i.errors import I2IError
    from i2i.formats import open_image
    from i2i.geometry import Region

    try:
        source = open_image(path)
        try:
            sizes = source.spec.levels or ((source.spec.height, source.spec.width),)
            for level, (height, width) in {0: sizes[0], len(sizes) - 1: sizes[-1]}.items():
                rows, columns = min(PIECE, height), min(PIECE, width)
                for y, x, plane in ((0, 0, 0), (height - rows, width - columns, source.spec.plane_count - 1)):
                    source.read(Region(y, x, rows, columns), plane, level)
        finally:
            source.close()
    except I2IError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        sys.exit(error.exit_code)


def _described(error: BaseException) -> dict[str, Any]:
    """The kind of an error, where it was raised, and the same of what it came from."""
    chain, one = [], error
    while one is not None and len(chain) < 4:
        frames = traceback.extract_tb(one.__traceback__)
        last = frames[-1] if frames else None
        place = f"{'/'.join(Path(last.filename).parts[-2:])}:{last.name}:{last.lineno}" if last else ""
        chain.append({"type": type(one).__name__, "text": str(one)[:300], "place": place})
        one = one.__cause__
    return {"chain": chain, "trace": "".join(traceback.format_exception(error))[-4000:]}


def _forget_peak() -> None:
    """The system's count of the largest memory begins anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The largest resident memory since then, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


# ------------------------------------------------------------------------------------------------------------ the server


def serve(kind: str, folder: Path, inputs: int) -> None:
    """Answer requests on stdin until it ends: a worker does ``inputs`` of them. ``kind``: ``info``, without torch, or ``run``."""
    _make_ready(kind)
    gc.freeze()  # what is loaded is not looked through again
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while True:
        child = os.fork()
        if child == 0:
            try:
                _work(Worker(folder), requests, answers, inputs)
            finally:
                os._exit(9)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 8:
            return
        if status:
            _send(answers, {"died": status})


def _work(worker: Worker, requests: int, answers: int, inputs: int) -> None:
    _send(answers, {"pid": os.getpid()})
    for number in range(inputs):
        line = _line(requests)
        if not line:
            os._exit(8)
        _send(answers, worker.answer(json.loads(line)) | {"last": number == inputs - 1})
    os._exit(0)


def _line(handle: int) -> bytes:
    """A line, byte by byte: what comes after it is for the next worker."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(handle, 1)
        if not byte:
            return b""
        line += byte
    return line


def _send(handle: int, value: object) -> None:
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(handle, data) :]


def _made_once(make: Callable[[str], Callable[[], Any]], name: str) -> Callable[[], Any]:
    """What makes a command, which is kept."""
    return functools.cache(make(name))


def _make_ready(kind: str) -> None:
    """Import what a run imports. What takes longest and has nothing to do with an input is left out: flushes to the disk, and
    the search for plugins and the making of the command line at each start."""
    import imagecodecs
    import tifffile
    import zarr.storage
    from PIL import Image

    import i2i.cli.app
    import i2i.cli.manage
    from i2i import installed

    installed.found = functools.cache(installed.found)
    installed.distribution = functools.cache(installed.distribution)
    i2i.cli.app.build = functools.cache(i2i.cli.app.build)
    for name in ("_image", "_manage"):
        setattr(i2i.cli.app, name, functools.partial(_made_once, getattr(i2i.cli.app, name)))
    assert i2i.cli.manage and zarr.storage and tifffile
    Image.init()
    for name in (
        "jpeg8_decode",
        "jpeg2k_decode",
        "webp_decode",
        "png_decode",
        "zlib_decode",
        "lzw_decode",
        "zstd_decode",
        "lzma_decode",
    ):
        getattr(imagecodecs, name)
    os.fsync = os.sync = lambda *_: None  # type: ignore[assignment]
    if kind == "run":
        import torch

        import i2i.batch
        import i2i.cli.run
        import i2i_unet.predictor

        assert i2i.batch and i2i.cli.run and i2i_unet.predictor
        torch.set_num_threads(1)
