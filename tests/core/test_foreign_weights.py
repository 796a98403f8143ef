"""Weights alone: PyTorch's own files and what only looks like them, the commands for models, the cards of COCO."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.cli import manage
from i2i.contracts import ModelCard
from i2i.errors import ModelError
from i2i.models import cached_path, find_model, hash_file, open_model
from i2i.registry import Plugin, Registry
from i2i_unet.predictor import read_header

CARDS = Path(__file__).parents[2] / "plugins" / "i2i_maskrcnn" / "models"
WEIGHTS = {
    "body.weight": torch.arange(600.0).reshape(20, 30),
    "body.count": torch.tensor(7),
    "head.bias": torch.tensor([0.5, -2], dtype=torch.bfloat16),
}
KINDS = {"archive": True, "old": False}


def save(value: Any, path: Path, kind: str = "archive") -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=KINDS[kind])
    return path


def fails(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(ModelError) as caught:
        call()
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def same(found: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(WEIGHTS) and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in WEIGHTS.items()
    )


# ---------------------------------------------------------------------------------------------------------------- read

WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "alone": lambda weights: weights,
    "ordered": OrderedDict,
    "parameters": lambda weights: {name: torch.nn.Parameter(value, value.is_floating_point()) for name, value in weights.items()},
    "under model": lambda weights: {"model": weights, "epoch": 3, "optimizer": {"state": {}}},
    "under state_dict": lambda weights: {"state_dict": OrderedDict(weights), "args": "x"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ""])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_state_dict_is_read_as_it_is(wrapped: str, suffix: str, kind: str, tmp_path: Path) -> None:
    path = save(WRAPPED[wrapped](WEIGHTS), tmp_path / f"made{suffix}", kind)
    model = find_model(path, "instances", [])
    assert (model.name, model.config, model.card, model.sha256) == ("made", {}, None, hash_file(path))
    found = model.tensors()
    assert same(found) and not any(tensor.requires_grad for tensor in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_becomes_of_the_tensors_does_not_reach_the_file(kind: str, tmp_path: Path) -> None:
    path = save(WEIGHTS, tmp_path / "a.pth", kind)
    before = path.read_bytes()
    for tensor in open_model(path).tensors().values():
        tensor.zero_()
    assert path.read_bytes() == before and same(open_model(path).tensors())


OPEN = """
import sys
from pathlib import Path
from i2i.models import open_model
assert open_model(Path(sys.argv[1])).config == {}
assert "torch" not in sys.modules
"""


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    path = save(WEIGHTS, tmp_path / "a.pth")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", OPEN, path], env=environment, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the list of what is mapped is Linux's")
def test_an_archive_is_mapped_and_not_copied(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(2**20), "v": torch.ones(3)}, tmp_path / "a.pth")
    tensors = open_model(path).tensors()
    assert f" {path}\n" in Path("/proc/self/maps").read_text()
    assert tensors["v"].tolist() == [1, 1, 1]


def test_a_file_changed_since_it_was_opened(tmp_path: Path) -> None:
    model = open_model(save(WEIGHTS, tmp_path / "a.pth"))
    save({"w": torch.ones(1)}, tmp_path / "a.pth")
    fails(model.tensors, "changed since it was opened")


def test_a_task_that_needs_a_header_refuses_weights_alone(tmp_path: Path) -> None:
    model = find_model(save(WEIGHTS, tmp_path / "a.pth"), "segment", [])
    fails(lambda: read_header(model), str(tmp_path / "a.pth"), "not a model of segment")


# ------------------------------------------------------------------------------------------------------------- refused


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("under", ["", "model"])
def test_a_command_is_never_run(under: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, weights = tmp_path / "run", WEIGHTS | {"x": Command(tmp_path / "run")}
    path = save({under: weights} if under else weights, tmp_path / "a.pth", kind)
    fails(open_model(path).tensors, str(path), "a program", "not loaded", "state_dict()")
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap does not work"


def test_objects_are_not_loaded(tmp_path: Path) -> None:
    fails(open_model(save(torch.nn.Linear(2, 2), tmp_path / "a.pth")).tensors, "more than tensors")
    trained = {"model": WEIGHTS, "args": argparse.Namespace(rate=1)}
    fails(open_model(save(trained, tmp_path / "b.pth")).tensors, "more than tensors", "torch.save(model.state_dict(), FILE)")


NO_WEIGHTS: dict[str, Any] = {
    "a list": [torch.ones(1)],
    "a tensor": torch.ones(1),
    "a number": 3,
    "nothing": {},
    "numbers": {"a": 1},
    "a number among tensors": {"a": torch.ones(1), "b": 2},
    "names that are numbers": {1: torch.ones(1)},
    "an empty model": {"model": {}, "x": torch.ones(1)},
    "deeper": {"model": {"state_dict": {"w": torch.ones(1)}}},
    "a sparse tensor": {"w": torch.eye(3).to_sparse()},
    "a tensor of no device": {"w": torch.ones(3, device="meta")},
    "one number for a trillion": {"w": torch.ones(1).expand(10**6, 10**6)},
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_what_is_no_dict_of_tensors(case: str, tmp_path: Path) -> None:
    path = save(NO_WEIGHTS[case], tmp_path / "a.pth")
    fails(open_model(path).tensors, str(path), "no dict of tensors", "state_dict")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\x9b31m", "../a", "/a", "a" * 9999 + "\0"])
def test_names_that_are_no_names(name: str, tmp_path: Path) -> None:
    path = save({name: torch.ones(1)}, tmp_path / "a.pth")
    fails(open_model(path).tensors, str(path), "tensor name")
    with pytest.raises(ModelError, match=r"^.{1,500}$"):
        open_model(path).tensors()


def archive(path: Path, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in entries.items():
            made.writestr(name.replace("_", "/", 1).replace("_", "."), data)


def overlapping(path: Path) -> None:
    """Many entries of an archive that are the same bytes."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", pickle.dumps({}, 2))
        made.writestr("a/data/0", bytes(10_000))
        for number in range(1, 9):
            again = copy.copy(made.filelist[-1])
            again.filename = f"a/data/{number}"
            made.filelist.append(again)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as made:
        made.add(__file__, "storages")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a document": (partial(archive, word_document_xml=b"<x/>"), "a zip archive without weights"),
    "a program": (partial(archive, a_data_pkl=b"", a_constants_pkl=b"", **{"a_code/x_py": b""}), "TorchScript"),
    "compressed": (partial(archive, compression=zipfile.ZIP_DEFLATED, a_data_pkl=bytes(10**6)), "compressed"),
    "overlapping": (overlapping, "do not trust"),
    "a tar archive": (tarred, "a tar archive"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"w": 1}, 2)), "a pickle"),
    "an empty archive": (partial(archive, a_data_pkl=b""), "damaged"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_only_looks_like_weights(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    FOREIGN[case][0](path)
    fails(lambda: open_model(path).tensors(), str(path), FOREIGN[case][1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short(kind: str, tmp_path: Path) -> None:
    path = save(WEIGHTS, tmp_path / "a.pth", kind)
    whole = path.read_bytes()
    for length in (30, len(whole) // 3, len(whole) - 1000, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        fails(lambda: open_model(path).tensors(), str(path), "damaged")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save(WEIGHTS, tmp_path_factory.mktemp("damaged") / "a.pth", kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert all(type(tensor) is torch.Tensor for tensor in open_model(path).tensors().values())
    except ModelError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


# ------------------------------------------------------------------------------------------------------------ commands


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    listener.server_close()
    thread.join()


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelCard]:
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("I2I_OFFLINE", raising=False)
    (tmp_path / "web").mkdir()
    path = save(WEIGHTS, tmp_path / "web" / "made.pth")
    with served(tmp_path / "web") as url:
        card = ModelCard("coco", "instances", "things", 3, hash_file(path), "MIT", "", url=f"{url}/made.pth")
        monkeypatch.setattr(Registry, "all", lambda self: [Plugin("instances", "made", models=(card,))])
        yield card


def run(*words: str | Path) -> None:
    name = " ".join(map(str, words[:2]))
    manage.make(name, Registry()).main([str(word) for word in words[2:]], standalone_mode=False)


def test_a_model_is_listed_fetched_and_listed_again(coco: ModelCard, capsys: pytest.CaptureFixture[str]) -> None:
    run("models", "list")
    assert capsys.readouterr().out.splitlines()[1].split() == ["coco", "instances", "3", "download", "MIT", "things"]
    run("models", "get", "coco")
    said = capsys.readouterr()
    assert said.out == f"{cached_path(coco)}\n" and cached_path(coco).suffix == ".pth"
    assert said.err.startswith("coco: downloaded ") and said.err.endswith(" kB\n")
    run("models", "info", "coco")
    assert {"where: cached", f"url: {coco.url}", f"sha256: {coco.sha256}"} <= set(capsys.readouterr().out.splitlines())
    assert same(find_model("coco", "instances", [coco]).tensors())


def test_offline_says_what_goes_where_and_takes_it_from_there(
    coco: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("I2I_OFFLINE", "1")
    told = (str(coco.url), coco.sha256, f"put it at {cached_path(coco)}", "in place of the name", "I2I_OFFLINE")
    fails(lambda: run("models", "get", "coco"), *told)
    fails(lambda: find_model("coco", "instances", [coco]), *told)
    cached_path(coco).parent.mkdir()
    (tmp_path / "web" / "made.pth").rename(cached_path(coco))
    run("models", "get", "coco")
    assert capsys.readouterr().out == f"{cached_path(coco)}\n"
    assert same(find_model("coco", "instances", [coco]).tensors())


def test_info_of_weights_alone(coco: ModelCard, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "web" / "made.pth"
    run("models", "info", path)
    lines = capsys.readouterr().out.splitlines()
    assert f"sha256: {coco.sha256}" in lines and any(line.startswith("header: none") for line in lines)
    fails(lambda: run("models", "info", "none.pth"), "none.pth: no such file")


# --------------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", ["coco", "coco-v1"])
def test_the_cards_of_coco(name: str) -> None:
    card = ModelCard.from_toml(CARDS / f"{name}.toml")
    assert (card.name, card.task, card.channels, card.precisions) == (name, "instances", 3, ("fp32",))
    assert card.takes(1) and not card.takes(4) and not card.default and card.file is None
    start = Path(str(card.url)).stem.rpartition("-")[2]  # torchvision names a file after its hash
    assert len(start) == 8 and card.sha256.startswith(start)
    assert cached_path(card).name == f"{name}-{card.sha256[:12]}.pth"
    assert "CC BY 4.0" in card.data and card.not_for and card.made_by.startswith("torchvision")
    assert all("not measured by i2i" in figure for figure in card.metrics) and len(card.metrics) == 2
