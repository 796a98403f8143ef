"""Model files, names and archives that nobody should trust: refused in one line by whatever takes a model, and never run."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from i2i.models import open_model, save_model
from tests.cli.kit import picture, save
from tests.core.test_models import Server, server  # noqa: F401 (a fixture)
from tests.faults.networks import description
from tests.faults.program import Call, Program
from tests.faults.test_bad_images import assert_one_line
from tests.faults.uses import IMAGE_TASKS, SMALL, prepare

RAN = "ran"
"""The folder that a trap makes when it is opened."""


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (RAN,)


# ------------------------------------------------------------------------------------------------- every way to give a model

_IN, _OUT = ["a.tif", "-o", "out.tif"], ["--style", "a.tif"]
_MASKS = ["--images", "images", "--masks", "masks"]
USES: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    **{
        task: (f"{task}-1.safetensors", lambda path, task=task: [task, "--model", path, *_IN])
        for task in IMAGE_TASKS
        if task != "bioimage"
    },
    "stylize --encoder": ("encoder.safetensors", lambda path: ["stylize", *_IN, *_OUT, "--encoder", path]),
    "train segment --from": ("segment-1.safetensors", lambda path: [*train("segment"), *_MASKS, "--from", path]),
    "train instances --from": ("instances-1.safetensors", lambda path: [*train("instances"), *_MASKS, "--from", path]),
    "train translate --from": (
        "translate-1.safetensors", lambda path: [*train("translate"), "--source", "images", "--target", "images", "--from", path]
    ),
    "train stylize --encoder": (
        "encoder.safetensors", lambda path: [*train("stylize"), "--images", "images", *_OUT, "--encoder", path]
    ),
    "models export": ("segment-1.safetensors", lambda path: ["models", "export", path, "-o", "net.pt"]),
}  # fmt: skip
"""The good file that stands behind a model, and the words that give it."""


def train(task: str) -> list[str]:
    """``i2i train TASK``: the network is that of the file."""
    return ["train", task, *SMALL, "--crop", "64", "-o", "model.safetensors"]


# ---------------------------------------------------------------------------------------------------------------- files


def malicious(good: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Trap()}))


def in_a_zip(good: Path, path: Path) -> None:
    """As torch.save writes it."""
    torch.save({"weight": Trap()}, path)


def misfit(good: Path, path: Path) -> None:
    """The tensors are those of another network than the header's."""
    model = open_model(good)
    save_model(path, {f"other.{name}": value for name, value in model.tensors().items()}, model.config)


def truncated(good: Path, path: Path) -> None:
    content = good.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])


def long_header(good: Path, path: Path) -> None:
    """Of 200 MB, all of them there: as a file with a hole, which takes no room."""
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 200_000_000) + b"{")
        stream.truncate(200_000_100)


def escaping(good: Path, path: Path) -> None:
    save_file({"layer/../../weight": np.ones(3, np.float32)}, path)


def bomb(good: Path, path: Path) -> None:
    """200 MB of zeros in 200 kB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as held,
    ):
        for _ in range(200):
            held.write(bytes(10**6))


@dataclass(frozen=True)
class Weights:
    make: Callable[[Path, Path], object]
    told: tuple[str, ...]
    suffix: str = ".safetensors"


_CURES = (
    "i2i models list", "give --from a model file", "train with the settings of that model", "get the model", "get the encoder",
    "make it with", "makes them", "give it with --encoder", "save the weights alone", "Save the weights alone", "do not trust",
)  # fmt: skip
_HIDDEN = (
    "holds more than tensors (a program, or objects)", "holds more than data", "not a model of", "no network that",
    "does not say of which task",
)  # fmt: skip
"""Tasks whose files have a header refuse weights alone before anything in them is read."""
WEIGHTS = {
    "malicious pickle": Weights(malicious, ("a pickle, which can run any program",)),
    "malicious pickle, .pt": Weights(malicious, ("a pickle, which can run any program", "not a checkpoint of i2i train"), ".pt"),
    "pickle inside a zip": Weights(in_a_zip, _HIDDEN, ".pt"),
    "pickle inside a zip, .safetensors": Weights(in_a_zip, _HIDDEN),
    "wrong architecture": Weights(
        misfit, ("do not fit", "missing", "not those of", "other architecture", "another architecture")
    ),
    "truncated safetensors": Weights(truncated, ("damaged or cut short",)),
    "header over 100 MB": Weights(long_header, ("above the limit of 100 MB",)),
    "tensor names with /..": Weights(escaping, ("could leave a folder",)),
    "zip bomb": Weights(bomb, ("a compressed archive",), ".pt"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_refused(name: str, program: Program, networks: Path, folder: Path) -> None:
    case, path = WEIGHTS[name], f"given{WEIGHTS[name].suffix}"
    calls, before = {}, {}
    for number, (use, (good, words)) in enumerate(USES.items()):
        place = folder / str(number)
        place.mkdir()
        save(place / "a.tif", picture(64, 80))
        if use.startswith("train"):
            prepare(place, "train segment, an image", "image.tif")
            save(place / "images/2.tif", picture(64, 80))
        if name == "zip bomb" and number:
            os.link(folder / "0" / path, place / path)
        else:
            case.make(networks / good, place / path)
        unsafe = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        calls[use], before[use] = Call(place, words(path), environment=unsafe), set(tree_names(place))
    for use, ended in zip(USES, program.run_all(list(calls.values())), strict=True):
        line = replace(ended, err=ended.lines[-1])  # data are read, and told of, before the weights are put into a network
        assert_one_line(line, 1, path, "", *_CURES)
        assert any(told in line.err for told in case.told), (use, ended)
        assert len(ended.lines) == 1 or (name == "wrong architecture" and use.startswith("train")), ended
        assert set(tree_names(calls[use].folder)) == before[use], use


def tree_names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_trap_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    malicious(Path(), folder / "a.pt")
    pickle.loads((folder / "a.pt").read_bytes())
    assert (folder / RAN).is_dir()


@pytest.mark.parametrize("task", IMAGE_TASKS[:-1])
def test_a_model_of_another_task(task: str, program: Program, networks: Path, folder: Path) -> None:
    save(folder / "a.tif", picture(64, 80))
    other = "translate" if task == "segment" else "segment"
    path = shutil.copy(networks / f"{other}-1.safetensors", folder / "other.safetensors")
    ended = program.run(folder, task, "--model", Path(path).name, "a.tif", "-o", "out.tif")
    assert_one_line(ended, 1, "other.safetensors: ", f"a model for {other}, not for {task}", f"give a model for {task}")
    assert tree_names(folder) == ["a.tif", "other.safetensors"]


# ------------------------------------------------------------------------------------------------------- a model from afar

_CARD = """
from i2i import registry
from i2i.contracts import ModelCard
models = registry.Registry.models
card = ModelCard("cells", {task!r}, "Cells", 1, {sha256!r}, "CC0-1.0", "none", url={url!r})
registry.Registry.models = lambda self, task: [*models(self, task), *([card] if task == {task!r} else [])]
"""
"""A plugin that publishes a model for download."""


@pytest.mark.parametrize("task", IMAGE_TASKS[:-1])
def test_downloads(task: str, program: Program, networks: Path, folder: Path, server: Server) -> None:  # noqa: F811
    """Offline and absent, another file than the card's, a connection that breaks off; then it is there, and is checked again."""
    good = (networks / f"{task}-1.safetensors").read_bytes()
    server.data, sha256 = good, hashlib.sha256(good).hexdigest()
    before = _CARD.format(task=task, sha256=sha256, url=server.url)
    save(folder / "a.tif", picture(64, 80))
    cached = folder / f"cache/cells-{sha256[:12]}{Path(server.url).suffix.replace('.safetensors', '.safetensors')}"

    def call(*more: str, offline: str = "") -> Any:
        environment = {"I2I_OFFLINE": offline, "I2I_CACHE_DIR": str(folder / "cache")}
        words = [task, "--model", "cells", "a.tif", "-o", "out.tif", "-q", *more]
        return program.run(folder, *words, before=before, environment=environment)

    assert_one_line(call(offline="1"), 1, "model cells: not in the cache", f"put it at {cached}", server.url)
    assert tree_names(folder) == ["a.tif"] and not server.asked
    server.data = good[:-1] + b"?"
    assert_one_line(call(), 1, f"model cells: {server.url} gave another file", "it was deleted", "try again")
    assert not (folder / "out.tif").exists() and not cached.exists()
    server.data, server.breaks = good, [len(good) // 4, 10, 10]
    assert_one_line(call(), 1, "model cells: the download failed, the connection broke off", "it goes on where it stopped")
    assert not cached.exists() and cached.with_name(f"{cached.name}.part").stat().st_size == len(good) // 4 + 20
    ended = call()
    assert (ended.code, server.asked[-1], cached.read_bytes()) == (0, f"bytes={len(good) // 4 + 20}-", good), ended
    (folder / "out.tif").unlink()
    cached.write_bytes(good[:-1] + b"?")
    assert_one_line(call(offline="1"), 1, "model cells: not in the cache", str(cached))
    assert not (folder / "out.tif").exists()


# -------------------------------------------------------------------------------------------------------------- names

NAMES = {"../": "../secret", "#": "nuclei#fluo", "%2e": "%2e%2e", "%2e, a path": "%2e%2e/secret", "an absolute path": "/secret"}


@pytest.mark.parametrize("name", NAMES)
def test_model_names(name: str, program: Program, folder: Path) -> None:
    """A name from outside is compared with those of the cards; what looks like a path is one, and nothing is made or fetched."""
    save(folder / "a.tif", picture(64, 80))
    given = NAMES[name]
    calls = [["models", "info", given], ["models", "get", given], ["models", "export", given, "-o", "x.pt"]]
    calls += [[task, "--model", given, "a.tif", "-o", "out.tif"] for task in IMAGE_TASKS[:-1]]
    calls += [["stylize", "--encoder", given, "--style", "a.tif", "a.tif", "-o", "out.tif"]]
    cures = ("no such file", "models for", "there are: ", "i2i models list")
    for ended in program.run_all([Call(folder, words) for words in calls]):
        assert_one_line(ended, 1, "", given, *cures)
    assert tree_names(folder) == ["a.tif"]


# ----------------------------------------------------------------------------------------------------------- packages


@pytest.fixture
def package(networks: Path, folder: Path) -> Path:
    save(folder / "a.tif", picture(64, 80))
    (folder / "secret.py").write_text(f"import os\nos.mkdir({RAN!r})\n")
    shutil.copy(networks / "bioimage-1/weights.pt", folder / "secret.pt")
    return Path(shutil.copytree(networks / "bioimage-1", folder / "package"))


def bioimage(program: Program, folder: Path, told: str, *cures: str, package: str = "package", start: str = "package/") -> None:
    before = tree_names(folder)
    ended = program.run(folder, "bioimage", "--package", package, "--allow-code", "a.tif", "-o", "out.tif")
    assert_one_line(ended, 1, start, told, *cures)
    assert tree_names(folder) == before


@pytest.mark.parametrize("member", ["absolute", "../", "link"])
@pytest.mark.parametrize("what", ["weights", "code"])
def test_members_of_a_package_outside_of_it(what: str, member: str, program: Program, folder: Path, package: Path) -> None:
    secret = "secret.pt" if what == "weights" else "secret.py"
    names = {"absolute": str(folder / secret), "../": f"../{secret}", "link": f"link{Path(secret).suffix}"}
    (package / names["link"]).symlink_to(folder / secret)
    described: Any = description(1, 1, {"callable": "Blur", "kwargs": {"channels": 1}})
    state = described["weights"]["pytorch_state_dict"]
    (state if what == "weights" else state["architecture"])["source"] = names[member]
    (package / "rdf.yaml").write_text(yaml.safe_dump(described))
    bioimage(program, folder, "which is not in its folder", start="package/rdf.yaml: ")


@pytest.mark.parametrize("location", ["../secret.bin", "absolute"])
def test_tensors_of_onnx_outside_of_a_package(location: str, program: Program, folder: Path, package: Path) -> None:
    from onnx import TensorProto, helper

    secret = folder / "secret.bin"
    secret.write_bytes(np.full(9, 1 / 9, np.float32).tobytes())
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], np.zeros(9, np.float32))
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", str(secret) if location == "absolute" else location), ("offset", "0"), ("length", "36")):
        weight.external_data.add(key=key, value=value)
    sides = ["n", "c", "h", "w_"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], "blur",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sides)], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (package / "weights.onnx").write_bytes(model.SerializeToString())
    described: Any = description(1, 1, {})
    described["weights"] = {"onnx": {"source": "weights.onnx"}}
    (package / "rdf.yaml").write_text(yaml.safe_dump(described))
    bioimage(program, folder, "which is not in its folder", start="package/rdf.yaml: ")


@pytest.mark.parametrize(
    "name", ["malicious pickle", "pickle inside a zip", "truncated safetensors", "zip bomb", "tensor names with /.."]
)
def test_weights_of_a_package(name: str, program: Program, networks: Path, folder: Path, package: Path) -> None:
    (package / "weights.pt").unlink()
    WEIGHTS[name].make(networks / "segment-1.safetensors", package / "weights.pt")
    bioimage(program, folder, "", start="package/")


def test_another_hash_than_the_descriptions(program: Program, folder: Path, package: Path) -> None:
    described: Any = description(1, 1, {"callable": "Blur", "kwargs": {"channels": 1}})
    described["weights"]["pytorch_state_dict"]["sha256"] = "0" * 64
    (package / "rdf.yaml").write_text(yaml.safe_dump(described))
    bioimage(program, folder, "not the file of the description (its sha256 differs)", "get the package again")


def test_archives_are_not_opened(program: Program, folder: Path, package: Path) -> None:
    """So what their members are called does not matter."""
    with zipfile.ZipFile(folder / "package.zip", "w") as archive:
        archive.writestr("../escaped", "x")
        archive.write(package / "rdf.yaml", "rdf.yaml")
    bioimage(program, folder, "a file; unpack it", "give the folder", package="package.zip", start="--package package.zip: ")
