"""Make the bundled style encoder: VGG-19's first three blocks distilled into a quarter to a half of the channels.

    python examples/training/style_encoder.py --vgg19 vgg19.safetensors --images photos --images paintings \
        --leave-out starry_night.jpg -o vgg-compact.safetensors

``--vgg19``: the weights of torchvision's vgg19, conv1_1 to conv3_4 at least. The student starts from some of the teacher's
filters: those from which the others' answers can best be told (a pivoted QR of the answers), the next layer's weights adapted by
least squares. Then it learns to give what a linear map (1 x 1) turns into the teacher's answers. A killed run goes on when the
command is repeated."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import qr
from style_pictures import crop, load_images, show
from torch import Tensor, nn

from i2i.backends import start_torch
from i2i.models import save_model
from i2i.training import Loop, Schedule, run
from i2i_style.encoder import COMPACT, VGG19, Encoder, EncoderConfig, load_torchvision, normalized

LAYERS = tuple(layer.name for layer in COMPACT.layers)


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


class Student(nn.Module):
    """The encoder with linear maps from its layers to what the teacher's say."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(COMPACT)
        self.maps = nn.ModuleDict(
            {layer.name: nn.Conv2d(layer.channels, VGG19.layer(layer.name).channels, 1) for layer in COMPACT.layers}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        answers = self.encoder(images, LAYERS)
        return {name: self.maps[name](thinned(name, answers[name])) for name in LAYERS}


def thinned(name: str, values: Tensor) -> Tensor:
    """One position for each 4 x 4 pixels at least: of the first blocks there are far more than there is to learn."""
    step = max(1, 4 // COMPACT.layer(name).stride)
    return values[..., step // 2 :: step, step // 2 :: step]


@torch.no_grad()
def begin(student: Student, teacher: Encoder, images: Sequence[Tensor]) -> None:
    """Give the student some of the teacher's filters."""
    answers = sampled(teacher, images)
    known = torch.eye(3, dtype=torch.float64)
    for layer in COMPACT.layers:
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


def sampled(teacher: Encoder, images: Sequence[Tensor], each: int = 150) -> dict[str, Tensor]:
    """(positions, channels) float64 of each layer, at random positions of all images."""
    random = torch.Generator().manual_seed(3)
    rows: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for image in images:
        for name, values in teacher(image[None].float() / 255, LAYERS).items():
            flat = values[0].flatten(1)
            rows[name].append(flat[:, torch.randint(flat.shape[1], (each,), generator=random)].T)
    return {name: torch.cat(parts).double() for name, parts in rows.items()}


def relative(found: Tensor, target: Tensor) -> Tensor:
    """The squared error over the target's variance over positions, of all channels together."""
    spread = target - target.mean((0, 2, 3), keepdim=True)
    return (found.float() - target).square().mean() / spread.square().mean().clamp_min(1e-8)


def losses(teacher: Encoder, student: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    (images,) = batch
    with torch.no_grad():
        targets = {name: thinned(name, values) for name, values in teacher(images, LAYERS).items()}
    told = student(images)
    return {name: relative(told[name], target.float()) for name, target in targets.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--images", type=Path, action="append", required=True, help="a folder of pictures; repeat for several")
    parser.add_argument("--leave-out", action="append", default=[], help="a file's name: kept for tests")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
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
    student = Student()
    begin(student, teacher, images)
    learn = partial(losses, teacher)
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
    encoder = normalized(student.encoder.eval(), scaled(images))
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
