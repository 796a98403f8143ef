"""i2i beside SAHI's sliced inference with the same network, on a mosaic of single images: seconds, memory, doubles and parts.

    python benchmarks/instances_sahi.py --data DIR [--side 1200] [--slice 512] [--model nuclei] [--out FOLDER]

DIR holds test/images and test/masks (object ids), such as dsb2018-fluo; the mosaic is that of instances_mosaic.py. SAHI (which
must be installed: `pip install sahi`) runs slices of `--slice` pixels with its defaults: overlap 0.2, GREEDYNMM with IOS at 0.5,
batches of one. i2i runs with its defaults, and with `--tile` of the same side. All in fp32, with the model's own score, each a
process of its own whose peak is what the system says. A prediction is found where its intersection over union with a true object
is above 0.5; a double, where more than half of it lies in a true object that another prediction found; a part, where more than
half of it lies in one that none found. Seconds are those of predicting, without loading the model, and without writing files."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from experiment import I2I, files_of, say, table
from instances_mosaic import cells, mosaic, normalised, pixels_of
from machine import machine
from memory import Measured, measure

HEAD = ["program", "objects", "found", "F1 at IoU 0.5", "doubles", "parts", "elsewhere", "seconds", "MP/s", "peak memory"]


@dataclass(frozen=True)
class Mask:
    """An object: where its box begins, and its pixels (H, W) bool."""

    y: int
    x: int
    pixels: np.ndarray


@dataclass
class Verdict:
    found: int = 0
    doubles: int = 0
    parts: int = 0
    elsewhere: int = 0


def judged(masks: Iterable[Mask], truth: np.ndarray) -> Verdict:
    """Each prediction, best first, against the true labels (H, W)."""
    areas, taken, verdict, left = np.bincount(truth.ravel()), set(), Verdict(), []
    for mask in masks:
        height, width = mask.pixels.shape
        below = truth[mask.y : mask.y + height, mask.x : mask.x + width][mask.pixels]
        shared = np.bincount(below)
        shared[:1] = 0
        best, area = int(shared.argmax()) if shared.any() else 0, int(mask.pixels.sum())
        inside = int(shared[best]) if best else 0
        if best and best not in taken and inside / (area + areas[best] - inside) > 0.5:
            taken.add(best)
            verdict.found += 1
        else:
            left.append(best if inside > area / 2 else 0)
    verdict.doubles = sum(best in taken for best in left if best)
    verdict.parts = sum(best not in taken for best in left if best)
    verdict.elsewhere = sum(not best for best in left)
    return verdict


# ------------------------------------------------------------------------------------------------------------------ i2i


def from_coco(path: Path) -> Iterator[Mask]:
    """The objects that i2i wrote, best first."""
    from faster_coco_eval.core import mask as rle

    found = json.loads(path.read_text("utf-8"))["annotations"]
    for one in sorted(found, key=lambda one: -one["score"]):
        x, y, width, height = (int(value) for value in one["bbox"])
        whole = rle.decode(one["segmentation"])
        yield Mask(y, x, whole[y : y + height, x : x + width].astype(bool))


def with_i2i(image: Path, folder: Path, model: str, tile: str) -> tuple[Measured, float, Path]:
    coco = folder / f"i2i-{tile}.json"
    words = ["instances", str(image), "-o", str(folder / f"i2i-{tile}.tif"), "--coco", str(coco), "--model", model]
    measured = measure([*I2I, *words, "--tile", tile, "--precision", "fp32", "--overwrite", "--json", "-q"], folder)
    return measured, measured.report["seconds"]["compute"], coco


# ----------------------------------------------------------------------------------------------------------------- SAHI


def sahi_worker(image: Path, output: Path, model: str, side: int) -> None:
    """Run SAHI on the image; its objects go to ``output``, its seconds to stdout as the report of a run."""
    from i2i.backends import start_torch

    start_torch()
    from sahi.models.torchvision import TorchVisionDetectionModel
    from sahi.predict import get_sliced_prediction

    pixels = tifffile.imread(image)
    detector = TorchVisionDetectionModel(
        model=_as_torchvision(model, pixels),
        category_mapping={"0": "none", "1": "nucleus"},
        confidence_threshold=0.3,  # below the model's own; from 0.1 down SAHI changes its defaults
        device="cpu",
    )
    started = time.perf_counter()
    found = get_sliced_prediction(np.stack([pixels] * 3, -1), detector, side, side, verbose=0)
    seconds = time.perf_counter() - started
    objects = sorted(found.object_prediction_list, key=lambda one: -one.score.value)
    boxes, bits = [_box(one) for one in objects], [np.packbits(_cut(one.mask.bool_mask)) for one in objects]
    np.savez_compressed(output, *bits, boxes=boxes)
    print(json.dumps({"runs": [{"seconds": {"compute": seconds}, "objects": len(objects)}]}))


def _box(one) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(one.mask.bool_mask.any(1)), np.flatnonzero(one.mask.bool_mask.any(0))
    return (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if len(rows) else (0, 0, 0, 0)


def _cut(whole: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    return whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else whole[:0, :0]


def from_sahi(path: Path) -> Iterator[Mask]:
    held = np.load(path)
    for number, (top, left, bottom, right) in enumerate(held["boxes"].tolist()):
        count = (bottom - top) * (right - left)
        bits = np.unpackbits(held[f"arr_{number}"], count=count)
        yield Mask(top, left, bits.reshape(bottom - top, right - left).astype(bool))


def _as_torchvision(name: str, pixels: np.ndarray):
    """The model of i2i as a detector that takes and gives what torchvision's take and give."""
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    import i2i
    from i2i.formats.views import ArraySource
    from i2i_maskrcnn.masks import centred

    predictor = i2i.load("instances", model=name, channels_in=1, precision="fp32").predictor
    predictor = predictor.prepare(ArraySource(np.stack([pixels] * 3, -1)), 0)
    network, rules, limits, least = predictor.network, predictor.rules, predictor.normalization, predictor.min_area

    class Detector(torch.nn.Module):
        def forward(self, images):
            return [self.detect(image) for image in images]

        @torch.inference_mode()
        def detect(self, image):
            seen = limits.apply((image * 255).round().permute(1, 2, 0).numpy())
            window = torch.from_numpy(seen).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
            found = network.detect(window, replace(rules, most=max(300, window.shape[2] * window.shape[3] // 200)))[0]
            masks = paste_masks_in_image(centred(found).masks[:, None], found.boxes, tuple(window.shape[2:]))
            large = (masks >= 0.5).sum((1, 2, 3)) >= max(1, least)  # as in i2i; of an empty mask SAHI makes an error
            return {name: values[large] for name, values in (*vars(found).items(), ("masks", masks)) if name != "beyond"}

    return Detector()


# ---------------------------------------------------------------------------------------------------------------- table


def row(name: str, side: int, measured: Measured, seconds: float, verdict: Verdict, true: int) -> list[str]:
    objects = verdict.found + verdict.doubles + verdict.parts + verdict.elsewhere
    f1 = 2 * verdict.found / (objects + true)
    counts = [str(value) for value in (verdict.doubles, verdict.parts, verdict.elsewhere)]
    rate, peak = side * side / 1e6 / seconds, f"{measured.peak / 1e9:.2f} GB"
    return [name, str(objects), str(verdict.found), f"{f1:.4f}", *counts, f"{seconds:.1f}", f"{rate:.2f}", peak]


def truth_of(truths: list[np.ndarray], placed, side: int) -> np.ndarray:
    """(side, side) of ids, unique in the mosaic."""
    whole, last = np.zeros((side, side), np.int64), 0
    for cell in placed:
        labels = truths[cell.number].astype(np.int64)
        place = whole[cell.y : cell.y + labels.shape[0], cell.x : cell.x + labels.shape[1]]
        place[...] = np.where(labels > 0, labels + last, 0)
        last += int(labels.max())
    return whole


def benchmark(asked: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = [normalised(pixels_of(path)) for path in files_of(asked.data / "test/images")]
    truths = [pixels_of(path) for path in files_of(asked.data / "test/masks")]
    placed = cells([image.shape for image in images], asked.side)
    truth, image = truth_of(truths, placed, asked.side), folder / f"mosaic-{asked.side}.tif"
    tifffile.imwrite(image, mosaic(images, placed, asked.side), tile=(512, 512), compression="zlib", metadata=None)
    count, rows = len(np.unique(truth)) - 1, []
    for tile in ("auto", str(asked.slice)):
        measured, seconds, coco = with_i2i(image, folder, asked.model, tile)
        rows.append(row(f"i2i, --tile {tile}", asked.side, measured, seconds, judged(from_coco(coco), truth), count))
        say(" | ".join(rows[-1]))
    output = folder / "sahi.npz"
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(output), "--image", str(image)]
    measured = measure([*command, "--model", asked.model, "--slice", str(asked.slice)], folder)
    seconds = measured.report["seconds"]["compute"]
    rows.append(row(f"SAHI, slices of {asked.slice}", asked.side, measured, seconds, judged(from_sahi(output), truth), count))
    print(f"{machine()}; mosaic of {asked.side} x {asked.side} with {count} nuclei; fp32\n")
    print(table(HEAD, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder that holds test/images and test/masks")
    parser.add_argument(
        "--side",
        type=int,
        default=1200,
        help="of the mosaic, in pixels (default: 1200; SAHI holds a mask of that size for each object)",
    )
    parser.add_argument("--slice", type=int, default=512, help="side of SAHI's slices (default: 512)")
    parser.add_argument("--model", default="nuclei", help="a name or a file (default: nuclei)")
    parser.add_argument("--out", type=Path, help="where the mosaic and the results go (default: a temporary folder)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        sahi_worker(asked.image, asked.worker, asked.model, asked.slice)
        return
    if not asked.data:
        parser.error("--data is required")
    with tempfile.TemporaryDirectory() as temporary:
        benchmark(asked, asked.out or Path(temporary))


if __name__ == "__main__":
    main()
