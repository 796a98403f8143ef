"""A gallery: each photograph in each style, by optimisation and in one pass, on one sheet a method.

    python benchmarks/style_gallery.py --photos FILE... --styles FILE... --out FOLDER [--size 768] [--steps N]

What is there already is not made again. The sheets have the styles above and the photographs at the left.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

from experiment import I2I
from machine import machine

SHOWN = 320


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--styles", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--steps", type=int, default=0, help="of the optimisation; 0: its default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    import numpy as np

    from i2i.pictures import write_sheet
    from i2i_style.styles import read_rgb

    def shown(path):
        return (255 * read_rgb(path, SHOWN)).astype(np.uint8)

    print(f"{machine()}; {options.size} pixels\n\n| method | pictures | seconds a picture |\n|---|---|---|")
    for method, words in {"gatys": ["--steps", str(options.steps)], "fast": ["--fast"]}.items():
        rows = [[np.full((1, SHOWN, 3), 255, np.uint8), *map(shown, options.styles)]]
        rows += [[shown(photo)] for photo in options.photos]
        seconds = []
        for style in options.styles:
            folder = options.out / method / style.stem
            missing = sum(not list(folder.glob(f"{photo.stem}.*")) for photo in options.photos)
            begun = time.monotonic()
            command = [
                *I2I, "stylize", *map(str, options.photos), "--style", str(style), "--size", str(options.size),
                "-o", f"{folder}/", "--skip-existing", *words,
            ]  # fmt: skip
            subprocess.run(command, check=True)
            if missing:
                seconds.append((time.monotonic() - begun) / missing)
            for row, photo in zip(rows[1:], options.photos, strict=True):
                row.append(shown(next(folder.glob(f"{photo.stem}.*"))))
        write_sheet(options.out / f"{method}.png", rows)
        mean = f"{sum(seconds) / len(seconds):.1f}" if seconds else "all were there"
        print(f"| {method} | {len(options.photos) * len(options.styles)} | {mean} |", flush=True)


if __name__ == "__main__":
    main()
