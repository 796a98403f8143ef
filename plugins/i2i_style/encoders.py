"""Which encoder is meant: the bundled one, VGG-19 by name, or a file; loaded, cut off after the last layer that is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i.contracts import Model, ModelCard
from i2i.errors import ModelError
from i2i.models import find_part
from i2i_style.encoder import VGG19, Encoder, EncoderConfig, Pooling, load_torchvision, normalized
from i2i_style.styles import read_rgb

TASK = "stylize"
HERE = Path(__file__).parent
SAMPLES = tuple(HERE / "samples" / name for name in ("astronaut.jpg", "starry_night.jpg", "great_wave.jpg"))
"""Over these the weights of others are normalised: the paper takes images of ImageNet."""
_MOST_BLOCKS, _MOST_CHANNELS = 8, 4096


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder, normalised, in eval mode and without gradients of its own, and the model that it was made of."""

    encoder: Encoder
    model: Model


def cards() -> list[ModelCard]:
    """The models that come with the plugin."""
    return [ModelCard.from_toml(path) for path in sorted((HERE / "models").glob("*.toml"))]


def find_encoder(text: str, layers: Sequence[str], pooling: str = "auto") -> FoundEncoder:
    """The encoder of that name or file, up to the last of ``layers`` (all of it, where none are given). ``pooling``: avg, max, or
    auto: its own. Raises ``ModelError`` for what is no encoder, ``UsageError`` for layers that it has not."""
    model = find_part(text, TASK, cards())
    config = _config(model)
    if pooling != "auto":
        config = replace(config, pooling="max" if pooling == "max" else "avg")
    if layers:
        config = config.upto(layers)
    encoder = _own(model, config) if model.config else normalized(load_torchvision(config, _tensors(model), text), _pictures())
    return FoundEncoder(encoder.eval().requires_grad_(False), model)


def known_layers(text: str) -> tuple[str, ...]:
    """The names of all layers of the encoder of that name or file, in order. Raises ``ModelError``."""
    return tuple(layer.name for layer in _config(find_part(text, TASK, cards())).layers)


def _tensors(model: Model) -> Mapping[str, Tensor]:
    return {name: tensor.float() for name, tensor in model.tensors().items() if name.startswith("features.")}


def _pictures() -> Iterator[Tensor]:
    return (torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None] for path in SAMPLES)


def _config(model: Model) -> EncoderConfig:
    """What the file says of itself; weights alone are taken for torchvision's vgg19, as far as they go."""
    if not model.config:
        return _part_of_vgg19(model)
    values = model.config.get("encoder")
    if model.config.get("kind") != "encoder" or not isinstance(values, Mapping):
        raise ModelError(
            f"{model.path}: is no encoder; --encoder takes vgg-compact, vgg19, or a file of either, --model the others"
        )
    try:
        return encoder_config(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; get the encoder again") from error


def _part_of_vgg19(model: Model) -> EncoderConfig:
    """VGG-19 as far as a file of weights has it: parts of it are handed around, for the whole has 575 MB."""
    names = model.tensors().keys()
    last, number = "", 0
    for layer in VGG19.layers:
        number += layer.pooled
        if f"features.{number}.weight" not in names:
            break
        last, number = layer.name, number + 2
    if not last:
        raise ModelError(
            f"{model.path}: holds no weights of torchvision's vgg19 (features.0.weight ...); give those, or vgg-compact"
        )
    return replace(VGG19, last=last)


def encoder_config(values: Mapping[str, Any]) -> EncoderConfig:
    """From what :meth:`EncoderConfig.as_mapping` gave. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    blocks = tuple(tuple(int(width) for width in block) for block in values["blocks"])
    if not 1 <= len(blocks) <= _MOST_BLOCKS or not all(1 <= len(block) <= _MOST_BLOCKS for block in blocks):
        raise ValueError(f"blocks must be 1 to {_MOST_BLOCKS} lists of 1 to {_MOST_BLOCKS} numbers of channels")
    if not all(1 <= width <= _MOST_CHANNELS for block in blocks for width in block):
        raise ValueError(f"a layer has 1 to {_MOST_CHANNELS} channels")
    pooling: Pooling = "max" if values["pooling"] == "max" else "avg"
    return EncoderConfig(blocks, pooling, _triple(values["mean"]), _triple(values["std"]))


def _triple(values: Iterable[Any]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _own(model: Model, config: EncoderConfig) -> Encoder:
    """An encoder of i2i's own file, which is normalised already."""
    encoder, tensors = Encoder(config), model.tensors()
    for name, own in encoder.state_dict().items():
        given = tensors.get(name)
        if given is None or given.shape != own.shape:
            raise ModelError(f"{model.path}: {name} is missing or has another shape; get the encoder again")
    encoder.load_state_dict({name: tensors[name].float() for name in encoder.state_dict()})
    return encoder
