"""Compressed bytes made plain piece by piece: a stream of any length takes little memory.

Each opener takes an iterable of compressed chunks and yields plain pieces of at most ``PIECE`` bytes, some of them empty. It
ends with the stream or with the chunks, whichever is first, and raises ``ValueError`` for damaged data.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

PIECE = 2**20
MEMORY = 2**27
"""The largest dictionary of a stream, in bytes: a header may ask for gigabytes."""

Opener = Callable[[Iterable[bytes]], Iterator[bytes]]

EXPANSION = {1: 1, 8: 1032, 32946: 1032, 50013: 1032, 34925: 2**14, 34926: 2**16, 50000: 2**16}
"""By TIFF's number of the compression: the most plain bytes that one stored byte can stand for."""


def opener(compression: int) -> Opener | None:
    """How a TIFF compression is read as a stream; None where it cannot be."""
    if compression in (34926, 50000) and _zstd() is None:
        return None
    return _OPENERS.get(compression)


def plain(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """No compression."""
    yield from chunks


def inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Deflate in a zlib envelope."""
    decoder = zlib.decompressobj()
    try:
        for chunk in chunks:
            while chunk and not decoder.eof:
                yield decoder.decompress(chunk, PIECE)
                chunk = decoder.unconsumed_tail
        yield decoder.flush()  # a few hundred bytes at most
    except zlib.error as error:
        raise ValueError(str(error)) from error


def unxz(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """LZMA, with the envelope of xz or the older one."""
    import lzma

    decoder = lzma.LZMADecompressor(memlimit=MEMORY)
    try:
        for chunk in chunks:
            if decoder.eof:
                return
            yield decoder.decompress(chunk, PIECE)
            while not (decoder.eof or decoder.needs_input):
                yield decoder.decompress(b"", PIECE)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error


def unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Zstandard, one frame or several; windows of up to 128 MB, the library's own limit."""
    library = _zstd()
    state, room = library.ZSTD_createDCtx(), ctypes.create_string_buffer(PIECE)
    try:
        for chunk in chunks:
            given, full = _Buffer(ctypes.cast(ctypes.c_char_p(chunk), ctypes.c_void_p), len(chunk), 0), False
            while given.place < given.size or full:
                made = _Buffer(ctypes.addressof(room), PIECE, 0)
                code = library.ZSTD_decompressStream(state, ctypes.byref(made), ctypes.byref(given))
                if library.ZSTD_isError(code):
                    raise ValueError(f"zstd: {library.ZSTD_getErrorName(code).decode()}")
                full = made.place == PIECE
                yield ctypes.string_at(room, made.place)
    finally:
        library.ZSTD_freeDCtx(state)


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``: where the bytes are, how many, how many of them are done."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("place", ctypes.c_size_t))


@cache
def _zstd() -> Any:
    """The library that imagecodecs brings along, whose Python functions take whole streams only; None where it is hidden."""
    try:
        import imagecodecs._zstd as extension

        library = ctypes.CDLL(extension.__file__)
        library.ZSTD_createDCtx.restype = ctypes.c_void_p
        library.ZSTD_freeDCtx.argtypes = (ctypes.c_void_p,)
        library.ZSTD_decompressStream.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer))
        library.ZSTD_decompressStream.restype = ctypes.c_size_t
        library.ZSTD_isError.argtypes = library.ZSTD_getErrorName.argtypes = (ctypes.c_size_t,)
        library.ZSTD_getErrorName.restype = ctypes.c_char_p
    except (ImportError, OSError, AttributeError):
        return None
    return library


_OPENERS: dict[int, Opener] = {
    1: plain, 8: inflate, 32946: inflate, 50013: inflate, 34925: unxz, 34926: unzstd, 50000: unzstd,
}  # fmt: skip
