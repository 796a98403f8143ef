"""Gatys et al. 2016: what the layers do, the weights of the two losses, and where the optimisation starts: a sheet of pictures.

    python benchmarks/papers/gatys_layers.py --out FOLDER [--photo FILE] [--styles FILE...] [--size 256] [--steps 200]
        [--seeds 0,1] [--encoder vgg-compact]

By `i2i stylize` at one size, as in the paper (--scales 1), each row of the sheet for every style: content alone from conv1_2 to
conv3_4, from noise (the paper's figure 1, above); style alone with layers up to conv1_1, conv2_1 and conv3_1, from noise (figure
1, below); both, by the layers of the style (figure 5 of the paper goes to conv4_2), by the weight of the style (figure 4), and
from noise beside from the photograph (figure 6). Measured for each seed: of content alone, the mean difference to the photograph
(of 255); of style alone, how far brightness is alike (the distance in pixels at which its autocorrelation falls below a half),
for the size of structures. The defaults are the bundled pictures and encoder. What is there is not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from experiment import I2I, Claim, lesson, numbers, say, shown, table
from machine import machine

CONTENT = ("conv1_2", "conv2_2", "conv3_2", "conv3_4")
STYLE = ("conv1_1", "conv2_1", "conv3_1")
BETAS = (5, 50, 500, 5000)


@dataclass(frozen=True)
class Picture:
    """``words``: of ``i2i stylize``."""

    name: str
    words: tuple[str, ...]


def _up_to(layer: str) -> str:
    return ",".join(STYLE[: STYLE.index(layer) + 1])


def rows_of(seed: int) -> dict[str, list[Picture]]:
    """The pictures of each row of the sheet."""
    noise = ("--init", "noise", "--seed", str(seed))
    return {
        "content alone": [
            Picture(f"content {layer}", ("--beta", "0", "--content-layers", layer, *noise)) for layer in CONTENT
        ],
        "style alone": [Picture(f"style {layer}", ("--alpha", "0", "--style-layers", _up_to(layer), *noise)) for layer in STYLE],
        "both, by layers": [Picture(f"both {layer}", ("--style-layers", _up_to(layer))) for layer in STYLE],
        "both, by beta": [Picture(f"beta {beta}", ("--beta", str(beta))) for beta in BETAS],
        "both, by start": [Picture("from content", ()), Picture("from noise", noise)],
    }  # fmt: skip


def pixels(path: Path) -> np.ndarray:
    """(H, W, 3) float32, 0 .. 255."""
    return np.asarray(Image.open(path).convert("RGB"), np.float32)


def structure(picture: np.ndarray) -> float:
    """Pixels to where the autocorrelation of the brightness, mean over both axes, falls below a half; between two by a line."""
    gray = picture.mean(-1) - picture.mean()
    power = np.abs(np.fft.fft2(gray)) ** 2
    together = np.fft.ifft2(power).real
    line = (together[0] + together[:, 0]) / (2 * together[0, 0])
    place = int(np.argmax(line < 0.5))
    return place - 1 + (line[place - 1] - 0.5) / (line[place - 1] - line[place])


def make(asked: argparse.Namespace, style: Path, picture: Picture, seed: int) -> Path:
    """Where the picture is; it is made where it is not there."""
    path = asked.out / style.stem / f"{picture.name.replace(' ', '-')}-seed-{seed}.png"
    if not path.exists():
        say(f"{style.stem}: {picture.name}")
        size = ["--size", str(asked.size), "--scales", "1", "--steps", str(asked.steps), "--encoder", asked.encoder]
        command = [*I2I, "stylize", str(photo_of(asked)), "--style", str(style), "-o", str(path), *size, *picture.words, "-q"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{path.name}: not made")
    return path


def photo_of(asked: argparse.Namespace) -> Path:
    """The photograph, a square from its middle, so that a sheet is one of squares."""
    path = asked.out / "photo.png"
    if not path.exists():
        asked.out.mkdir(parents=True, exist_ok=True)
        whole = Image.open(asked.photo).convert("RGB")
        side = min(whole.size)
        left, top = ((length - side) // 2 for length in whole.size)
        square = whole.crop((left, top, left + side, top + side))
        square.resize((asked.size, asked.size), Image.Resampling.LANCZOS).save(path)
    return path


def sheet(asked: argparse.Namespace, style: Path) -> Path:
    """The rows of the first seed; shorter ones end with the photograph and the style."""
    rows = [
        [pixels(make(asked, style, picture, asked.seeds[0])) for picture in pictures]
        for pictures in rows_of(asked.seeds[0]).values()
    ]
    longest = max(map(len, rows))
    square = Image.open(style).convert("RGB").resize((asked.size, asked.size), Image.Resampling.LANCZOS)
    ends = [pixels(photo_of(asked)), np.asarray(square, np.float32)]
    blank = np.full((asked.size, asked.size, 3), 255, np.float32)
    padded = [row + ([*ends, blank, blank] if row is rows[-1] else [blank] * longest)[: longest - len(row)] for row in rows]
    path = asked.out / f"{style.stem}.png"
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in padded]).astype(np.uint8)).save(path)
    return path


def measured(asked: argparse.Namespace, row: str) -> dict[str, list[float]]:
    """The figure of each picture of "content alone" or "style alone": a value for each style and seed."""
    photo, found = pixels(photo_of(asked)), {}
    for seed in asked.seeds:
        for picture in rows_of(seed)[row]:
            for style in asked.styles if row == "style alone" else asked.styles[:1]:
                made = pixels(make(asked, style, picture, seed))
                figure = structure(made) if row == "style alone" else float(np.abs(made - photo).mean())
                found.setdefault(f"{picture.name}, {style.stem}" if row == "style alone" else picture.name, []).append(figure)
    return found


def claims(content: dict[str, list[float]], style: dict[str, list[float]], styles: Sequence[str]) -> list[Claim]:
    deeper = [
        Claim(f"{name}: structures are larger with layers up to {more} than to {less}", "pixels",
              style[f"style {more}, {name}"], style[f"style {less}, {name}"])
        for name in styles
        for less, more in (("conv1_1", "conv2_1"), ("conv2_1", "conv3_1"))
    ]  # fmt: skip
    farther = [
        Claim(
            f"{more} keeps less of the pixels than {less}", "difference", content[f"content {more}"], content[f"content {less}"]
        )
        for less, more in (("conv1_2", "conv2_2"), ("conv2_2", "conv3_2"), ("conv3_2", "conv3_4"))
    ]
    return [*deeper, *farther]


def main() -> None:
    import i2i_style

    samples = Path(i2i_style.__file__).parent / "samples"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go, and are found again")
    parser.add_argument("--photo", type=Path, default=samples / "astronaut.jpg", help="the content (default: bundled)")
    styles = [samples / "starry_night.jpg", samples / "great_wave.jpg"]
    parser.add_argument("--styles", type=Path, nargs="+", default=styles, help="(default: two bundled paintings)")
    parser.add_argument("--size", type=int, default=256, help="of the pictures, in pixels (default: 256)")
    parser.add_argument("--steps", type=int, default=200, help="evaluations for each (default: 200)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1), help="of the noise (default: 0,1)")
    parser.add_argument("--encoder", default="vgg-compact", help="a name or a file (default: the bundled one)")
    asked = parser.parse_args()
    sheets = [sheet(asked, style) for style in asked.styles]
    content, style = measured(asked, "content alone"), measured(asked, "style alone")
    seeds = ", ".join(map(str, asked.seeds))
    print(f"{machine()}; {asked.size} pixels, {asked.steps} evaluations, {asked.encoder}; seeds {seeds}\n")
    rows = [[name, shown(found, 1)] for name, found in content.items()]
    print(table(["content alone, from", "difference to the photograph"], rows) + "\n")
    rows = [[name, shown(found, 2)] for name, found in style.items()]
    print(table(["style alone, layers up to", "structures, pixels"], rows))
    print(f"\n{lesson(claims(content, style, [path.stem for path in asked.styles]), 'more seeds')}\n")
    print("\n".join(f"{path.name}: a row each for {', '.join(rows_of(0))}; then photograph and style" for path in sheets))


if __name__ == "__main__":
    main()
