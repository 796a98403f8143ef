"""The model is found by its name, is the file that its card says, and finds nuclei."""

from __future__ import annotations

import hashlib

import numpy as np
from i2i_example_nuclei import i2i_models

import i2i


def test_the_file_is_the_one_of_the_card():
    (card,) = i2i_models()
    assert hashlib.sha256(card.file.read_bytes()).hexdigest() == card.sha256
    assert card.licence and card.data and card.not_for and card.metrics


def test_it_finds_bright_discs():
    y, x = np.mgrid[:160, :160]
    image = np.full((160, 160), 20, np.uint8)
    for row, column in ((30, 40), (60, 110), (120, 60)):
        image[(y - row) ** 2 + (x - column) ** 2 < 11**2] = 140
    labels = i2i.load("segment", model="nuclei-quick", precision="fp32")(image)
    found = [labels[row, column] for row, column in ((30, 40), (60, 110), (120, 60))]
    assert len(set(found)) == 3 and 0 not in found
    assert labels[5, 5] == 0
