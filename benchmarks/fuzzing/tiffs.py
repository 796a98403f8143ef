"""Edits of what a TIFF says of itself: entries of its directories, links between them, tables and texts they point to."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, OFFSETS, ORIENTATION, SAMPLES, ROWS, COUNTS = (
    256, 257, 258, 259, 262, 270, 273, 274, 277, 278, 279,
)  # fmt: skip
PLANAR, PREDICTOR, COLOURS, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, SUB_IFDS, EXTRA, FORMAT, TABLES = (
    284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347,
)  # fmt: skip
TAGS = (
    254, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, 266, DESCRIPTION, OFFSETS, ORIENTATION, SAMPLES, ROWS, COUNTS, 282, 283,
    PLANAR, 296, 305, PREDICTOR, COLOURS, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, SUB_IFDS, EXTRA, FORMAT, TABLES,
    512, 513, 514, 529, 530, 531, 532, 700, 32995, 32996, 32997, 32998, 33421, 33422, 33550, 33628, 34361, 34412, 34665, 34675,
    37706, 37724, 42112, 42113, 50838, 50839, 65000, 65420, 65449,
)  # fmt: skip
"""Those that decide how pixels are read, and those by which vendors' files are known."""
COMPRESSIONS = (
    1, 2, 3, 4, 5, 6, 7, 8, 32773, 32809, 32895, 32946, 33003, 33005, 33007, 34676, 34677, 34712, 34887, 34892, 34925, 34926,
    34927, 34933, 34934, 48124, 50000, 50001, 50002, 50013, 52546, 65535,
)  # fmt: skip
USUAL = {
    COMPRESSION: COMPRESSIONS, PHOTOMETRIC: (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 32803, 32844, 32845),
    PREDICTOR: (1, 2, 3, 34892, 34894),
    BITS: (1, 2, 4, 8, 10, 12, 16, 24, 32, 64), FORMAT: (1, 2, 3, 4, 5, 6), SAMPLES: (1, 2, 3, 4, 5, 65535), PLANAR: (1, 2),
    ORIENTATION: (1, 2, 3, 4, 5, 6, 7, 8), 266: (1, 2), 254: (0, 1, 2, 4), EXTRA: (0, 1, 2),
}  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 63, 64, 100, 127, 128, 255, 256, 1000, 4096, 10000, 32767, 32768, 65535, 65536, 10**6,
    2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
TEXTS = (
    "ImageJ=1.54f\nimages=7\nchannels=2\nslices=3\nhyperstack=true\n", "ImageJ=1.11a\nimages=4294967295\n",
    '{"shape": [3, 4, 5]}', '{"shape": [40, 52], "axes": "QQ"}', '{"shape": [-1]}',
    "Aperio Image Library v1\nMPP = 0.5|MPP = .", "shape=(2,3,4)", "SCANIMAGE.SI.hChannels = 1", "<OME/>",
    "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image/></OME>",
    "<?xml version='1.0'?><DataObject ObjectType='DPUfsImport'/>", "FluoView Version 5.0", "[Intensity Mapping]\nCreated By:",
    "DICOM", "<PerkinElmer-QPI-ImageDescription/>", '<?xml version="1.0"?><MetaData><PlaneInfo/></MetaData>', "\0\0\0", "",
)  # fmt: skip
"""By which tifffile knows whose file it is."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type."""


@dataclass(frozen=True)
class Form:
    """How numbers are stored: the byte order, and whether it is a BigTIFF."""

    order: str
    big: bool

    @property
    def word(self) -> int:
        """Bytes of an offset."""
        return 8 if self.big else 4

    def read(self, data: bytearray, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if self.order == "<" else "big")

    def put(self, data: bytearray, at: int, size: int, value: int) -> None:
        """A number, cut off to its size; nothing beyond the end."""
        if at >= 0 and at + size <= len(data):
            data[at : at + size] = (value % 256**size).to_bytes(size, "little" if self.order == "<" else "big")


@dataclass(frozen=True)
class Entry:
    """An entry of a directory: where it is, its tag, its type, how many values, and where they are."""

    at: int
    tag: int
    kind: int
    count: int
    values: int

    @property
    def size(self) -> int:
        return SIZES.get(self.kind, 1)


@dataclass(frozen=True)
class Directory:
    """``at``: its number of entries; ``link``: where it says which one is the next."""

    at: int
    entries: tuple[Entry, ...]
    link: int


def is_tiff(data: bytes | bytearray) -> bool:
    return bytes(data[:4]) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def form_of(data: bytes | bytearray) -> Form:
    return Form("<" if data[:1] == b"I" else ">", 43 in data[2:4])


def directories(data: bytearray) -> list[Directory]:
    """Those that the links lead to, those of smaller pictures too; at most 16."""
    form = form_of(data)
    waiting, found, met = [form.read(data, 8 if form.big else 4, form.word)], [], set()
    while waiting and len(found) < 16:
        at = waiting.pop()
        if at in met or not 8 <= at < len(data) - 2:
            continue
        met.add(at)
        found.append(_directory(data, form, at))
        waiting.append(form.read(data, found[-1].link, form.word))
        for entry in found[-1].entries:
            if entry.tag == SUB_IFDS:
                waiting += [form.read(data, entry.values + i * entry.size, entry.size) for i in range(min(4, entry.count))]
    return found


def _directory(data: bytearray, form: Form, at: int) -> Directory:
    head, length = (8, 20) if form.big else (2, 12)
    count = min(form.read(data, at, head), 100)
    entries = tuple(_entries(data, form, at + head, count, length))
    return Directory(at, entries, at + head + count * length)


def _entries(data: bytearray, form: Form, first: int, count: int, length: int) -> Iterator[Entry]:
    for at in range(first, first + count * length, length):
        tag, kind, number = form.read(data, at, 2), form.read(data, at + 2, 2), form.read(data, at + 4, form.word)
        inside = at + 4 + form.word
        fits = SIZES.get(kind, 1) * number <= form.word
        yield Entry(at, tag, kind, number, inside if fits else form.read(data, inside, form.word))


def edit(random: Random, data: bytearray) -> None:
    """One edit, of a directory and an entry drawn by chance."""
    found = directories(data)
    filled = [item for item in found if item.entries]
    if not filled or random.random() < 0.08:
        _links(random, data, found)
        return
    directory = random.choice(filled)
    wanted = random.choice(TAGS[:28])
    entries = [entry for entry in directory.entries if entry.tag == wanted] or directory.entries
    random.choices(_EDITS, _WEIGHTS)[0](random, data, random.choice(entries))


def _number(random: Random, data: bytearray, entry: Entry) -> int:
    """A value that makes trouble: usual for the tag, near the present one, at the end of the file, or large."""
    present = form_of(data).read(data, entry.values, entry.size)
    near = (present - 1, present + 1, present * 2, present // 2, present ^ 1 << random.randrange(16), -present)
    ends = (len(data), len(data) - 1, len(data) + 1, random.randrange(len(data) + 1))
    return random.choice(random.choice((near, ends, NUMBERS, USUAL.get(entry.tag, NUMBERS))))


def _value(random: Random, data: bytearray, entry: Entry) -> None:
    """One of its values, or all of them."""
    number, form = _number(random, data, entry), form_of(data)
    count = min(entry.count, 4096)
    chosen = range(count) if random.random() < 0.3 else [random.randrange(max(1, count))]
    for i in chosen:
        form.put(data, entry.values + i * entry.size, entry.size, number)


def _kind(random: Random, data: bytearray, entry: Entry) -> None:
    form_of(data).put(data, entry.at + 2, 2, random.choice((*SIZES, 0, 14, 15, 129, 255, 65535)))


def _count(random: Random, data: bytearray, entry: Entry) -> None:
    near = (entry.count - 1, entry.count + 1, entry.count * 2, len(data))
    form_of(data).put(data, entry.at + 4, form_of(data).word, random.choice(random.choice((near, NUMBERS))))


def _offset(random: Random, data: bytearray, entry: Entry) -> None:
    """Where its values are."""
    form = form_of(data)
    places = (len(data) - 1, len(data), len(data) + 1, random.randrange(len(data)), 0, entry.at, 4, *NUMBERS[-12:])
    form.put(data, entry.at + 4 + form.word, form.word, random.choice(places))


def _tag(random: Random, data: bytearray, entry: Entry) -> None:
    form_of(data).put(data, entry.at, 2, random.choice(TAGS))


def _copy(random: Random, data: bytearray, entry: Entry) -> None:
    """Another entry in its place."""
    length = 20 if form_of(data).big else 12
    other = random.choice([one for item in directories(data) for one in item.entries])
    if max(entry.at, other.at) + length <= len(data):
        data[entry.at : entry.at + length] = data[other.at : other.at + length]


def _text(random: Random, data: bytearray, entry: Entry) -> None:
    """The description: another text at the end of the file, or another number in the one that is there."""
    form = form_of(data)
    described = [one for item in directories(data) for one in item.entries if one.tag == DESCRIPTION]
    entry = random.choice(described) if described else entry
    old = bytes(data[entry.values : entry.values + min(entry.count, 20000)]) if entry.tag == DESCRIPTION else b""
    text = edit_text(random, old) if old and random.random() < 0.7 else random.choice(TEXTS).encode()
    for at, size, value in ((entry.at, 2, DESCRIPTION), (entry.at + 2, 2, 2), (entry.at + 4, form.word, len(text) + 1)):
        form.put(data, at, size, value)
    if len(text) < form.word:
        data[entry.at + 4 + form.word : entry.at + 4 + 2 * form.word] = text.ljust(form.word, b"\0")
    else:
        form.put(data, entry.at + 4 + form.word, form.word, len(data))
        data += text + b"\0"


def edit_text(random: Random, text: bytes) -> bytes:
    """A text with another number, another word, or a piece less."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?" if random.random() < 0.6 else rb"[A-Za-z_]+", text))
    if not found or random.random() < 0.1:
        cut = sorted(random.randrange(len(text) + 1) for _ in range(2))
        return text[: cut[0]] + text[cut[1] :]
    match = random.choice(found)
    words = (b"", b"nan", b"inf", b"1e999", b"-1", b"YX", b"XYCZT", b"uint8", b"float", b"None", b"\xff\xfe", b"\n", "ü".encode())
    number = str(random.choice(NUMBERS)).encode()
    new = number if match[0][-1:].isdigit() and random.random() < 0.7 else random.choice((*words, random.choice(found)[0]))
    return text[: match.start()] + new + text[match.end() :]


def _links(random: Random, data: bytearray, found: list[Directory]) -> None:
    """Where the first directory is, which one is the next, or how many entries one has."""
    form = form_of(data)
    starts = [item.at for item in found]
    target = random.choice((*starts, 0, 8, len(data), len(data) - 1, random.randrange(len(data) + 1), 2**31, 2**32 - 1))
    places = [(8 if form.big else 4, form.word, target)]
    for item in found:
        places += [(item.link, form.word, target), (item.at, 8 if form.big else 2, random.choice(NUMBERS[:20]))]
    form.put(data, *random.choice(places))
    if random.random() < 0.1:
        struct.pack_into("<H", data, 2, random.choice((42, 43, 0x55, 85, 0x4F52)))


_EDITS: tuple[Callable[[Random, bytearray, Entry], None], ...] = (_value, _kind, _count, _offset, _tag, _copy, _text)
_WEIGHTS = (10, 2, 3, 2, 2, 1, 2)
