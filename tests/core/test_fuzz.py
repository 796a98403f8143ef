"""Mutated files through the program: a short run of ``benchmarks/fuzz.py``, what it found once, and what it has to notice."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from fuzz import Bench, Limits, Tally, kind_of, make_model, table, try_one
from fuzzing import documents, rasters, tiffs
from fuzzing.judge import KINDS, PLANNED, READ, REFUSED, judge, judge_output, size_of
from fuzzing.mutate import make_input
from fuzzing.seeds import Files, Seed, folder_seeds, made_seeds, png_chunk

from i2i.errors import InputError
from i2i.formats import open_image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked, and their memory is read from /proc")

SEEDS = {seed.name: seed for seed in made_seeds()}
INPUTS = 200
LIMITS = Limits(seconds=20)


TRAPS = '''
"""Images that do what no image may."""
import ctypes, os, sys, time
from pathlib import Path

import numpy as np

import i2i
from i2i.contracts import Format
from i2i.formats import ArraySource

I2I_API = 1


def crash(path):
    ctypes.string_at(0)


def hang(path):
    while True:
        pass


def memory(path):
    kept = np.ones(10**9, np.uint8)
    time.sleep(60)


def traceback(path):
    return {}["traceback"]


def noise(path):
    os.write(2, b"libfoo: warning")


def leave(path):
    (path.parent / "left").touch()


def temporary(path):
    (Path(os.environ["TMPDIR"]) / "left").touch()


def torch(path):
    sys.modules.setdefault("torch", sys)


def several(path):
    raise i2i.errors.InputError(f"{path}: one line\\nand another")


def nameless(path):
    raise i2i.errors.InputError("this file is bad")


def open_trap(path):
    globals()[path.read_text().split()[1]](path)
    return ArraySource(np.ones((9, 9), np.uint8))


@i2i.hookimpl
def i2i_formats():
    return [Format("trap", (".trap",), "", lambda head, path: head.startswith(b"TRAP"), open_trap)]
'''


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Workers for which the files of the format ``trap`` are images, by a plugin."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "traps.py").write_text(TRAPS)
    (folder / "traps-1.dist-info").mkdir()
    (folder / "traps-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: traps\nVersion: 1\n")
    (folder / "traps-1.dist-info" / "entry_points.txt").write_text("[i2i.extensions]\ntraps = traps\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with Bench(folder / "bench", make_model(folder / "model.safetensors"), LIMITS) as opened:
            yield opened


# --------------------------------------------------------------------------------------------------- inputs are made anew


def test_seeds_are_read_and_those_of_complex_values_refused(tmp_path: Path) -> None:
    assert {kind_of(seed) for seed in SEEDS.values()} == {"bmp", "jpg", "png", "tif", "webp", "zarr"}
    for seed in SEEDS.values():
        path = tmp_path / f"{seed.name}{seed.suffix}"
        for name, content in seed.files.items():
            place = path / name if name else path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        if seed.name == "made-tif-complex":
            with pytest.raises(InputError, match="complex"):
                open_image(path)
            continue
        source = open_image(path)
        assert source.read(source.spec.region, source.spec.plane_count - 1).max() > 0 or seed.name == "made-tif-giant-strip"
        source.close()


def test_an_input_is_the_same_each_time_and_no_two_are_equal() -> None:
    seeds = list(SEEDS.values())
    first, again = ([make_input(seeds, 3, number) for number in range(150)] for _ in range(2))
    assert first == again
    assert [make_input(seeds, 4, number) for number in range(150)] != first
    assert sum(item.files == SEEDS[item.name].files for item in first) < 10


def test_a_folder_gives_its_images_and_large_ones_seldom(tmp_path: Path) -> None:
    for name, size in (("a.tif", 10), ("b.png", 200_000), ("SOURCE.md", 10)):
        (tmp_path / name).write_bytes(bytes(size))
    assert [(seed.name, seed.suffix, seed.weight) for seed in folder_seeds(tmp_path)] == [
        ("a.tif", ".tif", 1),
        ("b.png", ".png", 0.15),
    ]


@pytest.mark.parametrize("name", ["made-tif-strips", "made-tif-big-zstd", "made-tif-big-endian-lzw", "made-tif-ome-pyramid"])
def test_the_directories_of_a_tiff_are_found_whatever_its_form(name: str) -> None:
    data = bytearray(SEEDS[name].files[""])
    found = tiffs.directories(data)
    assert len(found) == (3 if "pyramid" in name else 1)
    widths = [
        tiffs.form_of(data).read(data, entry.values, entry.size) for item in found for entry in item.entries if entry.tag == 256
    ]
    assert sorted(widths) == ([20, 40, 80] if "pyramid" in name else [52])


def test_edits_of_headers_bear_any_bytes() -> None:
    random = Random(0)
    edits = [(SEEDS["made-tif-ome"].files[""], tiffs.edit)]
    edits += [
        (SEEDS[f"made-{kind}"].files[""], edit)
        for kind, (edit, _) in zip(("png-rgb", "jpg-rgb", "webp-lossy", "bmp-rgb"), rasters.EDITS, strict=True)
    ]
    for content, edit in edits:
        for length in (4, 12, 30, 200, len(content)):
            for _ in range(40):
                data = bytearray(content[:length])
                for _ in range(5):
                    edit(random, data)
    for text in (b"", b"[", b"{}", b"3", b'{"a": [1, {"b": null}]}'):
        assert isinstance(documents.edit(random, text), bytes)


# ------------------------------------------------------------------------------------------------------------- a short run


def test_mutated_files_are_read_or_refused_in_one_line(bench: Bench) -> None:
    tally, seeds = Tally(), list(SEEDS.values())
    for number in range(INPUTS):
        try_one(bench, make_input(seeds, 1, number), number, tally)
    assert {key: (number, finding.detail) for key, (number, finding) in tally.found.items()} == {}
    ends = {end: sum(count for (_, found), count in tally.ends.items() if found == end) for end in (READ, REFUSED)}
    assert min(ends.values()) > INPUTS / 10
    assert f"| all | {INPUTS} | {ends[READ]} | {ends[REFUSED]} |" in table(tally)


# --------------------------------------------------------------------------------------------------- what was found before


def with_tag(name: str, tag: int, value: int) -> bytes:
    """A TIFF whose first directory says something else."""
    data = bytearray(SEEDS[name].files[""])
    (entry,) = (entry for entry in tiffs.directories(data)[0].entries if entry.tag == tag)
    tiffs.form_of(data).put(data, entry.values, entry.size, value)
    return bytes(data)


def with_kind(name: str, tag: int, kind: int) -> bytes:
    """A TIFF with a value of another type: 12 is a float of 64 bits."""
    data = bytearray(SEEDS[name].files[""])
    (entry,) = (entry for entry in tiffs.directories(data)[0].entries if entry.tag == tag)
    tiffs.form_of(data).put(data, entry.at + 2, 2, kind)
    return bytes(data)


def with_count(name: str, tag: int, count: int) -> bytes:
    """A TIFF that declares another number of values."""
    data = bytearray(SEEDS[name].files[""])
    (entry,) = (entry for entry in tiffs.directories(data)[0].entries if entry.tag == tag)
    tiffs.form_of(data).put(data, entry.at + 4, 4, count)
    return bytes(data)


def with_text(name: str, tag: int, text: bytes) -> bytes:
    """A TIFF of which a tag is a text, which is at its end."""
    data = bytearray(SEEDS[name].files[""])
    (entry,) = (entry for entry in tiffs.directories(data)[0].entries if entry.tag == tag)
    for at, size, value in ((2, 2, 2), (4, 4, len(text)), (8, 4, len(data))):
        tiffs.form_of(data).put(data, entry.at + at, size, value)
    return bytes(data + text)


def with_numbers(name: str, tag: int, numbers: list[int]) -> bytes:
    """A TIFF of which a tag has these values of 16 bits, which are at its end."""
    data = bytearray(SEEDS[name].files[""])
    (entry,) = (entry for entry in tiffs.directories(data)[0].entries if entry.tag == tag)
    for at, size, value in ((2, 2, 3), (4, 4, len(numbers)), (8, 4, len(data))):
        tiffs.form_of(data).put(data, entry.at + at, size, value)
    return bytes(data) + struct.pack(f"<{len(numbers)}H", *numbers)


def with_negative(name: str, tag: int, directory: int = 0) -> bytes:
    """A TIFF with the value -5, as a signed number of 32 bits."""
    data = bytearray(SEEDS[name].files[""])
    (entry,) = (entry for entry in tiffs.directories(data)[directory].entries if entry.tag == tag)
    tiffs.form_of(data).put(data, entry.at + 2, 2, 9)
    tiffs.form_of(data).put(data, entry.at + 8, 4, -5)
    return bytes(data)


def with_length(name: str, chunk: str, length: int) -> Files:
    """A Zarr folder where the header of a chunk of Blosc gives another length of what is in it."""
    files = SEEDS[name].files
    return {**files, chunk: files[chunk][:4] + struct.pack("<i", length) + files[chunk][8:]}


def with_width(name: str, width: int) -> Files:
    """A Zarr array that declares another width."""
    document = json.loads(SEEDS[name].files["zarr.json"])
    document["shape"][-1] = width
    return {**SEEDS[name].files, "zarr.json": json.dumps(document).encode()}


def with_chunks(name: str, change: Callable[[bytes, bytes], bytes]) -> bytes:
    """A PNG whose chunks have another content, and checksums that fit."""
    content = SEEDS[name].files[""]
    return content[:8] + b"".join(png_chunk(kind, change(kind, body)) for kind, body in rasters.chunks(content))


def of_float(value: float) -> bytes:
    """A TIFF of 64-bit floats, of which the last is this one."""
    return SEEDS["made-tif-float64"].files[""][:-8] + struct.pack("<d", value)


def _longer(kind: bytes, body: bytes) -> bytes:
    return zlib.compress(zlib.decompress(body) + bytes(500)) if kind == b"IDAT" else body


def _unknown(kind: bytes, body: bytes) -> bytes:
    return body[:10] + b"\7" + body[11:] if kind == b"IHDR" else body


KEPT: dict[str, tuple[str, Callable[[], bytes | Files], str]] = {
    "no samples": (".tif", lambda: with_tag("made-tif-volume", 277, 0), REFUSED),
    "a width that is a fraction": (".tif", lambda: with_kind("made-tif-strips", 256, 12), REFUSED),
    "a width below 0": (".tif", lambda: with_negative("made-tif-zlib-strips", 256), REFUSED),
    "two values for one width": (".tif", lambda: with_count("made-tif-strips", 256, 2), REFUSED),
    "a text in the place of a number": (".tif", lambda: with_text("made-tif-zlib-rgb", 317, b"x" * 1000), REFUSED),
    "sample formats without end": (".tif", lambda: with_numbers("made-tif-lerc", 339, [3] + [1] * 2000), f"{READ} {REFUSED}"),
    "tiles of no depth": (".tif", lambda: with_tag("made-tif-volume", 32998, 0), REFUSED),
    "nothing but the first bytes": (".tif", lambda: b"II*\0", REFUSED),
    "a chunk of a length below 0": (".zarr", lambda: with_length("made-zarr-2", "0/0.0.0.0", -5), REFUSED),
    "a float that 32 bits cannot hold": (".tif", lambda: of_float(1e300), f"{READ} {REFUSED}"),
    "a slide of another planar configuration": (".scn", lambda: with_tag("made-tif-zlib-rgb", 284, 77), REFUSED),
    "floats without end": (".zarr", lambda: with_width("made-zarr-plain", 10**12), PLANNED),
    "more pixels than any disk holds": (".zarr", lambda: with_width("made-zarr-plain", 2**53), REFUSED),
    "a PNG of more pixels than it says": (".png", lambda: with_chunks("made-png-16-rgb", _longer), READ),
    "a PNG of an unknown compression": (".png", lambda: with_chunks("made-png-16-rgb", _unknown), REFUSED),
}
"""The kind of file, what makes it, and how it ends (a float that is none, by ``--nan``)."""


@pytest.mark.parametrize("name", KEPT)
def test_what_was_found_before_ends_as_it_should(bench: Bench, name: str) -> None:
    suffix, make, end = KEPT[name]
    for number in (1, 2):
        content = make()
        found = bench.try_input(Seed(name, suffix, {"": content} if isinstance(content, bytes) else content), number)
        assert found[0] in end and found[1] == []


def test_a_level_of_a_width_below_0_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(with_negative("made-tif-ome-pyramid", 256, 1))
    source = open_image(tmp_path / "a.tif")
    source.close()
    assert source.spec.levels == ((64, 80), (32, 40))
    assert source.spec.notes == ("1 resolution(s) that do not match the first are left out",)


# ----------------------------------------------------------------------------------------------------- what it has to notice

NOTICED = {
    "crash": "crash", "hang": "hang", "memory": "memory", "traceback": "internal error", "noise": "noise",
    "leave": "partial output", "temporary": "partial output", "torch": "torch imported", "several": "noise",
    "nameless": "message",
}  # fmt: skip


@pytest.mark.parametrize("trap", NOTICED)
def test_what_must_not_happen_is_noticed(bench: Bench, trap: str) -> None:
    bench.allow(Limits(seconds=2 if trap == "hang" else 20, memory=800_000_000))
    try:
        _, found = bench.try_input(Seed(trap, ".trap", {"": f"TRAP {trap}".encode()}), 1)
    finally:
        bench.allow(LIMITS)
        bench.fresh()
        for path in bench.folder.glob("*/tmp/left"):
            path.unlink()
    assert NOTICED[trap] in {finding.kind for finding in found}, found
    assert {finding.kind for finding in found} <= set(KINDS)


def test_a_finding_is_counted_once_for_all_its_inputs_and_kept(bench: Bench, tmp_path: Path) -> None:
    tally, item = Tally(), Seed("made-trap", ".trap", {"": b"TRAP traceback"})
    for number in (4, 5):
        try_one(bench, item, number, tally, tmp_path)
    (found,) = [key for key in tally.found if key[1].startswith("info")]
    assert found[0] == "internal error" and "KeyError" in found[1]
    assert tally.found[found][0] == 4 and tally.counts[found] == 2 and tally.ends["trap", REFUSED] == 2
    assert (tmp_path / "4-internal-error" / "input.trap").read_bytes() == item.files[""]
    assert "KeyError" in (tmp_path / "4-internal-error" / "finding.txt").read_text("utf-8")


def test_a_good_file_after_all_that_is_read(bench: Bench) -> None:
    assert bench.try_input(SEEDS["made-png-grey"], 2) == (READ, [])


def answer(**changes: object) -> dict[str, object]:
    plain = {"code": 0, "raised": False, "error": None, "stderr": "", "stdout": "", "peak": 1, "torch": False, "left": []}
    return plain | changes


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"code": 3, "stderr": "error: a.tif: bad; get a copy\n"}, "exit code"),
        ({"code": 1, "stderr": ""}, "message"),
        ({"code": 1, "stderr": "error: a.tif: a bug in echo: KeyError: 1 (-v shows where)\n"}, "internal error"),
        ({"code": 1, "stderr": "warning: a.tif: x\nerror: a.tif: y\n"}, "noise"),
        ({"code": 1, "stderr": "error: a.tif: \x1b[2J\n"}, "message"),
        ({"code": 0, "stderr": "warning: a.tif: first\nsecond\n"}, "noise"),
        ({"code": 1, "stderr": "error: a.tif: '>' not supported between instances of 'tuple' and 'int'\n"}, "message"),
        ({"code": 0, "stdout": "12"}, "noise"),
        ({"code": 0, "peak": 10**10}, "memory"),
    ],
)
def test_ends_that_are_not_as_they_should_be_are_told_apart(changes: dict[str, object], kind: str) -> None:
    found = judge(answer(**changes), "echo", Path("a.tif"), None, 10**9)
    assert [finding.kind for finding in found] == [kind]


def test_good_ends_are_no_findings() -> None:
    for changes in (
        {"code": 1, "stderr": "error: a.tif: bad; get a copy\n"},
        {"stderr": "note: a.tif: x\na.tif -> b.tif: 1 s\n"},
    ):
        assert judge(answer(**changes), "echo", Path("a.tif"), None, 10**9) == []


def test_an_output_is_there_after_success_alone_whole_and_of_the_right_size(tmp_path: Path) -> None:
    output = tmp_path / "result.png"
    assert judge_output(tmp_path, output, 1, None) == []
    assert judge_output(tmp_path, output, 0, (40, 52, 1))[0].kind == "partial output"
    output.write_bytes(SEEDS["made-png-grey"].files[""])
    assert judge_output(tmp_path, output, 0, (40, 52, 1)) == []
    assert judge_output(tmp_path, output, 0, (40, 51, 1))[0].kind == "disagreement"
    assert judge_output(tmp_path, output, 0, None)[0].kind == "disagreement"
    assert judge_output(tmp_path, output, 1, None)[0].kind == "partial output"
    output.write_bytes(SEEDS["made-png-grey"].files[""][:900])
    (found,) = judge_output(tmp_path, output, 0, (40, 52, 1))
    assert (found.kind, found.key) == ("partial output", "does not open") and str(output) in found.detail


@pytest.mark.parametrize("as_json", [False, True])
def test_the_size_is_what_info_says(bench: Bench, tmp_path: Path, as_json: bool) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(SEEDS["made-tif-ome"].files[""])
    told = bench.info(["info", str(path), *["--json"] * as_json])
    assert size_of(told, as_json) == (20, 24, 12)
    assert size_of({"code": 1}, as_json) is None
