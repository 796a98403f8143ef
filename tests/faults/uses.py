"""What is done with an image on the command line: every way in which a file reaches a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.cli.kit import blobs, picture, save

IMAGE_TASKS = ("segment", "instances", "translate", "stylize", "bioimage")
SMALL = ("--precision", "fp32", "--steps", "1", "--validate-every", "1", "--batch", "2", "--crop", "32", "--warmup", "0")
_LEARNERS = {
    "segment": ("--depth", "1", "--filters", "4"),
    "instances": ("--stem-stride", "2", "--stages", "2", "--width", "8", "--box-width", "16", "--mask-width", "8"),
    "translate": ("--depth", "2", "--filters", "4", "--patch", "16"),
    "stylize": ("--channels", "4", "--blocks", "1", "--average", "0", "--style-scale", "0.1", "--crop", "64"),
}


def image_words(networks: Path, task: str, channels: int = 1) -> list[str]:
    """The options of ``i2i TASK`` that choose its tiny network for images of so many channels, in fp32."""
    name = f"{task}-{1 if channels == 1 else 3}"
    if task == "bioimage":
        return [task, "--package", str(networks / name), "--allow-code"]
    return [task, "--model", str(networks / f"{name}.safetensors"), "--precision", "fp32"]


def train_words(networks: Path, task: str) -> list[str]:
    """``i2i train TASK`` of a tiny network for one step, without its data."""
    encoder = ("--encoder", str(networks / "encoder.safetensors")) if task == "stylize" else ()
    return ["train", task, *SMALL, *_LEARNERS[task], *encoder, "-o", "model.safetensors"]


@dataclass(frozen=True)
class Use:
    """``place``: where in the folder the image ``name`` has to be; ``words`` of the command line that reads it there."""

    place: Callable[[str], str]
    words: Callable[[Path, str], list[str]]


def _task(task: str) -> Use:
    return Use(str, lambda networks, path: [*image_words(networks, task), path, "-o", "out.tif"])


def _beside(first: bool, *words: str) -> Use:
    """``i2i eval`` of the image and a good one: it is the first, or the second."""
    return Use(str, lambda networks, path: ["eval", *words, *((path, "good.tif") if first else ("good.tif", path))])


def _learn(task: str, folder: str, *data: str) -> Use:
    return Use(lambda name: f"{folder}/2{Path(name).suffix}", lambda networks, path: [*train_words(networks, task), *data])


def _style(*words: str) -> Use:
    def called(networks: Path, path: str) -> list[str]:
        names = {"ENCODER": str(networks / "encoder.safetensors"), "PATH": path}
        return ["stylize", "good.tif", "-o", "out.tif", *(names.get(word, word) for word in words)]

    return Use(str, called)


_MASKS = ("--images", "images", "--masks", "masks")
_SIDES = ("--source", "images", "--target", "images")
USES: dict[str, Use] = {
    **{task: _task(task) for task in IMAGE_TASKS},
    "stylize --style": _style("--style", "PATH", "--encoder", "ENCODER", "--steps", "1"),
    "stylize --mask": _style("--style", "good.tif", "--mask", "PATH", "--encoder", "ENCODER", "--steps", "1"),
    "eval segment": _beside(True, "segment"),
    "eval segment, the truth": _beside(False, "segment"),
    "eval segment --inside": Use(str, lambda networks, path: ["eval", "segment", "good.tif", "good.tif", "--inside", path]),
    "eval instances": _beside(True, "instances"),
    "eval translate": _beside(True, "translate"),
    "train segment, an image": _learn("segment", "images", *_MASKS),
    "train segment, a mask": _learn("segment", "masks", *_MASKS),
    "train instances, an image": _learn("instances", "images", *_MASKS),
    "train instances, a mask": _learn("instances", "masks", *_MASKS),
    "train translate, a source": _learn("translate", "images", *_SIDES),
    "train stylize, a photograph": _learn("stylize", "images", "--images", "images", "--style", "good.tif"),
    "train stylize, the style": Use(
        str, lambda networks, path: [*train_words(networks, "stylize"), "--images", "images", "--style", path]
    ),
}  # fmt: skip


def prepare(folder: Path, use: str, name: str) -> Path:
    """What a use needs besides the image: good images, masks and partners. Returns where the image belongs."""
    place = folder / USES[use].place(name)
    save(folder / "good.tif", blobs(64, 80).astype(np.uint16))
    if use.startswith("train"):
        for number in range(3):
            for kind, pixels in (
                ("images", picture(64, 80, seed=number)),
                ("masks", blobs(64, 80, seed=number).astype(np.uint16)),
            ):
                path = folder / kind / f"{number}.tif"
                if (path.parent, path.stem) != (place.parent, place.stem):
                    save(path, pixels if kind == "images" else pixels.astype(np.uint16))
    place.parent.mkdir(exist_ok=True)
    return place


def tree(folder: Path) -> dict[str, Any]:
    """Every file below a folder with its bytes; folders with None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


def image_of(use: str) -> np.ndarray:
    """The pixels of a good image for a use, (64, 80): numbers of objects where it takes those."""
    labels = use.startswith(("eval segment", "eval instances")) or use.endswith("mask")
    return blobs(64, 80).astype(np.uint16) if labels else picture(64, 80)
