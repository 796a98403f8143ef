"""Images, and what the tests say of results: every error that the user can mend is one line."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image


@dataclass(frozen=True)
class Result:
    """How a call of the program ended."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        """What is on stdout, if that is one JSON document and nothing else."""
        return json.loads(self.stdout)

    @property
    def run(self) -> dict[str, Any]:
        """The report of the only image."""
        (run,) = self.json["runs"]
        return run


def blobs(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """(H, W) int32 ids of discs, one for each thousand pixels."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.int32)
    for number in range(1, 1 + height * width // 1000):
        y, x, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(4, 9)
        labels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = number
    return labels


def picture(height: int = 96, width: int = 128, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """(H, W) of bright discs on a dark, noisy ground, 0 .. 250."""
    noise = np.random.default_rng(seed).normal(0, 8, (height, width))
    return np.rint(np.clip(40 + 150 * (blobs(height, width, seed=seed) > 0) + noise, 0, 250)).astype(dtype)


def save(path: Path | str, pixels: np.ndarray | None = None, **settings: Any) -> Path:
    """The pixels (a small picture by default) in the format of the path's suffix."""
    path, pixels = Path(path), picture() if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels, **settings)
    else:
        Image.fromarray(pixels).save(path)
    return path


def load(path: Path | str) -> np.ndarray:
    if Path(path).suffix in (".tif", ".tiff"):
        return tifffile.imread(path)
    with Image.open(path) as image:
        return np.asarray(image)


def on_disk(monkeypatch: Any, **changes: Any) -> None:
    """From now on canvases are on disk, however small, and plans have these changes."""
    from i2i import begin

    make = begin.make_plan
    monkeypatch.setattr(begin, "make_plan", lambda *given: replace(make(*given), canvas="disk", **changes))


def refused(result: Result, code: int, *words: str) -> None:
    """The call ended with ``code`` and one line on stderr that holds the words."""
    lines = result.err.splitlines()
    assert (result.code, result.stdout, len(lines)) == (code, b"", 1), result
    assert lines[0].startswith("error: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]


def done(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def files(folder: Path) -> list[str]:
    """The paths of all files below a folder, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
