"""How good the bundled style encoder is: what results optimised on it are worth to VGG-19.

    python benchmarks/style_encoder.py --vgg19 FILE --photos FILE... --styles FILE... --out FOLDER [--size 384] [--steps 150]

Each photograph gets each style (give pictures that were not used in training), optimised on VGG-19's first three blocks, on
the bundled encoder and, as a control, on an untrained network of the same shape (He's random weights, normalised in the same
way), with the same settings: style in all eight layers, which is the default of an encoder of three blocks, content in conv3_4,
equal weights, steps and sizes. Then VGG-19's blocks judge: the style loss of each result, E_l summed over the eight layers, over
that of the result optimised on VGG-19 itself, which makes just this sum small; and the content loss at conv3_2. The second
figure is stricter: VGG-19 is optimised on four of the layers (conv1_1, conv2_1, conv3_1, conv3_4) and judges by these alone.
Beside them: what ``--fast`` makes, and the photograph as it is. The pictures lie side by side in ``--out``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from experiment import I2I
from machine import machine

JUDGES = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4")
FOUR = ("conv1_1", "conv2_1", "conv3_1", "conv3_4")
ROWS = ("vgg19", "vgg19, four layers", "vgg-compact", "untrained", "fast", "photograph")


def untrained(path):
    """An encoder of the bundled one's shape, with random weights."""
    import torch

    from i2i.models import save_model
    from i2i_style.encoder import COMPACT, Encoder, normalized
    from i2i_style.encoders import SAMPLES
    from i2i_style.styles import read_rgb

    torch.manual_seed(0)
    pictures = (torch.from_numpy(read_rgb(sample)).permute(2, 0, 1)[None] for sample in SAMPLES)
    encoder = normalized(Encoder(COMPACT), pictures)
    save_model(path, encoder.state_dict(), {"task": "stylize", "kind": "encoder", "encoder": COMPACT.as_mapping()})
    return path


def layers_of(name):
    """What ``--style-layers`` is for a row; the layers count one together."""
    layers = FOUR if name.endswith("four layers") else JUDGES
    return ",".join(f"{layer}:{1 / len(layers)}" for layer in layers)


def stylize(options, photo, style, name, encoder):
    """The result's path; one that is there is not made again."""
    if name == "photograph":
        return photo
    result = options.out / f"{photo.stem}-{style.stem}-{name.replace(', ', '-').replace(' ', '-')}.png"
    if not result.exists():
        how = ["--fast"] if name == "fast" else [
            "--encoder", str(encoder), "--steps", str(options.steps), "--beta", str(options.beta),
            "--style-layers", layers_of(name), "--content-layers", "conv3_4",
        ]  # fmt: skip
        files = [str(photo), "--style", str(style), "-o", str(result), "--size", str(options.size)]
        command = [*I2I, "stylize", *files, *how, "-q"]
        subprocess.run(command, check=True)
    return result


def judged(judge, result, photo, style, size):
    """Of a result, told by VGG-19's blocks: the style loss in all layers, that in four of them, the content loss."""
    import torch

    from i2i_style.losses import content_loss, gram, style_loss
    from i2i_style.styles import read_rgb

    def answers(path):
        picture = torch.from_numpy(read_rgb(path, size)).permute(2, 0, 1)[None]
        return judge(picture.contiguous(), JUDGES)

    made, wanted, content = answers(result), answers(style), answers(photo)
    styled = {name: float(style_loss(gram(made[name])[0], gram(wanted[name])[0])) for name in JUDGES}
    height, width = (min(a, b) for a, b in zip(made["conv3_2"].shape[2:], content["conv3_2"].shape[2:], strict=True))
    parts = [each["conv3_2"][..., :height, :width] for each in (made, content)]
    return sum(styled.values()), sum(styled[name] for name in FOUR), float(content_loss(*parts)) / parts[0].numel()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--styles", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--beta", type=float, default=500.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from i2i.pictures import write_sheet
    from i2i_style.encoders import find_encoder
    from i2i_style.styles import read_rgb

    encoders = {
        "vgg19": options.vgg19,
        "vgg19, four layers": options.vgg19,
        "vgg-compact": "vgg-compact",
        "untrained": untrained(options.out / "untrained.safetensors"),
    }
    judge = find_encoder(str(options.vgg19), JUDGES).encoder
    found = {name: [] for name in ROWS}
    for style in options.styles:
        rows = []
        for photo in options.photos:
            made = [stylize(options, photo, style, name, encoders.get(name)) for name in ROWS]
            losses = dict(zip(ROWS, (judged(judge, path, photo, style, options.size) for path in made), strict=True))
            for name, (styled, four, content) in losses.items():
                found[name].append((styled / losses["vgg19"][0], four / losses["vgg19, four layers"][1], content))
            print(f"{photo.stem}, {style.stem}: { {name: round(each[0], 5) for name, each in losses.items()} }", file=sys.stderr)
            rows.append([(255 * read_rgb(path, options.size)).astype("uint8") for path in made])
        write_sheet(options.out / f"sheet-{style.stem}.png", rows)
    pairs = len(options.photos) * len(options.styles)
    print(f"{machine()}; {pairs} pairs, {options.size} pixels, {options.steps} evaluations at each size\n")
    print("| picture | style loss over VGG-19's, median | lowest | highest | in four layers, median | content loss, median |")
    print("|---|---|---|---|---|---|")
    for name, each in found.items():
        eight, four, content = zip(*each, strict=True)
        figures = [statistics.median(eight), min(eight), max(eight), statistics.median(four)]
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} | {statistics.median(content):.3f} |")


if __name__ == "__main__":
    main()
