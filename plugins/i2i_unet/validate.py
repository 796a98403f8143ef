"""What a network in training is judged by: figures on the validation images, the best label rule, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from i2i.components import label_array
from i2i.contracts import Array, LabelRule
from i2i.data import IGNORED, Data, Example, generator
from i2i.geometry import mirror, round_up
from i2i.metrics import average_precision, class_scores, match_labels, object_figures
from i2i.pictures import Picture, outlined, picture_of, tinted, write_sheet
from i2i_unet.architectures import Network, footprint, forward_window
from i2i_unet.patch import PatchNet, patch_batch
from i2i_unet.targets import Target

_PATCHES = 8192
_SHOWN = 512
_GROWTHS = (0, 1, 2, 3)
_AREAS = (0, 4, 8, 12, 16, 20, 24, 32)


def _positions(length: int, halo: int, stride: int) -> Tensor:
    """Of the pixels, mirrored beyond the image, that the whole image's window holds along an axis."""
    return torch.tensor([mirror(i, length) for i in range(-halo, round_up(length, stride) + halo)])


def predict_classes(network: Network, image: Tensor) -> npt.NDArray[np.uint8]:
    """(C, H, W) normalised -> (H, W) classes, whole: padded as the engine pads."""
    needs = footprint(network.config)
    height, width = image.shape[-2:]
    if needs.border == "mirror":
        rows, columns = (_positions(length, needs.halo, needs.multiple_of) for length in (height, width))
        window = image[None, :, rows.to(image.device)][..., columns.to(image.device)]
    else:
        below, right = (round_up(length, needs.multiple_of) - length for length in (height, width))
        window = nn.functional.pad(image[None], (0, right, 0, below))
    logits = forward_window(network, window.contiguous(memory_format=torch.channels_last))
    return logits[0, :, :height, :width].float().argmax(0).to(torch.uint8).cpu().numpy()


def validate(target: Target, examples: Sequence[Example], device: str, network: Network) -> dict[str, float]:
    """``ap50``: mean over images of AP at IoU 0.5 of objects; or ``iou``, mean over classes, and ``accuracy``. Of a patch
    classifier ``accuracy`` alone, of pixels drawn from the images, as many of each class: all would take too long."""
    if isinstance(network, PatchNet):
        return _validate_patches(target, examples, device, network)
    predicted = [predict_classes(network, example.image.to(device)) for example in examples]
    if target.rule is not None:
        labels = [label_array(classes, target.rule) for classes in predicted]
        scores = [
            average_precision(match_labels(*_counted(found, one)), 0.5).ap for found, one in zip(labels, examples, strict=True)
        ]
        return {"ap50": float(np.mean(scores))}
    truth = np.concatenate([example.truth.numpy().ravel() for example in examples])
    return _class_figures(np.concatenate([classes.ravel() for classes in predicted]), truth, target)


def _counted(labels: Array, example: Example) -> tuple[Array, Array]:
    """Found and true labels without what is not to be counted."""
    truth = example.truth.numpy()
    return np.where(truth == IGNORED, 0, labels), np.maximum(truth, 0)


def _class_figures(predicted: Array, truth: Array, target: Target) -> dict[str, float]:
    counted = truth != IGNORED
    scores = class_scores(predicted[counted], truth[counted], len(target.class_names))
    return {"iou": float(np.nanmean(scores.iou)), "accuracy": 1 - scores.pixel_error}


def _validate_patches(target: Target, examples: Sequence[Example], device: str, network: PatchNet) -> dict[str, float]:
    images, classes = [example.image for example in examples], [known_classes(target, example) for example in examples]
    patches, truth = patch_batch(images, classes, network.config.patch_size, _PATCHES, generator(0), False, False)
    parts = [network(part.to(device)).argmax(1).cpu() for part in torch.split(patches, 1024)]
    return {"accuracy": float((torch.cat(parts) == truth).float().mean())}


def best_rule(target: Target, data: Data[Example], network: Network, device: str) -> LabelRule | None:
    """The label rule with which the validation images score highest (mean over them of AP at IoU 0.5, and of AP over IoU 0.5 to
    0.95): how far objects grow into the border class, and what is too small to be one. Few images are held back, and small
    objects may be missing there: never is an area too small that more than one true object in a hundred, of all images, has."""
    if target.rule is None or isinstance(network, PatchNet):
        return target.rule
    with torch.inference_mode():
        predicted = [predict_classes(network, example.image.to(device)) for example in data.held]
    growths = _GROWTHS if target.rule.border is not None else (0,)
    areas = [area for area in _AREAS if area <= _small(data.all)]
    rules = [replace(target.rule, dilate=dilate, min_area=area) for dilate in growths for area in areas]

    pairs = list(zip(predicted, data.held, strict=True))

    def score(rule: LabelRule) -> float:
        found = [object_figures(*_counted(label_array(one, rule), truth)) for one, truth in pairs]
        return float(np.mean([figures["ap50"] + figures["ap"] for figures in found]))

    return max(rules, key=score)


def _small(examples: Sequence[Example]) -> float:
    """The area that one true object in a hundred does not reach, in pixels."""
    areas = [np.bincount(example.truth[example.truth > 0].numpy()) for example in examples]
    return float(np.quantile(np.concatenate([found[found > 0] for found in areas]), 0.01))


def write_samples(path: Path, target: Target, examples: Sequence[Example], device: str, network: nn.Module) -> None:
    """A PNG with a row for each example: the image, the truth, what the network finds; at most 512 pixels a side."""
    assert not isinstance(network, PatchNet)
    rows = []
    for example in examples:
        image = example.image[:, :_SHOWN, :_SHOWN]
        below = picture_of(image.permute(1, 2, 0).numpy())
        truth = np.maximum(example.truth[:_SHOWN, :_SHOWN].numpy(), 0)
        found = predict_classes(network, image.to(device))  # type: ignore[arg-type]
        labels = label_array(found, target.rule) if target.rule else found
        rows.append([below, _drawn(target, truth, below), _drawn(target, labels, below)])
    write_sheet(path, rows)


def _drawn(target: Target, labels: Array, below: Picture) -> Picture:
    return outlined(labels, below) if target.instances else tinted(labels, below)


def known_classes(target: Target, example: Example) -> Tensor:
    """(H, W) int64: the classes, and ``IGNORED``."""
    return torch.where(example.truth == IGNORED, IGNORED, target.classes(example.truth[None])[0])


def class_counts(target: Target, examples: Sequence[Example]) -> Tensor:
    """(C,) int64: pixels of each class in the truth."""
    counts = torch.zeros(1 + len(target.class_names), dtype=torch.int64)
    for example in examples:
        counts += torch.bincount((known_classes(target, example) - IGNORED).flatten(), minlength=len(counts))
    return counts[1:]
