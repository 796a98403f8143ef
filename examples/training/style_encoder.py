"""Make the bundled style encoder: VGG-19's first three blocks distilled into about half the channels, and one layer more.

    python examples/training/style_encoder.py --vgg19 vgg19.safetensors --images photos --images paintings \
        --leave-out starry_night.jpg -o compact.safetensors

``--vgg19``: the weights of torchvision's vgg19, conv1_1 to conv3_4 at least. The student starts from some of the teacher's
filters: those from which the others' answers can best be told (a pivoted QR of the answers), the next layer's weights adapted by
least squares. Then it learns to give what a linear map (1 x 1) turns into the teacher's answers, and what another map B turns
into the teacher's Gram matrices: B G B'. Of B the file keeps the metric, by which style is told in the student as in the teacher.
conv4_1 learns to tell the teacher's last answers on its own grid, and the image's colours, so that a picture can be made from it.
A killed run goes on when the command is repeated. """

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
from torch.nn import functional

from i2i.backends import start_torch
from i2i.models import save_model
from i2i.training import Loop, Schedule, run
from i2i_style.encoder import COMPACT, VGG19, Encoder, EncoderConfig, divided, load_torchvision, mean_answers, normalized
from i2i_style.losses import gram

SHALLOW = tuple(layer.name for layer in COMPACT.upto(["conv3_4"]).layers)
LAST, DEEP = SHALLOW[-1], "conv4_1"


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
    """The encoder with linear maps from its layers to what the teacher says, and from its Gram matrices to the teacher's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(COMPACT)
        widths = {layer.name: (layer.channels, VGG19.layer(layer.name).channels) for layer in COMPACT.upto([LAST]).layers}
        deep = COMPACT.layer(DEEP)
        widths |= {DEEP: (deep.channels, VGG19.layer(LAST).channels), "colours": (deep.channels, 3 * 4 * 4)}
        self.maps = nn.ModuleDict({name: nn.Conv2d(*both, 1) for name, both in widths.items()})
        self.of_grams = nn.ParameterDict({name: torch.zeros(widths[name][::-1]) for name in SHALLOW})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        answers = self.encoder(images, (*SHALLOW, DEEP))
        seen = {name: thinned(name, values) for name, values in answers.items()}
        told = {name: self.maps[name](values) for name, values in seen.items()}
        told |= {"colours": self.maps["colours"](seen[DEEP])}
        with torch.autocast(images.device.type, enabled=False):
            grams = {f"gram {name}": b @ gram(seen[name].float()) @ b.T for name, b in self.of_grams.items()}
        return told | grams


def thinned(name: str, values: Tensor) -> Tensor:
    """One position for each 4 x 4 pixels at least: of the first blocks there are far more than there is to learn."""
    step = max(1, 4 // COMPACT.layer(name).stride)
    return values[..., step // 2 :: step, step // 2 :: step]


@torch.no_grad()
def begin(student: Student, teacher: Encoder, images: Sequence[Tensor]) -> None:
    """Give the student half of the teacher's filters."""
    answers = sampled(teacher, images)
    known = torch.eye(3, dtype=torch.float64)
    for layer in COMPACT.upto([LAST]).layers:
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
        student.of_grams[layer.name].copy_(known)


@torch.no_grad()
def spread(student: Student, images: Tensor) -> None:
    """Start the deep layer so that each filter answers at half of the positions: filters that never do learn nothing."""
    convolution = student.encoder.convolution(DEEP)
    convolution.weight -= convolution.weight.mean((1, 2, 3), keepdim=True)
    answers = convolution(functional.avg_pool2d(student.encoder(images, [LAST])[LAST], 2))
    deviation = answers.std((0, 2, 3)).clamp_min(1e-6)
    convolution.bias.copy_(-answers.mean((0, 2, 3)) / deviation)
    convolution.weight /= deviation[:, None, None, None]


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
    """The squared error over the target's variance, of all channels together: over images and positions; over images alone for
    Gram matrices (B, N, N)."""
    spread = target - target.mean((0, 2, 3) if target.dim() == 4 else 0, keepdim=True)
    return (found.float() - target).square().mean() / spread.square().mean().clamp_min(1e-8)


def losses(teacher: Encoder, student: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    (images,) = batch
    with torch.no_grad():
        answers = teacher(images, SHALLOW)
        targets = {name: thinned(name, values).float() for name, values in answers.items()}
        with torch.autocast(images.device.type, enabled=False):
            targets |= {f"gram {name}": gram(targets[name]) for name in SHALLOW}
        targets[DEEP] = functional.avg_pool2d(answers[LAST].float(), 2)
        stride = COMPACT.layer(DEEP).stride
        targets["colours"] = functional.pixel_unshuffle(functional.avg_pool2d(images.float(), stride // 4), 4)
    told = student(images)
    return {name: relative(told[name], target) for name, target in targets.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--images", type=Path, action="append", required=True, help="a folder of pictures; repeat for several")
    parser.add_argument("--leave-out", action="append", default=[], help="a file's name: kept for tests")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
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
    spread(student, crops(images, options.side, 16, 10**7)[0])
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
    encoder = student.encoder.eval()
    means = mean_answers(encoder, scaled(images))
    metrics = {f"metrics.{name}": metric(b.detach() * means[name]) for name, b in student.of_grams.items()}
    config = {"task": "stylize", "kind": "encoder", "encoder": COMPACT.as_mapping()}
    sha256 = save_model(options.output, divided(encoder, means).state_dict() | metrics, config)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB, sha256 {sha256}")


def metric(b: Tensor) -> Tensor:
    """W of :class:`i2i_style.encoder.Encoder`, of the B that turns Gram matrices into the teacher's: W W = B'B, scaled so that
    the mean square of W D W is that of B D B'."""
    values, vectors = torch.linalg.eigh((b.T @ b).double())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return (root * (b.shape[1] / b.shape[0]) ** 0.5).float()


def read_vgg19(path: Path) -> Encoder:
    from safetensors.torch import load_file

    config = EncoderConfig(VGG19.blocks[:3])
    return load_torchvision(config, load_file(path), str(path))


def scaled(images: Sequence[Tensor]) -> Iterator[Tensor]:
    return (image[None].float() / 255 for image in images)


if __name__ == "__main__":
    main()
