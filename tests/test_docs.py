"""What the documents say of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
