"""Figures of a translation against its truth (``i2i eval translate``): distances, and the FCN-score of Isola et al. 2017."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Compared
from i2i.errors import InputError, UsageError
from i2i.formats import open_image
from i2i.formats.views import read_whole
from i2i.metrics import ClassScores, add_figures, as_classes, class_scores, mean_figures, only_channel
from i2i_pix2pix.options import EvalOptions

Pixels = npt.NDArray[np.float64]
_BEST = 100.0
"""The PSNR in dB that equal images get, and none is above: JSON has no infinity."""
_WINDOW = 11
_LARGEST = 1024
_COUNTS = ("shared", "predicted", "true")


def measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    """Figures of one image. ``l1``: the mean absolute difference as a share of the range. ``psnr``: in dB, 100 at most. ``ssim``:
    Wang et al. 2004, with their Gaussian window; not of images below 11 pixels a side. With ``options.perceptual``:
    :func:`perceptual`. With ``options.scorer``: how many pixels of each class are right.

    The range is ``options.range``; 0: 255 for uint8, else from the least to the largest number of the truth. Pixels outside
    ``case.inside`` do not count. Raises ``InputError`` for channels that differ and for NaN, ``UsageError`` for a scorer without
    labels."""
    if bool(options.scorer) != bool(options.labels):
        raise UsageError("--scorer and --labels go together: classes found in the prediction are compared with labels")
    made, truth = _alike(case.prediction, case.truth)
    span = options.range or _range(case.truth)
    counted = np.ones(truth.shape[:2], bool) if case.inside is None else case.inside
    apart = (made - truth)[counted] / span
    square = float(np.square(apart).mean())
    psnr = min(_BEST, -10 * math.log10(square)) if square else _BEST
    figures = {"l1": float(np.abs(apart).mean()), "psnr": psnr} | _ssim(made, truth, span, counted)
    if options.perceptual:
        figures["perceptual"] = perceptual(made / span, truth / span)
    if options.scorer:
        figures |= _classes_found(case, options, counted)
    return figures


def pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Of a set: the means over its images; the FCN-score from the pixels of all images together."""
    counts = add_figures([{name: one[name] for name in one if name.startswith(_COUNTS)} for one in figures])
    means = mean_figures([{name: one[name] for name in one if not name.startswith(_COUNTS)} for one in figures], "")
    return {"images": len(figures)} | means | (fcn_score(counts) if counts else {})


# ------------------------------------------------------------------------------------------------------------- distances


def _alike(prediction: Array, truth: Array) -> tuple[Pixels, Pixels]:
    """Both as float64 with the same channels; three equal ones are one where the other has but one."""
    made, wanted = (_fewest(own, other) for own, other in ((prediction, truth), (truth, prediction)))
    if made.shape != wanted.shape:
        channels = [array.shape[2] for array in (prediction, truth)]
        raise InputError(f"the prediction has {channels[0]} channels, the truth {channels[1]}: compare images of one kind")
    if not (np.isfinite(made).all() and np.isfinite(wanted).all()):
        raise InputError("holds NaN or Inf, which no distance can be told of; leave the image out")
    return made, wanted


def _fewest(own: Array, other: Array) -> Pixels:
    gray = other.shape[2] == 1 and own.shape[2] == 3 and bool((own == own[..., :1]).all())
    result: Pixels = (own[..., :1] if gray else own).astype(np.float64)
    return result


def _range(truth: Array) -> float:
    if truth.dtype == np.uint8:
        return 255.0
    span = float(truth.max()) - float(truth.min())
    if not span > 0:
        raise InputError("the truth is one number everywhere, so that its range is unknown; give --range")
    return span


def _ssim(made: Pixels, truth: Pixels, span: float, counted: npt.NDArray[np.bool_]) -> dict[str, float]:
    if min(truth.shape[:2]) < _WINDOW:
        return {}
    from skimage.metrics import structural_similarity

    _, whole = structural_similarity(  # type: ignore[no-untyped-call]
        truth, made, data_range=span, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return {"ssim": float(whole[counted].mean())}


def perceptual(made: Pixels, truth: Pixels) -> float:
    """The distance of two images (H, W, 1 or 3), 0 .. 1, as the bundled encoder of style transfer sees them: at each layer the
    features' vectors, of length one, squared differences summed over the channels, the mean over the pixels; and of the layers
    the mean (Zhang et al. 2018, equation 1, every weight the same). Images above 1024 pixels a side are compared in
    windows, whose mean by pixels it is."""
    height, width = made.shape[:2]
    parts = [
        (slice(y, min(y + _LARGEST, height)), slice(x, min(x + _LARGEST, width)))
        for y in range(0, height, _LARGEST)
        for x in range(0, width, _LARGEST)
    ]
    sizes = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in parts]
    return float(np.average([_seen_apart(made[part], truth[part]) for part in parts], weights=sizes))


def _seen_apart(made: Pixels, truth: Pixels) -> float:
    import torch
    from torch.nn import functional

    def seen(pixels: Pixels) -> torch.Tensor:
        colours = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        rows, columns = (max(0, 8 - length) for length in pixels.shape[:2])  # the encoder halves twice
        padded = np.pad(colours, ((0, rows), (0, columns), (0, 0)), mode="edge")
        return torch.from_numpy(padded.transpose(2, 0, 1)[None].astype(np.float32))

    encoder, layers = _encoder()
    with torch.no_grad():
        both = zip(*(encoder(seen(pixels), layers).values() for pixels in (made, truth)), strict=True)
        unit = [tuple(functional.normalize(values.float(), dim=1) for values in pair) for pair in both]
        return float(np.mean([float((a - b).square().sum(1).mean()) for a, b in unit]))


@functools.cache
def _encoder() -> tuple[Any, tuple[str, ...]]:
    """The style plugin's encoder, and its layers."""
    from i2i_style.encoders import find_encoder, known_layers

    return find_encoder("vgg-compact", []).encoder, known_layers("vgg-compact")


# ------------------------------------------------------------------------------------------------------------- FCN-score


def _classes_found(case: Compared, options: EvalOptions, counted: npt.NDArray[np.bool_]) -> dict[str, float]:
    """How many pixels of each class the scorer finds in the prediction, how many there are, and how many are both."""
    labels = as_classes(only_channel(_labels(Path(options.labels), case.name), "label image", "classes"))
    if labels.shape != case.truth.shape[:2]:
        raise InputError(f"its labels are {labels.shape[0]} x {labels.shape[1]}, the image is not; give labels of its size")
    if options.ignore is not None:
        counted = counted & (labels != options.ignore)
    if not counted.any():
        raise InputError("no pixel of its labels counts: all are outside or ignored; leave this image out")
    found, true = _scorer(options.scorer)(case.prediction)[counted], labels[counted]
    scores = class_scores(found, true, 1 + max(int(found.max(initial=0)), int(true.max(initial=0))))
    columns = zip(_COUNTS, (scores.shared, scores.predicted, scores.true), strict=True)
    return {f"{kind}_{number}": int(count) for kind, counts in columns for number, count in enumerate(counts)}


def fcn_score(counts: Mapping[str, float]) -> dict[str, float]:
    """``pixel_accuracy``, ``class_accuracy`` and ``class_iou`` (Isola et al. 2017, section 4; Long et al. 2015, section 5) from
    the pixels of each class; classes that the labels never have do not count."""
    numbers = [name.removeprefix("true_") for name in counts if name.startswith("true_") and counts[name]]
    scores = ClassScores(*(np.array([counts[f"{kind}_{number}"] for number in numbers], np.int64) for kind in _COUNTS))
    accuracy = scores.shared / scores.true
    return {
        "pixel_accuracy": 1 - scores.pixel_error, "class_accuracy": float(accuracy.mean()), "class_iou": float(scores.iou.mean()),
    }  # fmt: skip


@functools.cache
def _scorer(model: str) -> Callable[[Array], Array]:
    from i2i import api

    return api.load("segment", model, as_="classes")


def _labels(place: Path, name: str) -> Array:
    """The label image of that name in a folder, or the file."""
    if place.is_dir():
        found = sorted(path for path in place.glob(f"{name}.*") if path.is_file())
        if not found:
            raise InputError(f"no labels of that name in {place}")
        place = found[0]
    source = open_image(place)
    try:
        return read_whole(source, place)
    finally:
        source.close()
