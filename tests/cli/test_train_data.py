"""Training data as users have them: how images and masks are paired, and what a model knows of the images it was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from i2i.models import open_model
from tests.cli.kit import done, files, load, picture, refused, save
from tests.cli.lessons import TINY, ids

UM = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}


@pytest.fixture
def train(i2i):
    """``i2i train segment`` of a tiny network, for two steps."""
    return lambda *words: i2i("train", "segment", "--steps", 2, *TINY, *words)


def header(path="m.safetensors"):
    return open_model(path).config


# ----------------------------------------------------------------------------------------------------------------- pairs


def test_labels_that_i2i_wrote_are_masks_of_their_images(train, i2i, folder):
    for number in range(2):
        save(f"images/{number}.ome.tif", picture(64, 80, seed=number), ome=True)
    done(i2i("segment", "images", "-o", "masks"))
    assert files(folder / "masks") == ["0.tif", "1.tif"]
    done(train("--images", "images", "--masks", "masks", "-o", "m.safetensors"))
    done(i2i("segment", "images", "-o", "found", "--model", "m.safetensors"))
    done(i2i("eval", "segment", "found", "masks"))
