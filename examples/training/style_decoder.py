"""Train the decoder of `i2i stylize --fast` on a frozen encoder.

    python examples/training/style_decoder.py --photos photos --styles paintings --leave-out starry_night.jpg \
        -o style-swap.safetensors

``--photos``: folders of photographs; ``--styles``: of paintings, which are few, and are seen at several scales and in many
colours; photographs serve as styles as well. The decoder learns to invert the encoder: what it makes of the answers to a picture
is to be that picture, to the eye (absolute differences) and to the encoder (perception). What it makes of answers whose patches
were swapped for a style's is to be answered by them (content), with the style's Gram matrices in the layers before (style). A
killed run goes on when the command is repeated.
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
from i2i_style.decoder import LAYER, Decoder, DecoderConfig
from i2i_style.encoder import Encoder
from i2i_style.encoders import find_encoder
from i2i_style.losses import gram
from i2i_style.swap import Moments, Patches, corrected, swapped

SEEN = ("conv1_2", "conv2_1", "conv2_2", "conv3_1", LAYER)


def recoloured(piece: Tensor, random: np.random.Generator) -> Tensor:
    """Other colours: the channels mixed, with another gamma and contrast."""
    mixed = torch.from_numpy(0.4 * np.eye(3) + 0.6 * random.dirichlet((0.7, 0.7, 0.7), 3)).float()
    piece = torch.einsum("ij,njhw->nihw", mixed, piece) ** random.uniform(0.6, 1.7)
    middle = piece.mean((2, 3), keepdim=True)
    return (middle + (piece - middle) * random.uniform(0.8, 1.5)).clamp(0, 1)


def batch(photos: Sequence[Tensor], styles: Sequence[Tensor], side: int, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Contents and styles, (size, 3, side, side) each."""
    random = np.random.default_rng((11, step))
    contents, wanted = [], []
    for _ in range(size):
        content = crop(photos[random.integers(len(photos))], side, 1.8, random)
        painted = random.random() < 0.75
        source = styles[random.integers(len(styles))] if painted else photos[random.integers(len(photos))]
        style = crop(source, side, 2.5, random)
        style = recoloured(style, random) if random.random() < 0.5 else style
        contents.append(content)
        wanted.append(style)
    return torch.cat(contents), torch.cat(wanted)


def relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared differences over the wanted squares, each picture by itself."""
    return (
        (found.float() - wanted.float()).square().flatten(1).sum(1) / wanted.float().square().flatten(1).sum(1).clamp_min(1e-6)
    ).mean()


@torch.no_grad()
def restyled(contents: Tensor, styles: Tensor) -> Tensor:
    """Answers (N, C, h, w) to contents, patches swapped for those of the answers to styles, as ``--fast`` does it."""
    made = []
    for content, style in zip(contents[:, None], styles, strict=True):
        patches = Patches.of(style)
        values = swapped(content, Moments.of(content[0]).along(patches.axes), patches)
        made.append(corrected(values, Moments.of(values[0]), patches.moments))
    return torch.cat(made).to(contents)


def losses(encoder: Encoder, style_weight: float, decoder: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    count = len(parts[0])
    with torch.no_grad():
        answers = encoder(torch.cat(parts), SEEN)
        given = restyled(answers[LAYER][:count], answers[LAYER][count:])
        grams = {name: gram(answers[name][count:].float()) for name in SEEN[:-1]}
    known = [*range(count // 2), *range(count + count // 2, 2 * count)]  # to be rebuilt: of both kinds
    pictures = decoder(torch.cat([answers[LAYER][known], given]))
    made = encoder(pictures, SEEN)
    perception = torch.stack([relative(made[name][:count], answers[name][known]) for name in SEEN]).mean()
    style = torch.stack([relative(gram(made[name][count:].float()), grams[name]) for name in SEEN[:-1]]).mean()
    return {
        "pixels": 5 * (pictures[:count] - torch.cat(parts)[known]).abs().mean(),
        "perception": perception,
        "content": relative(made[LAYER][count:], given),
        "style": style_weight * style,
        "outside": 2 * functional.relu((pictures - 0.5).abs() - 0.5).mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="vgg-compact")
    parser.add_argument("--photos", type=Path, action="append", required=True)
    parser.add_argument("--styles", type=Path, action="append", required=True)
    parser.add_argument("--leave-out", action="append", default=[], help="a file's name: kept for tests")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--style-weight", type=float, default=0.3)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    options = parser.parse_args()
    start_torch()
    torch.manual_seed(0)
    make(options)


def make(options: argparse.Namespace) -> None:
    """Train, and write the model."""
    found = find_encoder(options.encoder, SEEN)
    encoder = found.encoder.to(memory_format=torch.channels_last)
    photos = load_images(options.photos, options.leave_out, 512)
    styles = load_images(options.styles, options.leave_out, 768)
    learn = partial(losses, encoder, options.style_weight)
    kept = batch(photos, styles, options.side, 8, 10**6)

    def validate(decoder: nn.Module) -> Mapping[str, float]:
        figures = {name: float(value) for name, value in learn(decoder, kept).items()}
        return figures | {"goodness": -sum(figures.values())}

    def sheet(decoder: nn.Module, path: Path) -> None:
        answers = encoder(torch.cat(kept), [LAYER])[LAYER]
        made, again = decoder(restyled(answers[:8], answers[8:])), decoder(answers[:8])
        write_sheet(path, [[picture(images[i]) for images in (*kept, made, again)] for i in range(8)])

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
