"""Three toy tasks, true but small, one for each kind of predictor: they prove the contracts of the engine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from i2i.contracts import (
    Array,
    DensePredictor,
    Exported,
    Exporter,
    Footprint,
    ImagePredictor,
    ImageSpec,
    ImageWork,
    InstancePredictor,
    Instances,
    LabelRule,
    Output,
    Source,
    Task,
)
from i2i.normalize import Normalization
from i2i.options import option
from i2i.registry import Plugin, Registry


@dataclass(frozen=True)
class NoOptions:
    """None."""


# ------------------------------------------------------------------------------------------------------ a convolution


def convolution(seed: int = 0) -> nn.Sequential:
    """Pools once and comes back: radius 5, stride 2; weights as He et al. draw them."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1),
    )  # fmt: skip
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * (2 / fan) ** 0.5
            layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator)
    return network.eval().requires_grad_(False)


class Convolution(DensePredictor):
    """A small convolutional network with two classes; its labels are the components of class 1."""

    label_rule = LabelRule(interior=1, min_area=3)

    def __init__(self, network: nn.Module | None = None, footprint: Footprint | None = None) -> None:
        self.network = network or convolution()
        self.footprint = footprint or Footprint(halo=6, multiple_of=2, channels_out=2)
        self.normalization = Normalization("percentile")
        self.outputs = (
            Output("labels", 1, "uint32", "labels"),
            Output("classes", 1, "uint8", "classes"),
            Output("probabilities", 2, "float32", "probabilities"),
        )

    def prepare(self, source: Source, seed: int) -> Self:
        return self.with_statistics({"normalization": self.normalization.freeze(source, seed).as_mapping()})

    def statistics(self) -> dict[str, Any]:
        return {"normalization": self.normalization.as_mapping()}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        prepared = copy.copy(self)
        prepared.normalization = Normalization.from_mapping(statistics["normalization"])
        return prepared

    def normalize(self, pixels: Array) -> Array:
        return self.normalization.apply(pixels)

    def __call__(self, batch: Tensor) -> Tensor:
        return self.network(batch)

    def convert(self, raw: Array, output: Output) -> Array:
        if output.name == "classes":
            return raw.argmax(2, keepdims=True).astype(np.uint8)
        return torch.from_numpy(raw).softmax(2).numpy()


class Enlarge(DensePredictor):
    """Twice the size, by a transposed convolution: an output on a finer grid than the input's."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn((1, 1, 4, 4), generator=generator)
        self.footprint = Footprint(halo=2, scale=2)
        self.outputs = (Output("image", 1, "float32", "image"),)

    def __call__(self, batch: Tensor) -> Tensor:
        return functional.conv_transpose2d(batch, self.weight, stride=2, padding=1)


class Mirrored(DensePredictor):
    """A valid 7 x 7 box filter: the engine mirrors the image's border."""

    def __init__(self) -> None:
        self.footprint = Footprint(halo=3, multiple_of=1, border="mirror")
        self.outputs = (Output("image", 1, "float32", "image"),)

    def __call__(self, batch: Tensor) -> Tensor:
        return functional.avg_pool2d(batch, 7, stride=1)


class Renormalised(DensePredictor):
    """Instance normalisation, honestly declared: no tiling is exact, so windows are blended."""

    def __init__(self) -> None:
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 1)).requires_grad_(
            False
        )
        self.footprint = Footprint(halo=8, merge="blend", norm_scope="image")
        self.outputs = (Output("image", 1, "float32", "image"),)

    def __call__(self, batch: Tensor) -> Tensor:
        return self.network(batch)


# ---------------------------------------------------------------------------------------------------- a blob detector


class Blobs(InstancePredictor):
    """Bright components, each an object whose score is its mean brightness."""

    threshold = 110.0

    def __init__(self) -> None:
        self.footprint = Footprint(halo=32)
        self.outputs = (Output("labels", 1, "uint32", "labels"),)

    def __call__(self, batch: Tensor) -> list[Instances]:
        return [self._find(image[0].cpu().numpy()) for image in batch]

    def _find(self, image: Array) -> Instances:
        labels, _ = ndimage.label(image > self.threshold)
        places = ndimage.find_objects(labels)
        masks = tuple(labels[place] == number for number, place in enumerate(places, 1))
        boxes = [[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in places]
        scores = [image[place][mask].mean() / 255 for place, mask in zip(places, masks, strict=True)]
        return Instances(
            np.array(boxes, np.int64).reshape(-1, 4), np.array(scores, np.float32), np.ones(len(masks), np.int64), masks
        )


class Shapes(InstancePredictor):
    """Connected shapes on black, exactly as far as the window shows them: the class is 1, or 2 for bright ones; the score is
    the brightest pixel. At most ``most`` of a window are given, the highest scores first. With ``jitter``, boxes are moved by up
    to so many pixels, and scores changed, differently in each window."""

    class_names: Mapping[int, str] = {1: "dark", 2: "bright"}

    def __init__(self, halo: int = 32, most: int = 10**6, jitter: int = 0) -> None:
        self.footprint, self.most, self.jitter = Footprint(halo=halo), most, jitter
        self.outputs = (Output("labels", 1, "uint32", "labels"),)

    def __call__(self, batch: Tensor) -> list[Instances]:
        return [self._find(image[0].cpu().numpy()) for image in batch]

    def _find(self, image: Array) -> Instances:
        labels, count = ndimage.label(image > 0)
        places = ndimage.find_objects(labels)
        tops = ndimage.maximum(image, labels, np.arange(1, count + 1)) if count else np.zeros(0)
        chosen = np.argsort(-tops, kind="stable")[: self.most]
        masks = tuple(labels[places[i]] == i + 1 for i in chosen)
        boxes = np.array([[part.start for part in places[i]] + [part.stop for part in places[i]] for i in chosen], np.int64)
        boxes, scores = boxes.reshape(-1, 4), tops[chosen] / 256
        if self.jitter:
            random = np.random.default_rng(int(image.sum()))
            moved = random.integers(-self.jitter, self.jitter + 1, (len(boxes), 2))
            moved = np.clip(moved, -boxes[:, :2], np.array(image.shape) - boxes[:, 2:])
            boxes, scores = boxes + np.tile(moved, 2), scores * random.uniform(0.7, 1, len(boxes))
        return Instances(boxes, scores.astype(np.float32), np.where(tops[chosen] > 128, 2, 1), masks, count - len(masks))


# --------------------------------------------------------------------------------------------- an iterative optimiser


class Smoother(ImagePredictor):
    """Minimises |x - image|^2 + |gradient of x|^2 by gradient descent, in two stages, tile by tile with a halo of one pixel.
    Every other step is a frame; ``every``: steps between pictures that are kept, 0: none are."""

    steps = 12
    rate = 0.1
    every = 0

    def __init__(self) -> None:
        self.footprint = Footprint(halo=1)
        self.outputs = (Output("image", 1, "float32", "image"),)

    def stages(self, spec: Any) -> tuple[str, ...]:
        return ("coarse", "fine")

    def run(self, stage: str, work: ImageWork) -> None:
        image = work.source.read(work.source.spec.region).astype(np.float32)
        saved = work.checkpoint.load()
        start = image if stage == "coarse" else work.canvas.read(work.canvas.spec.region)
        state = saved or {"x": start, "step": np.array(0)}
        x = state["x"]
        for step in range(int(state["step"]), self.steps):
            x = self._descend(x, image, work)
            self._show(self.stages(None).index(stage) * self.steps + step + 1, x, work)
            work.checkpoint.save({"x": x, "step": np.array(step + 1)})
            work.progress((step + 1) / self.steps)
        work.canvas.write(work.canvas.spec.region, x)

    def _show(self, step: int, x: Array, work: ImageWork) -> None:
        picture = x.round().clip(0, 255).astype(np.uint8)
        if self.every and step % self.every == 0:
            work.snapshot(step, picture)
        if work.frame and step % 2 == 0:
            work.frame(step, picture)

    def _descend(self, x: Array, image: Array, work: ImageWork) -> Array:
        result = np.empty_like(x)
        for block in work.grid.blocks():
            for tile in work.grid.tiles(block.region):
                window = tile.window.intersect(work.source.spec.region)
                part = x[window.slices]
                padded = np.pad(part, ((1, 1), (1, 1), (0, 0)), mode="edge")
                laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * part
                moved = part - self.rate * (part - image[window.slices] - laplacian)
                result[tile.core.slices] = moved[tile.core.relative_to(window).slices]
        return result


@dataclass(frozen=True)
class SketchOptions:
    width: int = option(0, help="of the result, in pixels; 0: the input's", minimum=0)
    tone: list[str] = option([], help="images by whose mean it is made brighter")  # noqa: RUF009 (it makes a field)
    save_every: int = option(0, help="steps between pictures that are kept", minimum=0)


class Sketch(Smoother):
    """Smooths images of any channels at a size of its own; with less than ``roomy`` bytes, by smaller steps."""

    steps = 4
    roomy = 2_000_000_000

    def __init__(self, options: SketchOptions) -> None:
        self.footprint, self.outputs = Footprint(halo=1), ()
        self.width, self.every, self.snapshots = options.width, options.save_every, options.save_every > 0
        self.tone = sum(float(np.load(path).mean()) for path in options.tone)

    def fitted(self, spec: ImageSpec) -> Self:
        fitted = copy.copy(self)
        fitted.footprint = Footprint(halo=1, channels_in=spec.channels, channels_out=spec.channels)
        fitted.outputs = (Output("image", spec.channels, "uint8", "image"),)
        if self.width:
            fitted.size = round(spec.height * self.width / spec.width), self.width
        return fitted

    def within(self, spec: ImageSpec, room: int) -> Self:
        chosen = copy.copy(self)
        chosen.held_bytes = 16 * spec.height * spec.width
        if room < self.roomy:
            chosen.rate, chosen.remarks = 0.05, (*self.remarks, "smaller steps: --memory is small")
        return chosen

    def convert(self, raw: Array, output: Output) -> Array:
        return super().convert(raw + self.tone, output)


def _flip(path: Path, exported: Exported) -> None:
    assert exported.frames is not None
    frames = np.stack(list(exported.frames()))
    with path.open("wb") as stream:
        np.savez(stream, frames=frames, scale=exported.scale, source=exported.source.read(exported.source.spec.region))


@dataclass(frozen=True)
class BlobOptions:
    threshold: float = option(110.0, help="least brightness", minimum=0)


def _blobs(options: BlobOptions, model: object, runtime: object) -> Blobs:
    predictor = Blobs()
    predictor.threshold = options.threshold
    return predictor


CONVOLVE = Task("convolve", "Toy: a small convolutional network", NoOptions, lambda o, m, r: Convolution(), needs_model=False)
FIND = Task("findblobs", "Toy: bright components", BlobOptions, _blobs, needs_model=False)
SMOOTH = Task("smooth", "Toy: smoothing by gradient descent", NoOptions, lambda o, m, r: Smoother(), needs_model=False)
SKETCH = Task(
    "sketch", "Toy: smoothing at another size", SketchOptions, lambda o, m, r: Sketch(o), needs_model=False, lossy=True,
    files=lambda options: [Path(path) for path in options.tone], meanings=("image",), precisions=("fp32", "bf16"),
)  # fmt: skip
FLIP = Exporter("flip", ".npz", "the frames, the input and its scale", _flip, ("image",), frames=True)


class Toys(Registry):
    """A registry of the toys alone, which are one plugin with the exporter ``FLIP``."""

    _own = Plugin("toys", "toys", tasks=(CONVOLVE, FIND, SMOOTH, SKETCH), exporters=(FLIP,))
    _tasks = dict.fromkeys(("convolve", "findblobs", "smooth", "sketch"))

    def _plugin(self, entry: object) -> Plugin | None:
        return self._own if entry is None else None


__all__ = [
    "CONVOLVE", "FIND", "FLIP", "SKETCH", "SMOOTH", "Blobs", "Convolution", "Enlarge", "Mirrored", "Renormalised", "Shapes",
    "Sketch", "Smoother", "Toys",
]  # fmt: skip
