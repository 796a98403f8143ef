"""What the U-Net replaced: a network that classifies the patch around each pixel (Ciresan et al. 2012).

    python benchmarks/papers/unet_vs_patch.py --data DIR --out FOLDER [--sizes 17,33,49,65] [--seconds 90] [--test-images 2] ...

Both learn the membranes of isbi2012-em with plain cross entropy, each for the same time and with its own augmentation (a patch
classifier's: 8 flips and rotations). A pilot of a few steps measures the pace of each, from which its number of steps follows
(kept, so that a run that was killed goes on with it). A time on a busy machine is fewer steps: run it alone. A patch classifier
calls its network once for every pixel, so both are judged on the centres, --side pixels wide, of some test sections: share of
wrong pixels and Rand error at the threshold 0.5. The seconds for a section of 512 x 512 pixels are those of computing alone: the
U-Net's measured on whole sections, the patch classifiers' on the centres and multiplied by the number of pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import (
    Figures,
    add_folders,
    copied,
    evaluate,
    files_of,
    kept,
    numbers,
    ordering,
    predict,
    shown,
    spread_out,
    table,
    train,
)
from machine import machine

SET = "isbi2012-em"
WHOLE = 512
U_NET = 0
"""In place of a patch size."""
HEAD = ["network", "pixel error", "Rand error", f"seconds for {WHOLE} x {WHOLE}", "times as slow", "training", "steps"]


def title(size: int) -> str:
    return f"patches of {size} x {size}" if size else "U-Net"


def words_of(size: int, asked: argparse.Namespace) -> list[str]:
    """Of ``i2i train segment``, but for steps and seed."""
    same = ["--target", "classes", "--loss", "cross-entropy", "--average", "0.98"]  # a mean over 50 steps: the runs are short
    if size:
        return [*same, "--arch", "patch", "--patch-size", str(size), "--batch", str(asked.patches)]
    return [*same, "--depth", str(asked.depth), "--filters", str(asked.filters), "--batch", "2", "--crop", "256"]


def pace(lines: Sequence[Mapping[str, float]]) -> float:
    """Seconds for a step, the median, of the figures of a run that validated after its last. The first two do not count."""
    seconds = [line["seconds"] for line in lines[1:-1]]
    return statistics.median(after - before for before, after in pairwise(seconds))


def pilot(data: Path, out: Path, name: str, words: Sequence[str], steps: int) -> Figures:
    """How long a step takes, by a short training."""
    train(out / f"{name}.safetensors", data / "train/images", data / "train/masks", *words, "--steps", str(steps))
    lines = (out / f"{name}-training/metrics.jsonl").read_text("utf-8").splitlines()
    return {"seconds": pace([json.loads(line) for line in lines])}


def centres(test: Path, folder: Path, count: int, side: int) -> Path:
    """``folder/images`` and ``folder/masks``: the centres of some test sections."""
    import tifffile

    from i2i.formats import open_image
    from i2i.geometry import Region

    copied(test, folder, spread_out(files_of(test / "images"), count))
    for path in [*files_of(folder / "images"), *files_of(folder / "masks")]:
        source = open_image(path)
        height, width = min(side, source.spec.height), min(side, source.spec.width)
        top, left = (source.spec.height - height) // 2, (source.spec.width - width) // 2
        pixels = source.read(Region(top, left, height, width))[..., 0]
        source.close()
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), pixels)
    return folder


def run(data: Path, out: Path, name: str, words: Sequence[str], steps: int, test: Path, side: int) -> Figures:
    """One training, judged and timed on the centres; a U-Net is timed on whole sections (``side`` 0)."""
    model = out / f"{name}.safetensors"
    every = ["--steps", str(steps), "--validate-every", str(max(1, steps // 3))]
    trained = train(model, data / "train/images", data / "train/masks", *words, *every)
    seconds = predict(test / "images", out / name, model=str(model), as_="classes")
    found = evaluate(out / name, test / "masks", kind="regions")
    if not side:
        seconds = predict(data / "test/images", out / f"{name}-whole", model=str(model), as_="classes")
    each = statistics.median(seconds[1:] or seconds) * ((WHOLE / side) ** 2 if side else 1)  # the first warms up
    return {
        "pixel": found["mean_pixel_error"], "rand": found["mean_rand_error"], "each": each,
        "seconds": trained["seconds"], "steps": steps,
    }  # fmt: skip


def row(size: int, runs: Sequence[Figures], base: Sequence[Figures]) -> list[str]:
    each = statistics.fmean(run["each"] for run in runs)
    slower = each / statistics.fmean(run["each"] for run in base)
    errors = [shown([run[name] for run in runs], 4) for name in ("pixel", "rand")]
    training, steps = (statistics.fmean(run[name] for run in runs) for name in ("seconds", "steps"))
    return [title(size), *errors, f"{each:.2f}", f"{slower:.0f}", f"{training:.0f} s", f"{steps:.0f}"]


def conclusion(found: Mapping[int, Sequence[Figures]]) -> str:
    """What the lecture says of patches (expensive, and the size decides), as far as the figures of this run say it too."""
    errors = {size: [run["pixel"] for run in runs] for size, runs in found.items()}
    error = {size: statistics.fmean(values) for size, values in errors.items()}
    each = {size: statistics.fmean(run["each"] for run in runs) for size, runs in found.items()}
    sizes = [size for size in found if size]
    best, worst = min(sizes, key=error.__getitem__), max(sizes, key=error.__getitem__)
    slower = ", ".join(f"{each[size] / each[U_NET]:.0f}" for size in sizes)
    depends = (
        "depends on the size"
        if ordering(errors[worst], errors[best])
        else "cannot be said, with these seeds, to depend on the size"
    )
    beside = {-1: "less than", 0: "with these seeds not distinguishable from", 1: "more than"}
    compared = beside[ordering(errors[U_NET], errors[best])]
    return (
        f"With patches of {', '.join(map(str, sizes))} pixels a section takes {slower} times the U-Net's time. After equal times "
        f"of training their pixel error {depends}: {error[best]:.4f} with {best} pixels, {error[worst]:.4f} with {worst}. "
        f"The U-Net's is {error[U_NET]:.4f}, {compared} that of the best patches."
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, SET)
    parser.add_argument("--sizes", type=numbers, default=(17, 33, 49, 65), help="of the patches (default: 17,33,49,65)")
    parser.add_argument("--seconds", type=float, default=90, help="of training for each network (default: 90)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1), help="of the runs of each network (default: 0,1)")
    parser.add_argument("--patches", type=int, default=256, help="in a step of a patch classifier (default: 256)")
    parser.add_argument("--depth", type=int, default=4, help="of the U-Net (default: 4)")
    parser.add_argument("--filters", type=int, default=16, help="of the U-Net (default: 16)")
    parser.add_argument("--pilot", type=int, default=12, help="steps of the pilots, at least 5 (default: 12)")
    parser.add_argument("--test-images", type=int, default=2, help="sections that are judged (default: 2)")
    parser.add_argument("--side", type=int, default=256, help="of their centres, in pixels (default: 256)")
    asked = parser.parse_args()
    if asked.pilot < 5:
        parser.error(f"--pilot {asked.pilot}: at least 5, for the first two and the last do not count")
    return asked


def one(asked: argparse.Namespace, test: Path, size: int, seed: int) -> Figures:
    """The figures of a network: kept, or trained with as many steps as its pilot says."""
    data, out, words = asked.data / SET, asked.out, words_of(size, asked)
    kind = f"patch-{size}" if size else "u-net"
    settings = {"set": SET, "words": words, "pilot": asked.pilot}
    found = kept(out, f"{kind}-pilot", settings, partial(pilot, data, out, f"{kind}-pilot", words, asked.pilot))
    steps = max(1, round(asked.seconds / found["seconds"]))
    settings |= {"seconds": asked.seconds, "seed": seed, "test images": asked.test_images, "side": asked.side}
    name = f"{kind}-seed-{seed}"
    side = asked.side if size else 0
    return kept(out, name, settings, partial(run, data, out, name, [*words, "--seed", str(seed)], steps, test, side))


def main() -> None:
    asked = parse()
    data = asked.data / SET
    files_of(data / "train/images")
    test = centres(data / "test", asked.out / "em-centres", asked.test_images, asked.side)
    sizes = (U_NET, *asked.sizes)
    found = {size: [one(asked, test, size, seed) for seed in asked.seeds] for size in sizes}
    places = f"judged on the centres, {asked.side} x {asked.side}, of {len(files_of(test / 'images'))} test sections"
    network = (
        f"U-Net of depth {asked.depth} with {asked.filters} filters, 2 crops of 256 x 256 a step; {asked.patches} patches a step"
    )
    seeds = ", ".join(map(str, asked.seeds))
    print(f"{machine()}; {SET}; {network}; {asked.seconds:.0f} s of training each; seeds {seeds}; {places}\n")
    print(table(HEAD, [row(size, runs, found[U_NET]) for size, runs in found.items()]))
    print(f"\n{conclusion(found)}")


if __name__ == "__main__":
    main()
