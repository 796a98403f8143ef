"""An input from a seed and random numbers: flips, cuts, insertions, swaps, and edits of what headers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from fuzzing import documents, rasters, tiffs
from fuzzing.seeds import Files, Seed

Edit = Callable[[Random, bytearray], None]
SUFFIXES = (".svs", ".scn", ".ndpi", ".lsm", ".stk", ".qptiff", ".bif", ".btf", ".png", ".jpg", ".webp", ".bmp", ".zarr", ".dat")
"""Names that a file gets now and then, whatever its content: some decide how it is read."""


def make_input(seeds: Sequence[Seed], seed: int, number: int) -> Seed:
    """Input ``number`` of ``seed``: the same each time, for the same seeds."""
    random = Random(f"{seed}/{number}")
    chosen = random.choices(seeds, [item.weight for item in seeds])[0]
    files = dict(chosen.files)
    mutate = mutate_file if "" in files else mutate_folder
    mutate(random, files, [random.choice(seeds).files for _ in range(2)])
    suffix = random.choice(SUFFIXES) if "" in files and random.random() < 0.06 else chosen.suffix
    return Seed(chosen.name, suffix, files)


def mutate_file(random: Random, files: dict[str, bytes], others: Sequence[Files]) -> None:
    """One to a few mutations of a single file, in place."""
    data = bytearray(files[""])
    for _ in range(_few(random)):
        edit = structural(data) if random.random() < 0.65 else None
        (edit or random.choice(BYTES))(random, data)
        if random.random() < 0.04:
            _swap(random, data, random.choice(list(random.choice(others).values())))
    files[""] = bytes(data)


def mutate_folder(random: Random, files: dict[str, bytes], others: Sequence[Files]) -> None:
    """The same for some of a folder's files; documents before chunks. Now and then a file goes, or takes another one's place."""
    for _ in range(_few(random)):
        names = sorted(files)
        texts = [name for name in names if documents.is_document(name)]
        name = random.choice(texts if texts and random.random() < 0.7 else names)
        draw = random.random()
        if draw < 0.06 and len(files) > 1:
            del files[name]
        elif draw < 0.12:
            files[name] = files[random.choice(names)]
        else:
            files[name] = _changed(random, name, files[name])


def _changed(random: Random, name: str, content: bytes) -> bytes:
    if documents.is_document(name) and random.random() < 0.85:
        return documents.edit(random, content)
    data = bytearray(content)
    random.choice(BYTES)(random, data)
    return bytes(data)


def _few(random: Random) -> int:
    return random.choices((1, 2, 3, 4, 8), (50, 25, 12, 8, 5))[0]


def structural(data: bytearray) -> Edit | None:
    """The edits of headers for a file of this content; None where it has none that are known."""
    for edit, begins in ((tiffs.edit, tiffs.is_tiff), *rasters.EDITS):
        if begins(data):
            return edit
    return None


# --------------------------------------------------------------------------------------------------------------- bytes


def place(random: Random, data: bytes | bytearray) -> int:
    """A place in the data: headers, at the beginning and at the end, more often than what lies between."""
    size, draw = max(1, len(data)), random.random()
    if draw < 0.4:
        return random.randrange(min(size, 400))
    return size - 1 - random.randrange(min(size, 400)) if draw < 0.6 else random.randrange(size)


def _length(random: Random) -> int:
    return random.choice((1, 2, 4, 8, random.randint(1, 64), random.randint(1, 1000)))


def _flip(random: Random, data: bytearray) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 32))):
        if data:
            data[place(random, data)] ^= 1 << random.randrange(8)


def _set(random: Random, data: bytearray) -> None:
    at, length = place(random, data), _length(random)
    value = random.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\x01", random.randbytes(1)))
    data[at : at + length] = value * len(data[at : at + length])


def _noise(random: Random, data: bytearray) -> None:
    at, length = place(random, data), _length(random)
    data[at : at + length] = random.randbytes(len(data[at : at + length]))


def _cut(random: Random, data: bytearray) -> None:
    del data[random.choice((place(random, data), random.randrange(len(data) + 1))) :]


def _delete(random: Random, data: bytearray) -> None:
    at = place(random, data)
    del data[at : at + _length(random)]


def _insert(random: Random, data: bytearray) -> None:
    at = place(random, data)
    data[at:at] = random.randbytes(_length(random)) if random.random() < 0.5 else bytes(_length(random))


def _duplicate(random: Random, data: bytearray) -> None:
    at, to, length = place(random, data), place(random, data), _length(random)
    if random.random() < 0.5:
        data[to:to] = data[at : at + length]
    else:
        data[to : to + length] = data[at : at + length]


def _swap(random: Random, data: bytearray, other: bytes) -> None:
    """Another file's piece, at its own place or anywhere."""
    at, length = place(random, other), random.choice((16, 64, 512, len(other)))
    to = random.choice((at, place(random, data)))
    data[to : to + length] = other[at : at + length]


BYTES: tuple[Edit, ...] = (_flip, _flip, _set, _noise, _cut, _delete, _insert, _duplicate)
