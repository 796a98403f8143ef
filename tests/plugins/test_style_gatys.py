"""``i2i stylize`` by optimisation: from files to files, in every way of its options."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import i2i
from i2i import api
from i2i.contracts import ImageSpec, Runtime
from i2i.errors import InputError, ModelError, UsageError
from i2i.models import save_model
from i2i_style import gatys
from i2i_style.encoder import EncoderConfig
from i2i_style.encoders import encoder_config, find_encoder
from i2i_style.gatys import GatysPredictor, scales_of
from i2i_style.layers import content_layers, style_layers
from i2i_style.options import StylizeOptions
from i2i_style.results import working_size

SMALL = EncoderConfig(((8, 8), (12, 12), (16,)))


def texture(height, width, seed):
    """(H, W, 3) uint8: stripes and noise of a colour of their own."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    wave = np.sin(rows / random.uniform(2, 6)) * np.cos(columns / random.uniform(2, 6))
    colour = random.uniform(60, 190, 3)
    return np.clip(
        colour + 50 * wave[..., None] * random.uniform(0.3, 1, 3) + random.normal(0, 8, (height, width, 3)), 0, 255
    ).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an encoder of random weights, a photograph and two styles."""
    folder = tmp_path_factory.mktemp("style")
    torch.manual_seed(0)
    encoder = gatys.Encoder(SMALL)
    for convolution in encoder.convolutions.values():
        convolution.weight.data *= 0.7
    save_model(
        folder / "small.safetensors", encoder.state_dict(), {"task": "stylize", "kind": "encoder", "encoder": SMALL.as_mapping()}
    )
    Image.fromarray(texture(60, 80, 1)).save(folder / "photo.png")
    for name, seed in (("a", 2), ("b", 3)):
        Image.fromarray(texture(70, 50, seed)).save(folder / f"{name}.png")
    return folder


def stylized(place, tmp_path, name="out.png", photo="photo.png", **options):
    values = {
        "style": [str(place / "a.png")],
        "encoder": str(place / "small.safetensors"),
        "steps": 8,
        "precision": "fp32",
    } | options
    report = i2i.run("stylize", place / photo, tmp_path / name, **values)
    path = tmp_path / name
    return (np.asarray(Image.open(path)) if path.suffix == ".png" else tifffile.imread(path)), report


def test_it_gives_a_picture_of_the_photographs_size(place, tmp_path):
    found, report = stylized(place, tmp_path)
    photo = np.asarray(Image.open(place / "photo.png"))
    assert found.shape == photo.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - photo).mean() > 2
    assert report.sha256 == find_encoder(str(place / "small.safetensors"), ()).model.sha256


def test_the_same_seed_gives_the_same_bytes_and_noise_depends_on_it(place, tmp_path):
    files = []
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        stylized(place, tmp_path, f"{name}.png", init="noise", seed=seed)
        files.append((tmp_path / f"{name}.png").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam", "gd"])
def test_windows_give_what_the_whole_gives(place, tmp_path, optimizer):
    whole, _ = stylized(place, tmp_path, "whole.tif", optimizer=optimizer, steps=5, scales=1, as_="float")
    tiled, report = stylized(place, tmp_path, "tiled.tif", optimizer=optimizer, steps=5, scales=1, as_="float", tile=48)
    assert report.plan["tiles"] > 1
    assert np.abs(whole - tiled).max() < 2e-3 and np.abs(whole - tiled).mean() < 1e-4


def losses_of(place, tmp_path, monkeypatch, **options):
    """The losses of every evaluation."""
    told = []

    class Noted(gatys.Objective):
        def __call__(self, x):
            result = super().__call__(x)
            told.append(dict(self.terms))
            return result

    monkeypatch.setattr(gatys, "Objective", Noted)
    stylized(place, tmp_path, **options)
    return told


def test_content_only_from_noise_comes_near_the_content(place, tmp_path, monkeypatch):
    told = losses_of(place, tmp_path, monkeypatch, beta=0.0, style=[], init="noise", steps=40, scales=1)
    assert told[-1]["content"] < 0.1 * told[0]["content"]
    assert all(each["style"] == 0 for each in told)


def test_style_only_is_texture_synthesis(place, tmp_path, monkeypatch):
    told = losses_of(place, tmp_path, monkeypatch, alpha=0.0, init="noise", steps=40, scales=1)
    assert told[-1]["style"] < 0.1 * told[0]["style"]
    assert all(each["content"] == 0 for each in told)


def test_total_variation_makes_it_smoother(place, tmp_path):
    rough, _ = stylized(place, tmp_path, "rough.png", steps=20)
    smooth, _ = stylized(place, tmp_path, "smooth.png", steps=20, tv=2000.0)
    variation = [np.abs(np.diff(each.astype(int), axis=1)).mean() for each in (rough, smooth)]
    assert variation[1] < 0.8 * variation[0]


def test_the_papers_sum_is_another_weight_of_the_content(place, tmp_path, monkeypatch):
    mean = losses_of(place, tmp_path, monkeypatch, name="mean.png", steps=1, scales=1, init="noise")
    total = losses_of(place, tmp_path, monkeypatch, name="sum.png", steps=1, scales=1, init="noise", content_loss="sum")
    answers = 16 * (60 // 4) * (80 // 4)  # of conv3_1
    assert total[0]["content"] == pytest.approx(answers * mean[0]["content"], rel=1e-4)


def test_weights_of_styles(place, tmp_path):
    both = [str(place / "a.png"), str(place / "b.png")]
    first, _ = stylized(place, tmp_path, "first.png", style=[both[0] + ":1", both[1] + ":0.000001"], steps=20)
    alone, _ = stylized(place, tmp_path, "alone.png", style=both[:1], steps=20)
    second, _ = stylized(place, tmp_path, "second.png", style=[both[0] + ":0.000001", both[1]], steps=20)
    assert np.abs(first.astype(int) - alone).mean() < 2 < np.abs(second.astype(int) - alone).mean()


def test_a_mask_keeps_a_style_to_its_part(place, tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(place / "right.png")
    found, _ = stylized(place, tmp_path, mask=[str(place / "right.png")], steps=20, scales=1)
    photo = np.asarray(Image.open(place / "photo.png")).astype(int)
    change = np.abs(found - photo).mean((0, 2))
    assert change[50:].mean() > 5 * change[:24].mean()
    other, _ = stylized(place, tmp_path, "left.png", mask=["not:" + str(place / "right.png")], steps=20, scales=1)
    change = np.abs(other - photo).mean((0, 2))
    assert change[:30].mean() > 5 * change[56:].mean()


def chroma(picture):
    red, green, blue = np.moveaxis(picture.astype(float) / 255, -1, 0)
    return np.stack([0.596 * red - 0.274 * green - 0.322 * blue, 0.211 * red - 0.523 * green + 0.312 * blue], -1)


def test_colours_are_kept(place, tmp_path):
    photo = np.asarray(Image.open(place / "photo.png"))
    plain, _ = stylized(place, tmp_path, "plain.png", steps=20)
    luminance, _ = stylized(place, tmp_path, "luminance.png", steps=20, keep_colors="luminance")
    assert np.abs(chroma(luminance) - chroma(photo)).mean() < 0.02 < np.abs(chroma(plain) - chroma(photo)).mean()
    assert np.abs(luminance.astype(int) - photo).mean() > 2
    histogram, _ = stylized(place, tmp_path, "histogram.png", steps=20, keep_colors="histogram")
    far = [np.abs(each.mean((0, 1)) - photo.mean((0, 1))).max() for each in (histogram, plain)]
    assert far[0] < 0.5 * far[1]


def test_deep_pixels_in_deep_pixels_out(place, tmp_path):
    deep = texture(40, 56, 4).astype(np.uint16) * 257
    tifffile.imwrite(place / "deep.tif", deep, photometric="rgb")
    found, _ = stylized(place, tmp_path, "deep.tif", photo="deep.tif")
    assert found.dtype == np.uint16 and len(np.unique(found)) > 1000
    eight, _ = stylized(place, tmp_path, "eight.tif", photo="deep.tif", as_="image8")
    assert eight.dtype == np.uint8 and np.abs(eight - found / 257).max() <= 1


def test_size_and_scales(place, tmp_path):
    found, _ = stylized(place, tmp_path, size="40")
    assert found.shape == (30, 40, 3)
    options = StylizeOptions(style=["a"])
    assert working_size("auto", ImageSpec(300, 400, 3), 512) == (300, 400)
    assert working_size("auto", ImageSpec(3000, 4000, 3), 512) == (384, 512)
    assert working_size("full", ImageSpec(3000, 4000, 3)) == (3000, 4000)
    assert working_size("5000", ImageSpec(3000, 4000, 3)) == (3750, 5000)
    assert working_size("auto", ImageSpec(3000, 4000, 3)) == (3000, 4000)
    assert [scale.size for scale in scales_of((384, 512), options)] == [(96, 128), (192, 256), (384, 512)]
    steps = [scale.steps for scale in scales_of((4096, 4096), options)]
    assert steps[:3] == [gatys.STEPS] * 3 and steps[3] == gatys.STEPS // 2 and steps[-1] == -(-gatys.STEPS // 8)
    assert len(scales_of((4096, 4096), StylizeOptions(style=["a"], scales=1))) == 1
    with pytest.raises(UsageError, match="--size huge"):
        working_size("huge", ImageSpec(10, 10, 3))


def test_a_gray_photograph_and_one_pixel(place, tmp_path):
    Image.fromarray(texture(40, 50, 3)[..., 0]).save(place / "gray.png")
    found, _ = stylized(place, tmp_path, "gray.png", photo="gray.png")
    assert found.shape == (40, 50, 3)
    Image.fromarray(texture(1, 1, 3)).save(place / "one.png")
    found, _ = stylized(place, tmp_path, "one.png", photo="one.png", steps=2)
    assert found.shape == (1, 1, 3)
    Image.fromarray(texture(3, 90, 3)).save(place / "thin.png")
    found, _ = stylized(place, tmp_path, "thin.png", photo="thin.png", steps=2)
    assert found.shape == (3, 90, 3)


def test_a_small_picture_of_a_large_style_and_many_scales(place, tmp_path):
    Image.fromarray(texture(5, 6, 1)).save(place / "tiny.png")
    Image.fromarray(texture(300, 300, 2)).save(place / "large.png")
    found, _ = stylized(place, tmp_path, "a.png", photo="tiny.png", style=[str(place / "large.png")], style_scale=40.0, steps=2)
    assert found.shape == (5, 6, 3)
    found, _ = stylized(place, tmp_path, "b.png", scales=9, steps=1)
    assert found.shape == (60, 80, 3)
    assert [scale.size for scale in scales_of((60, 80), StylizeOptions(style=["a"], scales=9))][:2] == [(1, 1), (2, 2)]


def test_styles_that_are_no_pictures_of_zero_to_one_are_told(place, tmp_path):
    broken = np.full((20, 20, 3), 0.5, np.float32)
    for value, text in ((np.nan, "nan.tif: has samples that are NaN"), (255.0, "white.tif: has float samples up to 255")):
        broken[3, 4] = value
        path = place / text.partition(":")[0]
        tifffile.imwrite(path, broken, photometric="rgb")
        for options in ({"style": [str(path)]}, {"init": str(path)}):
            with pytest.raises(InputError, match=text):
                stylized(place, tmp_path, **options)


def test_styles_in_the_contents_colours_are_not_kept_for_other_contents(place, tmp_path, monkeypatch):
    kept = []
    objective = GatysPredictor._objective
    monkeypatch.setattr(GatysPredictor, "_objective", lambda self, *rest: kept.append(self._targets) or objective(self, *rest))
    stylized(place, tmp_path, "kept.png", keep_colors="histogram", steps=1)
    assert kept and not any(kept)


class Killed(BaseException):
    """As a signal would."""


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_killed_run_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch, optimizer):
    options = {"optimizer": optimizer, "steps": 7, "size": "300", "save_every": 5}
    stylized(place, tmp_path, "whole.png", **options)
    monkeypatch.setattr(gatys, "_KEEP_SECONDS", 0.0)
    evaluate = gatys.Objective.__call__
    for kill_after in (3, 6, 5):
        count = 0

        def limited(self, x, limit=kill_after):
            nonlocal count
            count += 1
            if count > limit:
                raise Killed
            return evaluate(self, x)

        monkeypatch.setattr(gatys.Objective, "__call__", limited)
        with pytest.raises(Killed):
            stylized(place, tmp_path, "killed.png", resume=True, **options)
    monkeypatch.setattr(gatys.Objective, "__call__", evaluate)
    _, report = stylized(place, tmp_path, "killed.png", resume=True, **options)
    assert report.blocks_reused >= 1
    assert (tmp_path / "killed.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert not (tmp_path / "killed.png.i2i-partial").exists()
    whole, killed = (sorted(path.name for path in (tmp_path / f"{name}.png-steps").iterdir()) for name in ("whole", "killed"))
    assert whole == killed and len(whole) == 14 // 5


def test_a_style_changed_between_kill_and_resume_is_refused(place, tmp_path, monkeypatch):
    Image.fromarray(texture(30, 30, 8)).save(tmp_path / "style.png")
    monkeypatch.setattr(gatys, "_KEEP_SECONDS", 0.0)

    def killed(self, x):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(gatys.Objective, "__call__", killed)
        with pytest.raises(Killed):
            stylized(place, tmp_path, style=[str(tmp_path / "style.png")])
    Image.fromarray(texture(30, 30, 9)).save(tmp_path / "style.png")
    with pytest.raises(i2i.errors.OutputError, match="begun with another"):
        stylized(place, tmp_path, style=[str(tmp_path / "style.png")], resume=True)


def test_the_styles_are_measured_once_for_all_images(place, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(texture(40, 60, number)).save(folder / f"{number}.png")
    calls = []
    measure = GatysPredictor._measure
    monkeypatch.setattr(GatysPredictor, "_measure", lambda self, *rest: calls.append(1) or measure(self, *rest))
    reports = api.run_many(
        "stylize", [folder], tmp_path / "out", style=[str(place / "a.png")], encoder=str(place / "small.safetensors"), steps=2
    )
    assert [report.status for report in reports] == ["done"] * 3 and len(calls) == len(scales_of((40, 60), StylizeOptions()))


def test_memory_decides_on_the_optimiser():
    torch.manual_seed(0)
    predictor = GatysPredictor(gatys.Encoder(SMALL).eval(), StylizeOptions(style=["a.png"]), Runtime())
    spec = ImageSpec(4096, 4096, 3)
    pixels = 4096**2
    roomy = predictor.within(spec, 12 * pixels * 40)
    assert (roomy.optimizer, roomy.history, roomy.remarks) == ("lbfgs", gatys.HISTORY, ())
    tight = predictor.within(spec, 12 * pixels * 15)
    assert tight.optimizer == "lbfgs" and gatys.LEAST_HISTORY <= tight.history < gatys.HISTORY and "pairs" in tight.remarks[0]
    small = predictor.within(spec, 12 * pixels * 8)
    assert small.optimizer == "adam" and "Adam" in small.remarks[0]
    assert tight.held_bytes <= 12 * pixels * 15 and small.held_bytes <= 12 * pixels * 8
    with pytest.raises(UsageError, match="need .* GB more for each image at a time; give a smaller --size"):
        predictor.within(spec, 12 * pixels * 3)


def test_a_dry_run_tells_stages_and_seconds(place, tmp_path, monkeypatch):
    monkeypatch.setattr(gatys, "SMALLEST", 40)
    _, done = stylized(place, tmp_path)
    given = {"style": str(place / "a.png"), "encoder": place / "small.safetensors", "precision": "fp32", "dry_run": True}
    few, many = (i2i.run("stylize", place / "photo.png", tmp_path / "none.png", steps=steps, **given) for steps in (800, 80_000))
    assert few.plan["stages"] == ["40px", "80px"] and few.plan["batch"] == 1 and few.plan["exact"]
    assert 0 < few.plan["seconds"] < 1000 * max(0.1, done.seconds["compute"]) and many.plan["seconds"] > few.plan["seconds"]
    assert not (tmp_path / "none.png").exists()


def test_layers():
    known = ["conv1_1", "conv1_2", "conv2_1", "conv3_1", "conv3_2"]
    assert style_layers("auto", known) == dict.fromkeys(known, 0.2)
    assert style_layers("conv1_2, conv3_1:0.5", known) == {"conv1_2": 1.0, "conv3_1": 0.5}
    assert list(content_layers("auto", known)) == ["conv3_1"] and list(content_layers("auto", [*known, "conv3_4"])) == ["conv3_4"]
    for text in ("conv1_1:x", "conv1_1:-1", "conv1_1:inf", ","):
        with pytest.raises(UsageError, match="--style-layers"):
            style_layers(text, known)


def test_wrong_calls_are_told_in_a_line(place, tmp_path):
    for options, error, text in (
        ({"style": []}, UsageError, "--style is required"),
        ({"style": [str(place / "none.png")]}, InputError, "none.png"),
        ({"style": [str(place / "a.png") + ":0"]}, UsageError, "above 0"),
        ({"style_layers": "conv9_9"}, UsageError, "no layer conv9_9; there are: conv1_1"),
        ({"alpha": 0.0, "beta": 0.0}, UsageError, "--alpha 0 --beta 0"),
        ({"encoder": "vgg99"}, ModelError, "vgg-compact"),
        ({"encoder": str(place / "a.png")}, ModelError, "a.png"),
        ({"fast": True}, UsageError, "--fast"),
    ):
        with pytest.raises(error, match=text):
            stylized(place, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_headers_of_encoders_are_checked(tmp_path):
    good = SMALL.as_mapping()
    assert encoder_config(json.loads(json.dumps(good))) == SMALL
    for change in ({"blocks": []}, {"blocks": [[0]]}, {"blocks": [[10**9]]}, {"mean": [1, 2]}, {"blocks": 3}):
        save_model(
            tmp_path / "bad.safetensors", {"x": torch.zeros(1)}, {"task": "stylize", "kind": "encoder", "encoder": good | change}
        )
        with pytest.raises(ModelError, match="header that cannot be used"):
            find_encoder(str(tmp_path / "bad.safetensors"), ())
    save_model(tmp_path / "bad.safetensors", {"x": torch.zeros(1)}, {"task": "stylize", "kind": "encoder", "encoder": good})
    with pytest.raises(ModelError, match="convolutions"):
        find_encoder(str(tmp_path / "bad.safetensors"), ())
    save_model(tmp_path / "plain.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(ModelError, match="no weights of torchvision's vgg19|no encoder"):
        find_encoder(str(tmp_path / "plain.safetensors"), ())
