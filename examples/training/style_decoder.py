"""Train the decoder of `i2i stylize --fast` (adaptive instance normalisation) on a frozen encoder.

    python examples/training/style_decoder.py --photos photos --styles paintings --leave-out starry_night.jpg -o adain.safetensors

``--photos``: folders of photographs; ``--styles``: of paintings, which are few, and are seen at several scales and in many
colours; photographs serve as styles as well. The loss: the answers to the result are to be those that the decoder was given
(content), with the Gram matrices, means and deviations of the style in each layer (style); where the style is the content
itself, the result is to be that picture; averaged over 16 x 16 pixels it is to have the colours that it was given. A killed
run goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from style_pictures import crop, load_images, show
from torch import Tensor, nn
from torch.nn import functional

from i2i.backends import start_torch
from i2i.models import save_model
from i2i.pictures import write_sheet
from i2i.training import Loop, Schedule, run
from i2i_style.decoder import LAYERS, Decoder, DecoderConfig, adain, palette, statistics
from i2i_style.decoder import recoloured as in_palette
from i2i_style.encoder import Encoder
from i2i_style.encoders import find_encoder
from i2i_style.losses import gram

STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv3_4", "conv4_1")


def recoloured(piece: Tensor, random: np.random.Generator) -> Tensor:
    """Other colours: the channels mixed, with another gamma and contrast."""
    mixed = torch.from_numpy(0.4 * np.eye(3) + 0.6 * random.dirichlet((0.7, 0.7, 0.7), 3)).float()
    piece = torch.einsum("ij,njhw->nihw", mixed, piece) ** random.uniform(0.6, 1.7)
    middle = piece.mean((2, 3), keepdim=True)
    return (middle + (piece - middle) * random.uniform(0.8, 1.5)).clamp(0, 1)


def batch(photos: Sequence[Tensor], styles: Sequence[Tensor], side: int, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Contents and styles, (size, 3, side, side) each; the last style is its content."""
    random = np.random.default_rng((11, step))
    contents, wanted = [], []
    for number in range(size):
        content = crop(photos[random.integers(len(photos))], side, 1.8, random)
        painted = random.random() < 0.75
        source = styles[random.integers(len(styles))] if painted else photos[random.integers(len(photos))]
        style = crop(source, side, 2.5, random)
        style = recoloured(style, random) if random.random() < 0.5 else style
        contents.append(content)
        wanted.append(content if number == size - 1 else style)
    return torch.cat(contents), torch.cat(wanted)


def relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared differences over the wanted squares, each picture by itself."""
    return (
        (found.float() - wanted.float()).square().flatten(1).sum(1) / wanted.float().square().flatten(1).sum(1).clamp_min(1e-6)
    ).mean()


def losses(encoder: Encoder, style_weight: float, decoder: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    contents, styles = parts
    count = len(contents)
    with torch.no_grad():
        answers = encoder(torch.cat([contents, styles]), STYLE)
        own = {name: statistics(answers[name][:count]) for name in LAYERS}
        wanted = {name: statistics(answers[name][count:]) for name in STYLE}
        given = {name: adain(answers[name][:count], own[name], wanted[name]) for name in LAYERS}
        grams = {name: gram(answers[name][count:].float()) for name in STYLE}
        colours = in_palette(contents, palette(contents), palette(styles))
    picture = decoder(*(given[name] for name in LAYERS), colours)
    made = encoder(picture, STYLE)
    content = relative(made["conv4_1"], given["conv4_1"]) + 0.5 * relative(made["conv3_4"], given["conv3_4"])
    style = torch.stack([style_term(made[name], wanted[name], grams[name]) for name in STYLE]).sum()
    same = (picture[-1] - styles[-1]).square().mean() + (picture[-1] - styles[-1]).abs().mean()
    hues = (functional.avg_pool2d(picture.float(), 16) - functional.avg_pool2d(colours, 16)).square().mean()
    rough = (picture[..., 1:, :] - picture[..., :-1, :]).square().mean() + (picture[..., 1:] - picture[..., :-1]).square().mean()
    outside = functional.relu((picture - 0.5).abs() - 0.5).mean()
    return {
        "content": content,
        "style": style_weight * style,
        "identity": same,
        "hues": 10 * hues,
        "rough": 0.5 * rough,
        "outside": 2 * outside,
    }


def style_term(values: Tensor, wanted: object, grams: Tensor) -> Tensor:
    found = statistics(values)
    spread = wanted.deviation.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    first = ((found.mean - wanted.mean).square() / spread).mean() + (
        (found.deviation - wanted.deviation).square() / spread
    ).mean()
    return first + relative(gram(values.float()), grams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="vgg-compact")
    parser.add_argument("--photos", type=Path, action="append", required=True)
    parser.add_argument("--styles", type=Path, action="append", required=True)
    parser.add_argument("--leave-out", action="append", default=[], help="a file's name: kept for tests")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--style-weight", type=float, default=1.0)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    options = parser.parse_args()
    start_torch()
    torch.manual_seed(0)
    make(options)


def make(options: argparse.Namespace) -> None:
    """Train, and write the model."""
    found = find_encoder(options.encoder, STYLE)
    encoder = found.encoder.to(memory_format=torch.channels_last)
    photos = load_images(options.photos, options.leave_out, 512)
    styles = load_images(options.styles, options.leave_out, 768)
    learn = partial(losses, encoder, options.style_weight)
    kept = batch(photos, styles, options.side, 8, 10**6)

    def validate(decoder: nn.Module) -> Mapping[str, float]:
        figures = {name: float(value) for name, value in learn(decoder, kept).items()}
        return figures | {"goodness": -sum(figures.values())}

    def sheet(decoder: nn.Module, path: Path) -> None:
        answers = encoder(torch.cat(kept), LAYERS)
        own, wanted = ({name: statistics(answers[name][part]) for name in LAYERS} for part in (slice(8), slice(8, None)))
        colours = in_palette(kept[0], palette(kept[0]), palette(kept[1]))
        made = decoder(*(adain(answers[name][:8], own[name], wanted[name]) for name in LAYERS), colours)
        write_sheet(path, [[picture(images[i]) for images in (*kept, made)] for i in range(8)])

    loop = Loop(
        Decoder(DecoderConfig()), partial(batch, photos, styles, options.side, options.batch), learn, validate, "goodness",
        Schedule(options.steps, rate=1e-3, warmup=50, average=0.99, weight_decay=0), options.output.with_suffix(""),
        precision=options.precision, report=show, sheet=sheet,
        identity={
            "side": options.side, "batch": options.batch, "photos": len(photos), "styles": len(styles),
            "encoder": found.model.sha256, "style_weight": options.style_weight,
        },
    )  # fmt: skip
    state = run(loop, resume=True)
    config = {"task": "stylize", "kind": "decoder", "decoder": DecoderConfig().as_mapping(), "encoder": found.model.sha256}
    sha256 = save_model(options.output, state.best_weights, config)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB, sha256 {sha256}")


def picture(image: Tensor) -> np.ndarray:
    return np.rint(255 * image.float().clamp(0, 1).permute(1, 2, 0).numpy()).astype(np.uint8)


if __name__ == "__main__":
    main()
