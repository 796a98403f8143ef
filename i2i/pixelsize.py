"""The pixel size of an image and the one that a model was trained on: where they differ, the network sees it resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from i2i.canvas import layer_spec
from i2i.contracts import ImageSpec, Meaning, Model, Source
from i2i.errors import ModelError, UsageError
from i2i.formats.resample import Resampled
from i2i.formats.views import Described

Factors = tuple[float, float]
"""How many times as high and wide an image becomes for the network."""

_SAME = 0.05
"""Pixel sizes that differ by no more are one: networks are not so exact."""
_TOLD = 0.01
_MOST = 32.0
_LARGEST = 1e6
"""Of pixels, in micrometres: what the header of a model may say."""


def with_pixel_size(source: Source, asked: float) -> tuple[Source, tuple[str, ...]]:
    """The image with the pixel size that ``--pixel-size`` gives (0: its own), in micrometres, and a warning when its metadata
    say another."""
    if not asked:
        return source, ()
    known = source.spec.pixel_size
    warnings: tuple[str, ...] = ()
    if known and any(abs(size / asked - 1) > _TOLD for size in known):
        warnings = (f"its pixel size is {_text(known)} um in the file; {asked:g} um is used, as --pixel-size says",)
    return Described(source, pixel_size=(asked, asked)), warnings


def factors(spec: ImageSpec, models: Sequence[Model], name: str, asked: float = 0.0) -> tuple[Factors | None, list[str]]:
    """How the image ``name`` is to be resampled for the models; None: not at all. ``asked``: so many times as large, whatever its
    pixel size is; 0: as that says, with a warning when it would be needed and is unknown. Raises ``ModelError`` (also when two
    models need it at different sizes), or ``UsageError`` for pixels that cannot be meant."""
    if asked:
        return _asked(asked, name), []
    found = [_factors(spec, model, name) for model in models]
    for model, (scaling, _) in zip(models, found, strict=True):
        if scaling != found[0][0]:
            both = f"{models[0].name} and {model.name}"
            raise ModelError(f"{name}: {both} were made for pixels of different sizes; run them one at a time")
    return found[0][0] if found else None, [warning for _, told in found for warning in told]


def _asked(zoom: float, name: str) -> Factors | None:
    if not 1 / _MOST <= zoom <= _MOST:
        raise UsageError(f"{name}: --zoom {zoom:g}: give a factor from {1 / _MOST:g} to {_MOST:g}")
    return None if zoom == 1 else (zoom, zoom)


def _factors(spec: ImageSpec, model: Model, name: str) -> tuple[Factors | None, tuple[str, ...]]:
    wanted = _wanted(model)
    if wanted is None:
        return None, ()
    if spec.pixel_size is None:
        unknown = f"its pixel size is unknown and {model.name} was made for {wanted:g} um: give --pixel-size UM"
        return None, (f"{unknown}; taken as it is",)
    tall, wide = spec.pixel_size[0] / wanted, spec.pixel_size[1] / wanted
    if max(abs(tall - 1), abs(wide - 1)) <= _SAME:
        return None, ()
    if not 1 / _MOST <= min(tall, wide) <= max(tall, wide) <= _MOST:
        sizes = f"its pixels are {_text(spec.pixel_size)} um, {model.name} was made for {wanted:g} um"
        raise UsageError(f"{name}: {sizes}; give the right --pixel-size, or another --model")
    return (tall, wide), ()


def _wanted(model: Model) -> float | None:
    """The pixel size of a model's card, else of its file, in micrometres."""
    size = model.card.pixel_size if model.card and model.card.pixel_size else model.config.get("pixel_size")
    if size is None:
        return None
    if not isinstance(size, int | float) or isinstance(size, bool) or not (0 < size <= _LARGEST):
        raise ModelError(f"{model.path}: its pixel_size {size!r} is no size in micrometres; make the model again")
    return float(size)


def brought_back(result: Source, image: ImageSpec, scale: int, scaling: Factors | None, meaning: Meaning) -> Source:
    """A result on the grid of the image that the network saw resampled by ``scaling``; ``scale``: result pixels for each."""
    if scaling is None:
        return result
    spec = result.spec
    grid = layer_spec(image, spec.channels, spec.dtype, scale, spec.channel_names)
    nearest = meaning in ("labels", "classes")
    return Resampled(result, replace(grid, planes=spec.planes), (1 / scaling[0], 1 / scaling[1]), nearest)


def _text(size: tuple[float, float]) -> str:
    return f"{size[0]:g}" if size[0] == size[1] else f"{size[0]:g} x {size[1]:g}"
