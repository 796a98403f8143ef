"""What the documents say of the code is so."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from i2i import contracts, hookspecs
from i2i.contracts import ImageSpec, Runtime
from i2i.geometry import Region, make_grid
from i2i.models import open_model
from i2i_unet import i2i_models
from i2i_unet.network import UNetConfig, footprint

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
PATH = re.compile(r"`((?:i2i|plugins|examples|docs|tests|benchmarks|i2i_unet|formats)/[\w./*-]*)`")
ABOVE = {"i2i_unet": ROOT / "plugins", "formats": ROOT / "i2i"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_named_in_a_document_exist(document):
    for name in PATH.findall(document.read_text("utf-8")):
        base = ABOVE.get(name.split("/")[0], ROOT)
        assert list(base.glob(name.rstrip("/"))), f"{document.name} names {name}, which is not there"


def test_pictures_in_the_readme_exist():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / picture).exists()


def test_the_way_of_one_pixel_is_that_of_the_code():
    text = " ".join((ROOT / "docs/architecture.md").read_text("utf-8").split())
    needs = footprint(UNetConfig(channels=1, classes=3))
    assert f"halo {needs.halo}, stride {needs.multiple_of}" in text
    grid = make_grid((20_000, 20_000), (1024, 1024), halo=needs.halo, stride=needs.multiple_of)
    row, column = grid.rows.at(5000), grid.columns.at(7000)
    tile = grid.tile(row, column)
    assert tile.core.contains(Region(5000, 7000, 1, 1))
    assert f"core is {grid.rows.step} pixels" in text
    assert f"row {row}, column {column} (rows {tile.core.y} to {tile.core.bottom - 1}" in text
    assert f"columns {tile.core.x} to {tile.core.right - 1}" in text
    assert f"begins at row {tile.window.y}, column {tile.window.x}" in text


def test_modules_in_the_table_of_levels_exist():
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    table = text[text.index("## Levels") :]
    for row in re.findall(r"^\| \d \| (.+) \|$", table, re.M):
        for name in re.findall(r"`([\w/]+)`", row):
            place = ROOT / "i2i" / name
            assert place.is_dir() or place.with_suffix(".py").exists(), name


def test_commands_of_the_contract_are_in_the_readme_or_the_help():
    """Every subcommand that the README shows is one of the program's."""
    from i2i.cli.app import build

    known = set(build().list_commands(None))
    shown = set(re.findall(r"^i2i (\w+)", (ROOT / "README.md").read_text("utf-8"), re.M))
    assert shown and shown <= known


def commands_of(document):
    """The lines of i2i in its blocks for a shell, as words; what they pipe and redirect is left out."""
    for block in re.findall(r"```sh\n(.+?)```", document.read_text("utf-8").replace("\\\n", " "), re.S):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if "i2i" in words and "..." not in words:
                rest = words[words.index("i2i") + 1 :]
                yield list(itertools.takewhile(lambda word: word not in ("|", "<", ">", "2>", "&&"), rest))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_of_a_document_can_be_given(document):
    """The command is there, its options are, and none that it needs is missing."""
    from i2i.cli.app import build

    known = {"i2i unsharp", "i2i flatten"}  # of the plugins that the documents tell of
    for words in commands_of(document):
        group, rest = build(), list(words)
        while hasattr(group, "list_commands"):
            found = group.get_command(None, rest[0]) if rest else None
            assert found or f"i2i {words[0]}" in known, " ".join(words)
            if found is None:
                break
            group, rest = found, rest[1:]
        else:
            with contextlib.suppress(typer.Exit):  # --help
                group.make_context("i2i", rest)


def test_no_placeholder_is_left_in_a_document():
    for document in DOCUMENTS:
        assert not re.search(r"@[A-Z]+@|TODO|FIXME", document.read_text("utf-8")), document.name


def test_figures_of_the_bundled_model_are_those_of_its_card():
    (card,) = [card for card in i2i_models() if card.name == "nuclei-fluo"]
    row = next(line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("| `nuclei-fluo`"))
    assert f"| {card.metrics['AP at IoU 0.5, mean over 88 test images']} (88 images" in row
    grown = open_model(card.file, card).config["label_rule"]["dilate"]
    words = {1: "one pixel", 2: "two pixels"}[grown]
    assert f"it grows {words}" in " ".join((ROOT / "docs/architecture.md").read_text("utf-8").split())


# ------------------------------------------------------------------------------------------------ what is made from the code


def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "contracts.md"])
def test_what_is_made_from_the_code_is_that_of_the_code(name, monkeypatch):
    monkeypatch.setenv("I2I_DISABLE_PLUGINS", "1")
    assert (ROOT / "docs" / name).read_text("utf-8") == make_reference().MADE[name](), "run python docs/make_reference.py"


def test_every_hook_and_every_name_of_the_contracts_is_in_the_reference():
    text = (ROOT / "docs/contracts.md").read_text("utf-8")
    hooks = [name for name in vars(hookspecs) if name.startswith("i2i_")]
    classes = [name for name in contracts.__all__ if inspect.isclass(getattr(contracts, name))]
    assert len(hooks) == 4 and len(classes) > 20
    assert all(f"`{hook}() ->" in text for hook in hooks) and all(f"### {name}\n" in text for name in classes)


def code_of_plugins(start: str) -> str:
    """The block of Python in the document that begins so."""
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "docs/plugins.md").read_text("utf-8"), re.S)
    (found,) = [block for block in blocks if block.startswith(start)]
    return found


def test_the_plugin_of_the_document_keeps_the_contract(tmp_path, monkeypatch):
    """Its module and its test, as a reader would copy them; and it sharpens."""
    (tmp_path / "i2i_unsharp.py").write_text(code_of_plugins('"""Sharpen'), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict = {}
    exec(code_of_plugins("from i2i.testing"), namespace)
    namespace["test_contract"]()
    (task,) = namespace["i2i_tasks"]()
    step = np.zeros((40, 40, 1), np.uint8)
    step[:, 20:] = 100
    predictor = task.load(task.options(), None, Runtime()).fitted(ImageSpec(40, 40))
    halo = predictor.footprint.halo
    batch = torch.from_numpy(step.astype(np.float32)).permute(2, 0, 1)[None]
    sharp = predictor(batch)[0, 0].numpy()
    inner = step[halo:-halo, halo:-halo, 0].astype(np.float32)
    assert sharp.shape == inner.shape and sharp.max() > 110 and sharp.min() < -10


def test_what_is_said_of_broken_plugins_names_every_kind():
    text = (ROOT / "docs/plugins.md").read_text("utf-8")
    rows = text[text.index("| what is wrong") :].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == 6  # as many as tests/plugins/test_broken_plugins.py breaks
