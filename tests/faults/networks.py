"""Tiny networks of random weights for each task, for gray and for RGB images: what they find means nothing, and depends on every
pixel."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import nn

from i2i.models import save_model
from i2i.normalize import Normalization
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_pix2pix.generators import GeneratorConfig
from i2i_pix2pix.generators import build as build_generator
from i2i_pix2pix.ranges import Ranges
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.transformer import Transformer, TransformerConfig
from tests.cli.conftest import tiny_network
from tests.cli.test_instances import model_file

CHANNELS = (1, 3)


def make_networks(folder: Path) -> None:
    """``segment-1.safetensors``, ``translate-3.safetensors`` ... by task and channels; ``bioimage-1/`` is a folder;
    ``encoder.safetensors`` is what pictures are measured with where a style is learnt or taken."""
    for channels in CHANNELS:
        header, weights = tiny_network(channels)
        save_model(folder / f"segment-{channels}.safetensors", weights, header)
        _detector(folder / f"instances-{channels}.safetensors", channels)
        _generator(folder / f"translate-{channels}.safetensors", channels)
        _transformer(folder / f"stylize-{channels}.safetensors")
        _package(folder / f"bioimage-{channels}", channels)
        _identity(folder / f"identity-{channels}", channels)
    _identity(folder / "identity-45", 45)
    _encoder(folder / "encoder.safetensors")


def _detector(path: Path, channels: int) -> None:
    config = MaskRCNNConfig(
        channels=channels, classes=1, stem_stride=2, stages=2, width=8, box_width=16, mask_width=8, mask_convolutions=1,
        anchor_sizes=(8, 12, 18),
    )  # fmt: skip
    model_file(path, config)


def _generator(path: Path, channels: int) -> None:
    torch.manual_seed(1)
    config = GeneratorConfig("unet", channels, channels, depth=2, filters=4, norm="batch", dropout=0.0)
    ranges = Ranges(Normalization(method="percentile", low=0.1, high=99.9))
    header = {"task": "translate", "generator": config.as_mapping(), "ranges": ranges.as_mapping()}
    save_model(path, build_generator(config).state_dict(), header)


def _transformer(path: Path) -> None:
    torch.manual_seed(2)
    config = TransformerConfig(channels=4, blocks=1)
    header = {"task": "stylize", "kind": "transfer", "transformer": config.as_mapping(), "style": "waves"}
    save_model(path, Transformer(config).state_dict(), header)


def _encoder(path: Path) -> None:
    torch.manual_seed(3)
    config = EncoderConfig(((4, 4), (8, 8), (8,)))
    header = {"task": "stylize", "kind": "encoder", "encoder": config.as_mapping()}
    save_model(path, Encoder(config).state_dict(), header)


_CODE = """
from torch import nn

class Identity(nn.Module):
    def load_state_dict(self, weights):
        pass

    def forward(self, image):
        return image + 0

class Blur(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, image):
        return self.layer(image)
"""


def _package(folder: Path, channels: int) -> None:
    """A convolution as a state dict with its code, of format 0.5."""
    torch.manual_seed(4)
    weights = {f"layer.{name}": value for name, value in nn.Conv2d(channels, 1, 3).state_dict().items()}
    _written(folder, weights, description(channels, 1, {"callable": "Blur", "kwargs": {"channels": channels}}))


def _identity(folder: Path, channels: int) -> None:
    """What comes out is what a network sees: the pixels as float32."""
    _written(folder, {"nothing": torch.zeros(1)}, description(channels, channels, {"callable": "Identity"}, steps=()))


def _written(folder: Path, weights: dict[str, torch.Tensor], described: dict[str, object]) -> None:
    folder.mkdir()
    torch.save(weights, folder / "weights.pt")
    (folder / "network.py").write_text(_CODE, "utf-8")
    (folder / "rdf.yaml").write_text(yaml.safe_dump(described), "utf-8")


_STEPS = ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}},)


def description(
    channels: int, answered: int, architecture: dict[str, object], steps: tuple[dict[str, object], ...] = _STEPS
) -> dict[str, object]:
    """Of a package whose network sees one pixel to each side."""
    batch = {"type": "batch"}
    rows, columns = ({"type": "space", "id": axis, "size": {"min": 1, "step": 1}} for axis in "yx")
    answers = [{"type": "space", "id": axis, "size": {"tensor_id": "raw", "axis_id": axis}, "halo": 1} for axis in "yx"]
    given, found = (
        {"type": "channel", "channel_names": [f"c{number}" for number in range(count)]} for count in (channels, answered)
    )
    kind = {"type": "float32"}
    return {
        "format_version": "0.5.3", "type": "model", "name": "blur",
        "inputs": [{"id": "raw", "axes": [batch, given, rows, columns], "data": kind, "preprocessing": list(steps)}],
        "outputs": [{"id": "found", "axes": [batch, found, *answers], "data": kind}],
        "weights": {"pytorch_state_dict": {"source": "weights.pt", "architecture": {"source": "network.py"} | architecture}},
    }  # fmt: skip
