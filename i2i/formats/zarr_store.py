"""A Zarr store that looks at what a chunk unpacks to before it is unpacked: a few bytes may stand for gigabytes.

Decoders take the memory that a stream asks for, whatever the array's header says of its chunks.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from i2i.formats.streams import MEMORY, PIECE, unzstd

GZIP, ZLIB, BZIP, XZ, ZSTD, BLOSC = b"\x1f\x8b", b"\x78", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x02"
EXPANSION = {GZIP: 1032, ZLIB: 1032, BZIP: 2**16, XZ: 2**14, ZSTD: 2**16}
"""By how a stream begins: the most plain bytes that one stored byte can stand for."""


class BoundedStore(LocalStore):
    """A folder, read only, in which no chunk unpacks to more than ``limit`` bytes: else ``ValueError``."""

    def __init__(self, root: Any, limit: int) -> None:
        super().__init__(root, read_only=True)
        self._limit = limit

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Buffer | None:
        """See :class:`zarr.abc.store.Store`."""
        found = await super().get(key, prototype, byte_range)
        if found is not None and len(found) * max(EXPANSION.values()) > self._limit:
            await asyncio.to_thread(check_chunk, found.to_bytes(), self._limit)
        return found


def check_chunk(data: bytes, limit: int) -> None:
    """Raise ``ValueError`` for a stream that unpacks to more than ``limit`` bytes. One that is damaged is left to its decoder."""
    if data[:1] == BLOSC and len(data) >= 16 and struct.unpack_from("<I", data, 12)[0] == len(data):
        _refuse(struct.unpack_from("<I", data, 4)[0], limit)
    kind = next((begin for begin in EXPANSION if data.startswith(begin)), b"")
    if not kind or len(data) * EXPANSION[kind] <= limit:
        return
    size = _frame_size(data) if kind == ZSTD else None
    if size is not None:
        _refuse(size, limit)
        return
    size = 0
    for piece in _pieces(data, kind):
        size += piece
        _refuse(size, limit)


def _refuse(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"a chunk unpacks to more than {limit / 1e9:.1f} GB")


def _frame_size(data: bytes) -> int | None:
    """What the first frame of Zstandard says of its plain size (RFC 8878, 3.1.1.1); None where it does not say."""
    single, field = data[4] >> 5 & 1, data[4] >> 6
    size = (1 if single else 0, 2, 4, 8)[field]
    start = 5 + (not single) + (0, 1, 2, 4)[data[4] & 3]
    return int.from_bytes(data[start : start + size], "little") + 256 * (field == 1) if size else None


def _pieces(data: bytes, kind: bytes) -> Iterator[int]:
    """The lengths of the plain pieces of a stream, and of those after it, until one is damaged."""
    try:
        if kind == ZSTD:
            yield from map(len, unzstd([data]))
        while data and kind != ZSTD:
            decoder = _decoder(kind)
            while not decoder.eof and data:
                yield len(decoder.decompress(data, PIECE))
                data = getattr(decoder, "unconsumed_tail", b"")
                while not decoder.eof and not getattr(decoder, "needs_input", True):
                    yield len(decoder.decompress(b"", PIECE))
            data = decoder.unused_data
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return


def _decoder(kind: bytes) -> Any:
    if kind == BZIP:
        return bz2.BZ2Decompressor()
    if kind == XZ:
        return lzma.LZMADecompressor(memlimit=MEMORY)
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # either envelope
