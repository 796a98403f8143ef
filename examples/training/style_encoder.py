"""Make the bundled style encoder: VGG-19's first three blocks distilled into half the channels, and one layer more.

    python examples/training/style_encoder.py --vgg19 vgg19.safetensors --squeezenet squeezenet1_1.safetensors \
        --images photos --images paintings --leave-out starry_night.jpg -o compact.safetensors

``--vgg19``: the weights of torchvision's vgg19, conv1_1 to conv3_4 at least. ``--squeezenet``: those of torchvision's
squeezenet1_1, or of the ncnn copy of it (.bin). The student starts from half of the teacher's filters: those from which the
others' answers can best be told (a pivoted QR of the answers), the next layer's weights adapted by least squares. Then it learns
to give what a linear map (1 x 1) turns into the teacher's answers; conv4_1 (and two deeper layers that are left out at the end)
into those of SqueezeNet's fire modules, and conv4_1 into the image's colours as well, so that a picture can be made from it. A
killed run goes on when the command is repeated. """

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import qr
from style_pictures import crop, load_images, show
from torch import Tensor, nn
from torch.nn import functional

from i2i.backends import start_torch
from i2i.models import save_model
from i2i.training import Loop, Schedule, run
from i2i_style.encoder import COMPACT, VGG19, Encoder, EncoderConfig, load_torchvision, normalized

SHAPE = replace(COMPACT, blocks=(*COMPACT.blocks[:3], (256, 256), (256,)))
"""What is trained. Only the layers of ``COMPACT`` are kept: pictures made with the deeper ones were worse."""
SHALLOW = tuple(layer.name for layer in SHAPE.upto(["conv3_4"]).layers)
DEEP = {"conv4_1": 6, "conv4_2": 7, "conv5_1": 12}
"""Of the student's deep layers: the modules of SqueezeNet's ``features`` after which they are taught."""
COLOURS = "conv4_1"


def crops(images: Sequence[Tensor], side: int, size: int, step: int) -> tuple[Tensor]:
    """(size, 3, side, side) in 0 .. 1: mirrored, shrunk by up to two, with other colours for some."""
    random = np.random.default_rng((7, step))
    batch = []
    for _ in range(size):
        piece = crop(images[random.integers(len(images))], side, 2, random)
        if random.random() < 0.3:
            mixed = torch.from_numpy(random.dirichlet((1.0, 1.0, 1.0), 3)).float()
            piece = torch.einsum("ij,njhw->nihw", mixed, piece) ** random.uniform(0.6, 1.6)
        batch.append(piece)
    return (torch.cat(batch),)


# ------------------------------------------------------------------------------------------------------------- the teachers


def load_squeezenet(path: Path) -> nn.Sequential:
    """The ``features`` of torchvision's squeezenet1_1, for images in torchvision's or ncnn's convention as the file has it."""
    from safetensors.torch import load_file
    from torchvision.models import squeezenet1_1

    network = squeezenet1_1(weights=None)
    if path.suffix == ".bin":
        _load_ncnn(network, path.read_bytes())
    else:
        network.load_state_dict(load_file(path))
    return network.features.eval().requires_grad_(False)


def _load_ncnn(network: nn.Module, data: bytes) -> None:
    """ncnn's file: for each convolution a tag, the weights as float16 padded to 4 bytes, the bias as float32. Its images are BGR
    0 .. 255 less a mean; here they are given as RGB in 0 .. 1 less torchvision's mean, over its deviation: the first weights take
    it on."""
    place = 0
    for convolution in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        (tag,) = struct.unpack_from("<I", data, place)
        if tag != 0x01306B47:
            raise SystemExit("not a file of half floats of ncnn")
        count = convolution.weight.numel()
        weights = np.frombuffer(data, np.float16, count, place + 4).astype(np.float32)
        place += 4 + (2 * count + 3) // 4 * 4
        convolution.weight.data = torch.from_numpy(weights).reshape(convolution.weight.shape)
        convolution.bias.data = torch.from_numpy(np.frombuffer(data, np.float32, convolution.bias.numel(), place).copy())
        place += 4 * convolution.bias.numel()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    rgb = first.weight.data.flip(1)
    mean, std = torch.tensor(VGG19.mean), torch.tensor(VGG19.std)
    shift = 255 * mean - torch.tensor([123.0, 117.0, 104.0])
    first.bias.data += (rgb * shift.reshape(1, 3, 1, 1)).sum((1, 2, 3))
    first.weight.data = rgb * 255 * std.reshape(1, 3, 1, 1)


def squeezed(features: nn.Sequential, images: Tensor) -> dict[str, Tensor]:
    """What SqueezeNet says where the student's deep layers are, on their grid."""
    values = (images - torch.tensor(VGG19.mean).reshape(1, 3, 1, 1)) / torch.tensor(VGG19.std).reshape(1, 3, 1, 1)
    found = {}
    for number, module in enumerate(features[: max(DEEP.values()) + 1]):
        values = module(values)
        for name, wanted in DEEP.items():
            if wanted == number:
                stride = SHAPE.layer(name).stride
                size = (images.shape[2] // stride, images.shape[3] // stride)
                found[name] = functional.interpolate(values.float(), size, mode="bilinear", align_corners=False)
    return found


# -------------------------------------------------------------------------------------------------------------- the student


class Student(nn.Module):
    """The encoder with linear maps from its layers to what the teachers say."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(SHAPE)
        widths = {name: VGG19.layer(name).channels for name in SHALLOW} | {"conv4_1": 256, "conv4_2": 256, "conv5_1": 512}
        self.maps = nn.ModuleDict({name: nn.Conv2d(SHAPE.layer(name).channels, width, 1) for name, width in widths.items()})
        self.colours = nn.Conv2d(SHAPE.layer(COLOURS).channels, 3 * 4 * 4, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        answers = self.encoder(images, self.maps.keys())
        told = {name: self.maps[name](thinned(name, values)) for name, values in answers.items()}
        return told | {"colours": self.colours(answers[COLOURS])}


def thinned(name: str, values: Tensor) -> Tensor:
    """One position for each 4 x 4 pixels at least: of the first blocks there are far more than there is to learn."""
    step = max(1, 4 // SHAPE.layer(name).stride)
    return values[..., step // 2 :: step, step // 2 :: step]


@torch.no_grad()
def begin(student: Student, teacher: Encoder, images: Sequence[Tensor]) -> None:
    """Give the student half of the teacher's filters."""
    answers = sampled(teacher, images)
    known = torch.eye(3, dtype=torch.float64)
    for layer in SHAPE.upto(["conv3_4"]).layers:
        values = answers[layer.name]
        _, _, order = qr(values.numpy(), mode="economic", pivoting=True)
        chosen = torch.from_numpy(np.sort(order[: layer.channels]).astype(np.int64))
        source, target = teacher.convolution(layer.name), student.encoder.convolution(layer.name)
        target.weight.copy_(torch.einsum("oikl,ij->ojkl", source.weight[chosen].double(), known))
        target.bias.copy_(source.bias[chosen])
        kept = values[:, chosen]
        ridge = 1e-3 * kept.square().mean() * len(kept) * torch.eye(len(chosen), dtype=torch.float64)
        known = torch.linalg.solve(kept.T @ kept + ridge, kept.T @ values).T  # teacher's channels from those chosen
        student.maps[layer.name].weight.copy_(known[:, :, None, None])
        student.maps[layer.name].bias.zero_()


@torch.no_grad()
def spread(student: Student, images: Tensor) -> None:
    """Start the deep layers so that each filter answers at half of the positions: filters that never do learn nothing."""
    values = images
    for layer in SHAPE.layers:
        convolution = student.encoder.convolution(layer.name)
        if layer.name not in DEEP:
            values = student.encoder(images, [layer.name])[layer.name]
            continue
        convolution.weight -= convolution.weight.mean((1, 2, 3), keepdim=True)
        before = functional.avg_pool2d(values, 2) if layer.pooled else values
        answers = convolution(before)
        deviation = answers.std((0, 2, 3)).clamp_min(1e-6)
        convolution.bias.copy_(-answers.mean((0, 2, 3)) / deviation)
        convolution.weight /= deviation[:, None, None, None]
        values = functional.relu(convolution(before))


def sampled(teacher: Encoder, images: Sequence[Tensor], each: int = 150) -> dict[str, Tensor]:
    """(positions, channels) float64 of each layer, at random positions of all images."""
    random = torch.Generator().manual_seed(3)
    rows: dict[str, list[Tensor]] = {name: [] for name in SHALLOW}
    for image in images:
        for name, values in teacher(image[None].float() / 255, SHALLOW).items():
            flat = values[0].flatten(1)
            rows[name].append(flat[:, torch.randint(flat.shape[1], (each,), generator=random)].T)
    return {name: torch.cat(parts).double() for name, parts in rows.items()}


def relative(found: Tensor, target: Tensor) -> Tensor:
    """The squared error over the target's variance over positions, of all channels together."""
    spread = target - target.mean((0, 2, 3), keepdim=True)
    return (found.float() - target).square().mean() / spread.square().mean().clamp_min(1e-8)


def losses(teacher: Encoder, features: nn.Sequential, student: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    (images,) = batch
    with torch.no_grad():
        targets = {name: thinned(name, values).float() for name, values in teacher(images, SHALLOW).items()}
        targets |= squeezed(features, images)
        stride = SHAPE.layer(COLOURS).stride
        targets["colours"] = functional.pixel_unshuffle(functional.avg_pool2d(images.float(), stride // 4), 4)
    told = student(images)
    return {name: relative(told[name], target) * (0.5 if name in DEEP else 1.0) for name, target in targets.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True)
    parser.add_argument("--images", type=Path, action="append", required=True, help="a folder of pictures; repeat for several")
    parser.add_argument("--leave-out", action="append", default=[], help="a file's name: kept for tests")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    options = parser.parse_args()
    start_torch()
    torch.manual_seed(0)
    make(options)


def make(options: argparse.Namespace) -> None:
    """Train, and write the model."""
    images = load_images(options.images, options.leave_out, 512)
    teacher = normalized(read_vgg19(options.vgg19), scaled(images))
    teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    features = load_squeezenet(options.squeezenet)
    student = Student()
    begin(student, teacher, images)
    spread(student, crops(images, options.side, 16, 10**7)[0])
    learn = partial(losses, teacher, features)
    kept = crops(images, options.side, 16, 10**6)

    def validate(network: nn.Module) -> Mapping[str, float]:
        found = {name: float(value) for name, value in learn(network, kept).items()}
        return found | {"agreement": -sum(found.values())}

    loop = Loop(
        student, partial(crops, images, options.side, options.batch), learn, validate, "agreement",
        Schedule(options.steps, rate=1e-3, warmup=50, average=0.99), options.output.with_suffix(""), precision=options.precision,
        identity={"side": options.side, "batch": options.batch, "images": len(images)}, report=show,
    )  # fmt: skip
    state = run(loop, resume=True)
    student.load_state_dict(state.best_weights)
    whole = normalized(student.encoder.eval(), scaled(images))
    encoder = Encoder(COMPACT)
    encoder.load_state_dict({name: whole.state_dict()[name] for name in encoder.state_dict()})
    config = {"task": "stylize", "kind": "encoder", "encoder": COMPACT.as_mapping()}
    sha256 = save_model(options.output, encoder.state_dict(), config)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB, sha256 {sha256}")


def read_vgg19(path: Path) -> Encoder:
    from safetensors.torch import load_file

    config = EncoderConfig(VGG19.blocks[:3])
    return load_torchvision(config, load_file(path), str(path))


def scaled(images: Sequence[Tensor]) -> Iterator[Tensor]:
    return (image[None].float() / 255 for image in images)


if __name__ == "__main__":
    main()
