"""Models: names, files, damage, downloads that break, pickles that must never run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from i2i.contracts import ModelCard
from i2i.errors import I2IError, ModelError, OutputError
from i2i.models import (
    cache_dir,
    cached_path,
    default_model,
    fetch,
    find_model,
    hash_file,
    load_checkpoint,
    model_of_checkpoint,
    offline,
    open_model,
    save_checkpoint,
    save_model,
)

CONFIG = {"task": "segment", "classes": 3}
WEIGHTS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7)}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("I2I_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def card(name: str = "cells", task: str = "segment", channels: int = 1, **more: Any) -> ModelCard:
    values = {"sha256": "0" * 64, "summary": "", "licence": "MIT", "data": ""} | more
    return ModelCard(name=name, task=task, channels=channels, **values)


def fails(call: Callable[[], object], *parts: str, error: type[I2IError] = ModelError) -> None:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- names


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("I2I_CACHE_DIR")
    assert cache_dir().name in {"i2i", "Cache"}
    assert not offline()
    for value, expected in (("1", True), ("yes", True), ("0", False), ("", False), ("false", False)):
        monkeypatch.setenv("I2I_OFFLINE", value)
        assert offline() is expected


def test_a_bundled_model_by_name_and_a_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    cards = [card(sha256=save_model(path, WEIGHTS, CONFIG), file=path), card("other", "translate")]
    by_name = find_model("cells", "segment", cards)
    assert (by_name.name, by_name.card, by_name.config) == ("cells", cards[0], CONFIG)
    by_path = find_model(str(path), "segment", cards)
    assert (by_path.name, by_path.card, by_path.sha256) == ("made", None, by_name.sha256)
    assert find_model(path, "segment", []).path == path
    fails(lambda: find_model(path, "translate", cards), "a model for segment, not for translate")


def test_a_card_comes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()
    path = tmp_path / "made.safetensors"
    known = card(sha256=save_model(path, WEIGHTS, CONFIG), file=path)
    assert find_model("cells", "segment", [known]).card == known
    fails(lambda: find_model("cells", "segment", []), "cells: a folder")


def test_unknown_names_list_those_that_exist() -> None:
    cards = [card("nuclei"), card("cells"), card("facades", "translate")]
    fails(lambda: find_model("nucleus", "segment", cards), "'nucleus'", "models for segment: cells, nuclei")
    fails(lambda: find_model("facades", "segment", cards), "is a model for translate, not for segment", "cells, nuclei")
    fails(lambda: find_model("x", "stylize", cards), "there is none for stylize")
    fails(lambda: find_model("a\nb", "segment", cards), "'a\\nb'")
    fails(lambda: find_model("", "segment", cards), "no model for segment is named ''")
    fails(lambda: find_model("x" * 9999, "segment", cards), "no model")


@pytest.mark.parametrize(
    "name",
    ["../x", "..", "a/../../x", "/etc/passwd", "x#y", "%2e%2e%2fx", "..\\x", "~", "x\0y", "C:\\x", "cells/", "a..b"],
)
def test_names_that_would_leave_the_cache(name: str, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    save_model(tmp_path / "x", WEIGHTS, CONFIG)
    fails(lambda: find_model(name, "segment", [card()]))
    fails(lambda: cached_path(card(name)), "tell the plugin's author")
    fails(lambda: fetch(card(name, url="http://127.0.0.1:9/x")), "tell the plugin's author")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("https://a.b/c.pth", ".pth"),
        ("https://a.b/c.pt?d=e.f", ".pt"),
        ("https://a.b/c.exe", ".safetensors"),
        ("https://a.b.pth", ".safetensors"),
        (None, ".safetensors"),
    ],
)
def test_the_kind_of_a_download_stays(url: str | None, suffix: str) -> None:
    assert cached_path(card(url=url)).name == "cells-000000000000" + suffix


@pytest.mark.parametrize("sha256", ["", "../../x", "0" * 63, "g" * 64])
def test_hashes_that_are_none(sha256: str) -> None:
    fails(lambda: cached_path(card(sha256=sha256)), "no valid sha256")


def test_the_default_model_fits_the_channels() -> None:
    cards = [card("grey", default=True), card("other", channels=3), card("colour", channels=3, default=True)]
    assert default_model("segment", 1, cards).name == "grey"
    assert default_model("segment", 3, cards).name == "colour"
    fails(
        lambda: default_model("segment", 4, cards),
        "4 channels",
        "--model",
        "--channels",
        "grey (1), other (3), colour (3)",
    )
    fails(lambda: default_model("translate", 3, cards), "no model for translate")


def test_a_model_that_takes_gray_images_too_is_their_default_where_no_other_is() -> None:
    colour, grey = card("colour", channels=3, default=True, gray_as_rgb=True), card("grey", default=True)
    assert default_model("segment", 1, [colour]).name == "colour"
    assert default_model("segment", 1, [colour, grey]).name == "grey"
    assert default_model("segment", 3, [colour, grey]).name == "colour"
    fails(lambda: default_model("segment", 2, [colour]), "2 channels")


# --------------------------------------------------------------------------------------------------------------- files


def test_saved_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    sha256 = save_model(path, WEIGHTS, CONFIG)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == hash_file(path)
    model = open_model(path)
    assert (model.sha256, model.config) == (sha256, CONFIG)
    tensors = model.tensors()
    assert {name: value.dtype for name, value in tensors.items()} == {"b.weight": torch.float16, "a.count": torch.int64}
    assert torch.equal(tensors["b.weight"].float(), WEIGHTS["b.weight"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.safetensors"]


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    one = save_model(tmp_path / "a", WEIGHTS, {"x": 1, "y": [2]})
    assert one == save_model(tmp_path / "b", dict(reversed(WEIGHTS.items())), {"y": [2], "x": 1})
    strided = WEIGHTS | {"b.weight": WEIGHTS["b.weight"].t().contiguous().t()}
    assert one == save_model(tmp_path / "c", strided, {"x": 1, "y": [2]})


def test_half_precision_where_it_can_hold_the_values(tmp_path: Path) -> None:
    shared = torch.ones(4)
    tensors = {
        "big": torch.tensor([1e6]),
        "small": shared[:2],
        "tied": shared,
        "grad": torch.ones(1, requires_grad=True),
    }
    save_model(tmp_path / "a.safetensors", tensors, {})
    kinds = {name: value.dtype for name, value in open_model(tmp_path / "a.safetensors").tensors().items()}
    assert kinds == {name: torch.float32 if name == "big" else torch.float16 for name in tensors}
    save_model(tmp_path / "a.safetensors", tensors, {}, half=False)
    assert open_model(tmp_path / "a.safetensors").tensors()["tied"].dtype == torch.float32


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_model(path, WEIGHTS, CONFIG)
    before = path.read_bytes()
    fails(lambda: save_model(path, {"../x": torch.ones(1)}, {}), "tensor name '../x'")
    fails(lambda: save_model(path, WEIGHTS, {"path": tmp_path}), "not plain JSON")
    fails(lambda: save_model(path, WEIGHTS, {"rate": float("nan")}), "not plain JSON")
    fails(lambda: save_model(tmp_path / "no" / "a", WEIGHTS, {}), "cannot be written", error=OutputError)
    fails(lambda: save_model(path / "a", WEIGHTS, {}), "cannot be written", error=OutputError)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_the_hash_must_be_the_cards(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sha256 = save_model(path, WEIGHTS, CONFIG)
    assert open_model(path, card(sha256=sha256.upper())).sha256 == sha256
    fails(lambda: open_model(path, card()), str(path), "delete it and run: i2i models get cells")
    fails(lambda: open_model(path, card(file=path)), "reinstall the package")


def test_a_file_changed_since_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_model(path, WEIGHTS, CONFIG)
    model = open_model(path)
    save_model(path, WEIGHTS, CONFIG | {"classes": 4})
    fails(model.tensors, "changed since it was opened")


def safetensors_bytes(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header(name: str = "w", offsets: tuple[int, int] = (0, 8), **metadata: str) -> dict[str, Any]:
    return {"__metadata__": metadata or {"i2i": "{}"}, name: {"dtype": "F32", "shape": [2], "data_offsets": offsets}}


DAMAGED = {
    "empty": (b"", "empty"),
    "cut": (safetensors_bytes(header(), bytes(4)), "cut short"),
    "cut in the header": (safetensors_bytes(header())[:40], "cut short"),
    "three bytes": (b"abc", "not a safetensors file"),
    "too long": (safetensors_bytes(header(), bytes(99)), "damaged"),
    "a hole": (safetensors_bytes(header(offsets=(8, 16)), bytes(16)), "damaged"),
    "random": (bytes(range(7, 207)), "not a safetensors file"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "settings no JSON": (safetensors_bytes(header(i2i="{"), bytes(8)), "not JSON"),
    "settings too deep": (safetensors_bytes(header(i2i="[" * 99999), bytes(8)), "not JSON"),
    "settings a list": (safetensors_bytes(header(i2i="[]"), bytes(8)), "not a JSON object"),
    "name up": (safetensors_bytes(header("a/../../b"), bytes(8)), "tensor name"),
    "name absolute": (safetensors_bytes(header("/b"), bytes(8)), "tensor name"),
    "name backslash": (safetensors_bytes(header("a\\..\\b"), bytes(8)), "tensor name"),
    "name of two lines": (safetensors_bytes(header("a\nb"), bytes(8)), "tensor name"),
    "name with a command": (safetensors_bytes(header("a\x9b31m"), bytes(8)), "tensor name"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_and_foreign_files(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[case][0])
    fails(lambda: open_model(path), str(path), DAMAGED[case][1])


def test_weights_without_settings_have_no_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(header(format="pt"), struct.pack("<2f", 3, 4)))
    model = find_model(path, "segment", [])
    assert (model.name, model.config) == ("x", {})
    assert model.tensors()["w"].tolist() == [3, 4]


def test_a_header_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:  # sparse: takes no room on the disk
        stream.write(struct.pack("<Q", 200_000_000) + b'{"')
        stream.truncate(200_000_100)
    fails(lambda: open_model(path), "header of 200000000 bytes, above the limit of 100 MB")


def test_absent_files(tmp_path: Path) -> None:
    fails(lambda: open_model(tmp_path / "none.safetensors"), "no such file", "i2i models list")
    fails(lambda: open_model(tmp_path), "a folder")


# ------------------------------------------------------------------------------------------------------------- pickles


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def load_weights(path: Path) -> object:
    return open_model(path).tensors()


def zipped(data: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ""])
@pytest.mark.parametrize("protocol", [0, 2, 4, None], ids=["protocol 0", "protocol 2", "protocol 4", "in a zip"])
@pytest.mark.parametrize("load", [load_weights, load_checkpoint])
def test_a_pickle_is_never_executed(
    suffix: str, protocol: int | None, load: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, path = tmp_path / "executed", tmp_path / f"model{suffix}"
    trap = pickle.dumps({"weight": Trap(mark)}, protocol or 2)
    zipped(trap, path) if protocol is None else path.write_bytes(trap)
    fails(lambda: load(path), str(path))
    if load is load_weights and protocol is None:
        fails(lambda: load(path), "a program", "not loaded")
    elif load is load_weights and (protocol != 0 or suffix.startswith(".pt")):
        fails(lambda: load(path), "pickle", "i2i never opens one")
    assert not mark.exists()
    pickle.loads(trap)
    assert mark.exists(), "the trap does not work"


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_come_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = {"step": 3, "best": -float("inf"), "network": WEIGHTS, "random": torch.get_rng_state(), "none": None}
    save_checkpoint(path, {"step": 2})
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert (loaded["step"], loaded["best"], loaded["none"]) == (3, -float("inf"), None)
    assert torch.equal(loaded["network"]["b.weight"], WEIGHTS["b.weight"])
    assert len(list(tmp_path.iterdir())) == 1


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    fails(lambda: load_checkpoint(path), "no such checkpoint")
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    whole = path.read_bytes()
    for damaged in (b"", whole[:700], whole[: len(whole) // 2], b"abc" * 100):
        path.write_bytes(damaged)
        fails(lambda: load_checkpoint(path), "checkpoint")
    torch.save([1, 2], path)
    fails(lambda: load_checkpoint(path), "not a checkpoint")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    fails(lambda: load_checkpoint(path), "compressed archive")
    fails(lambda: save_checkpoint(tmp_path / "no" / "c.pt", {}), "cannot be written", error=OutputError)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"header": {}}, "does not say what network"),
        ({"best_weights": []}, "does not say what network"),
        ({"best_weights": {"head.weight": 1}}, "weights are no tensors"),
    ],
)
def test_a_checkpoint_is_a_model_where_it_says_which(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine-training" / "checkpoint.pt"
    path.parent.mkdir()
    good = {"header": CONFIG, "best_weights": WEIGHTS}
    save_checkpoint(path, good)
    model = model_of_checkpoint(path)
    assert (model.name, model.config, list(model.tensors())) == ("mine-training", CONFIG, list(WEIGHTS))
    save_checkpoint(path, good | changes)
    fails(lambda: model_of_checkpoint(path), words)


def test_an_interrupted_checkpoint_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def broken(state: object, stream: Path) -> None:
        Path(stream).write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", broken)
    fails(lambda: save_checkpoint(path, {"step": 2}), "disk full", error=OutputError)
    assert load_checkpoint(path)["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


# ----------------------------------------------------------------------------------------------------------- downloads


@dataclass
class Server:
    """A server on this machine. ``breaks``: after how many bytes each coming connection breaks off."""

    data: bytes
    url: str = ""
    ranges: bool = True
    status: int = 200
    shifted: bool = False
    breaks: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            start = int(asked[6:-1]) if asked and server.ranges else 0
            if server.status != 200 or start >= len(server.data):
                return self.send_error(server.status if server.status != 200 else 416)
            self.send_response(206 if start else 200)
            if start:
                first = start + server.shifted
                self.send_header("Content-Range", f"bytes {first}-{len(server.data) - 1}/{len(server.data)}")
            self.send_header("Content-Length", str(len(server.data) - start))
            self.end_headers()
            stop = start + server.breaks.pop(0) if server.breaks else len(server.data)
            self.wfile.write(server.data[start:stop])
            return None

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@pytest.fixture(params=["safetensors", "pth"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    source, weights = tmp_path / "source", {"w": torch.arange(50_000.0)}
    if request.param == "pth":
        torch.save(weights, source)
    else:
        save_model(source, weights, CONFIG, half=False)
    state = Server(source.read_bytes())
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{listener.server_port}/cells.{request.param}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield state
    listener.shutdown()
    listener.server_close()
    thread.join()


@pytest.fixture
def remote(server: Server) -> ModelCard:
    return card(url=server.url, sha256=hashlib.sha256(server.data).hexdigest())


def part(remote: ModelCard) -> Path:
    path = cached_path(remote)
    path.parent.mkdir(exist_ok=True)
    return path.with_name(path.name + ".part")


def test_downloaded_once(server: Server, remote: ModelCard) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(remote, lambda done, whole: seen.append((done, whole)))
    assert path == cached_path(remote)
    assert path.read_bytes() == server.data
    assert seen[-1] == (len(server.data), len(server.data))
    assert path.suffix == Path(server.url).suffix
    model = find_model("cells", "segment", [remote])
    assert model.path == path and torch.equal(model.tensors()["w"], torch.arange(50_000.0))
    assert len(server.asked) == 1
    assert not part(remote).exists()


def test_offline_uses_what_is_there(server: Server, remote: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2I_OFFLINE", "1")
    where = str(cached_path(remote))
    fails(lambda: fetch(remote), "I2I_OFFLINE", server.url, remote.sha256, f"put it at {where}", "in place of the name")
    assert not server.asked
    part(remote)
    cached_path(remote).write_bytes(server.data)
    assert fetch(remote) == Path(where)


def test_another_file_leaves_nothing(server: Server, remote: ModelCard) -> None:
    server.data = b"<html>" * 100
    fails(lambda: fetch(remote), "gave another file", hashlib.sha256(server.data).hexdigest())
    assert not cached_path(remote).exists()
    assert not part(remote).exists()


def test_a_damaged_cache_is_filled_again(server: Server, remote: ModelCard) -> None:
    part(remote)
    cached_path(remote).write_bytes(server.data[:-1] + b"x")
    assert fetch(remote).read_bytes() == server.data


def test_a_broken_connection_is_continued(server: Server, remote: ModelCard) -> None:
    server.breaks = [70_000, 50_000]
    assert fetch(remote).read_bytes() == server.data
    assert server.asked == [None, "bytes=70000-", "bytes=120000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_run_is_continued_by_the_next(server: Server, remote: ModelCard, ranges: bool) -> None:
    server.ranges = ranges
    server.breaks = [1000, 1000, 1000]
    fails(lambda: fetch(remote), "broke off", "put it at")
    assert not cached_path(remote).exists()
    kept = 3000 if ranges else 1000
    assert part(remote).read_bytes() == server.data[:kept]
    assert fetch(remote).read_bytes() == server.data
    assert server.asked[-1] == f"bytes={kept}-"


def test_a_part_of_another_file_is_dropped(server: Server, remote: ModelCard) -> None:
    part(remote).write_bytes(b"x" * 1000)
    assert fetch(remote).read_bytes() == server.data
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("extra", [0, 1, 5000])
def test_a_part_that_is_long_enough(server: Server, remote: ModelCard, extra: int) -> None:
    part(remote).write_bytes(server.data + b"x" * extra)
    assert fetch(remote).read_bytes() == server.data
    assert len(server.asked) == (2 if extra else 0)


def test_a_server_that_sends_another_range(server: Server, remote: ModelCard) -> None:
    server.shifted = True
    part(remote).write_bytes(server.data[:1000])
    assert fetch(remote).read_bytes() == server.data
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (503, 3)])
def test_a_server_that_refuses(server: Server, remote: ModelCard, status: int, attempts: int) -> None:
    server.status = status
    fails(lambda: fetch(remote), str(status), server.url, "put it at")
    assert len(server.asked) == attempts


def test_no_server(remote: ModelCard) -> None:
    away = replace(remote, url="http://127.0.0.1:9/x")
    fails(lambda: fetch(away), "no connection", "put it at", str(cached_path(away)))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "x.safetensors"])
def test_only_http(url: str) -> None:
    fails(lambda: fetch(card(url=url)), "not http or https")


def test_bundled_files_that_are_missing(server: Server, remote: ModelCard, tmp_path: Path) -> None:
    fails(lambda: fetch(card(file=tmp_path / "none")), "missing", "reinstall")
    assert fetch(replace(remote, file=tmp_path / "none")) == cached_path(remote)


def test_a_cache_that_cannot_be_written(remote: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "file"))
    fails(lambda: fetch(remote), "cannot be written", "I2I_CACHE_DIR")


def test_two_threads_fetch_at_once(server: Server, remote: ModelCard) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(remote).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [server.data] * 4
    assert len(server.asked) == 1


FETCH = """
import json, sys
from i2i.contracts import ModelCard
from i2i.models import fetch
name, url, sha256 = sys.argv[1:]
fetch(ModelCard(name, "segment", "", 1, sha256, "MIT", "", url=url))
assert "torch" not in sys.modules
"""


def test_several_processes_fetch_at_once_without_torch(server: Server, remote: ModelCard) -> None:
    arguments = [sys.executable, "-c", FETCH, remote.name, server.url, remote.sha256]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(arguments, env=environment) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert cached_path(remote).read_bytes() == server.data
    assert len(server.asked) == 1
