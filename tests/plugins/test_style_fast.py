"""``--fast``: what a window gives is what the whole gives, once the content's statistics are frozen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from i2i.contracts import Model, Runtime
from i2i.errors import ModelError, UsageError
from i2i.formats import ArraySource
from i2i.models import open_model, save_model
from i2i.testing import assert_predictor_contract
from i2i_style import fast
from i2i_style.decoder import LAYERS, Decoder, DecoderConfig, Palette, Statistics, adain, palette, recoloured, statistics
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.fast import FastPredictor, moments, read_decoder
from i2i_style.objective import tiles_of
from i2i_style.options import StylizeOptions
from i2i_style.styles import read_rgb

ENCODER = EncoderConfig(((6, 6), (8, 8), (10,) * 4, (12,)))
DECODER = DecoderConfig((10, 12), (12, 8, 6))


def picture(height, width, seed):
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    wave = np.sin(rows / random.uniform(3, 9)) * np.cos(columns / random.uniform(3, 9))
    return np.clip(random.uniform(60, 190, 3) + 50 * wave[..., None] + random.normal(0, 9, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


@pytest.fixture
def styles(tmp_path):
    paths = []
    for number in range(2):
        paths.append(str(tmp_path / f"style{number}.png"))
        Image.fromarray(picture(90, 120, 20 + number)).save(paths[-1])
    return paths


def predictor(styles, **options):
    torch.manual_seed(0)
    return FastPredictor(Encoder(ENCODER), Decoder(DECODER), StylizeOptions(style=styles, fast=True, **options), Runtime())


def prepared(styles, pixels, **options):
    source = ArraySource(pixels)
    return predictor(styles, **options).fitted(source.spec).prepare(source, 0)


def test_it_keeps_the_contract(styles):
    pixels = picture(150, 210, 1)
    assert_predictor_contract(predictor(styles), images=[pixels])


def test_what_lies_beyond_the_window_has_no_influence(styles):
    """In float64: the gradient of a core's pixels with respect to input beyond the halo is zero, and at the halo's edge it is
    not."""
    found = prepared(styles, picture(64, 64, 1))
    found.encoder.double(), found.decoder.double()
    moments_in = {name: Statistics(each.mean.double(), each.deviation.double()) for name, each in found.content.moments.items()}
    margin = found.footprint.halo + (-found.footprint.halo % 8)
    side = 2 * margin + 8 + 64
    x = torch.rand((1, 3, side, side), dtype=torch.float64, requires_grad=True)
    answers = found.encoder(x, LAYERS)
    given = [adain(answers[name], moments_in[name], moments_in[name]) for name in LAYERS]
    start = margin + 32
    found.decoder(*given, x)[..., start : start + 8, start : start + 8].sum().backward()
    seen = torch.nonzero(x.grad.abs().sum((0, 1, 2)))[:, 0]
    assert seen.min() >= start - margin and seen.max() < start + 8 + margin
    assert seen.min() < start - margin + 16


def test_the_styles_statistics_are_given():
    random = torch.Generator().manual_seed(0)
    values, wanted = torch.rand((1, 5, 9, 11), generator=random), 3 * torch.rand((1, 5, 20, 7), generator=random) - 1
    found = statistics(adain(values, statistics(values), statistics(wanted)))
    assert torch.allclose(found.mean, statistics(wanted).mean, atol=1e-4)
    assert torch.allclose(found.deviation, statistics(wanted).deviation, atol=1e-3)


def test_the_styles_colours_are_given():
    random = torch.Generator().manual_seed(0)
    pictures = 0.4 + 0.1 * torch.rand((2, 3, 40, 50), generator=random)
    wanted = torch.rand((2, 3, 30, 30), generator=random)
    wanted[:, 1] = 0.5 * wanted[:, 0] + 0.2
    found = palette(recoloured(pictures, palette(pictures), Palette(palette(wanted).mean, 0.1 * palette(wanted).covariance)))
    assert torch.allclose(found.mean, palette(wanted).mean, atol=5e-3)
    assert torch.allclose(found.covariance, 0.1 * palette(wanted).covariance, atol=2e-3)
    same = recoloured(pictures, palette(pictures), palette(wanted), strength=0.0)
    assert torch.allclose(same, pictures, atol=1e-5)


def test_the_statistics_of_windows_are_those_of_the_whole():
    encoder = Encoder(ENCODER).eval()
    image = torch.from_numpy(picture(203, 311, 3).transpose(2, 0, 1) / np.float32(255))[None]
    size = (203, 311)
    whole, tiled = (
        moments(encoder, lambda region: image[(..., *region.slices)], size, tiles_of(size, ENCODER, window))
        for window in ((999, 999), (112, 136))
    )
    direct = encoder(image, LAYERS)
    for name in LAYERS:
        assert torch.allclose(whole[name].mean, tiled[name].mean, rtol=1e-4) and torch.allclose(
            whole[name].deviation, tiled[name].deviation, rtol=1e-4
        )
        assert torch.allclose(whole[name].mean, statistics(direct[name]).mean, rtol=1e-4)


def test_without_strength_the_content_keeps_its_own(styles):
    pixels = picture(80, 96, 2)
    weak, full = prepared(styles[:1], pixels, strength=0.0), prepared(styles[:1], pixels)
    for name in LAYERS:
        assert torch.allclose(weak.wanted.moments[name].mean, weak.content.moments[name].mean)
        assert not torch.allclose(full.wanted.moments[name].mean, full.content.moments[name].mean, rtol=1e-2)
    half = prepared(styles[:1], pixels, strength=0.5)
    assert torch.allclose(
        half.wanted.moments["conv4_1"].mean,
        (weak.wanted.moments["conv4_1"].mean + full.wanted.moments["conv4_1"].mean) / 2,
        atol=1e-5,
    )


def test_without_strength_the_content_goes_through_the_decoder_as_it_is(styles):
    found = prepared(styles[:1], picture(80, 96, 2), strength=0.0)
    batch = torch.rand((1, 3, 176, 184), generator=torch.Generator().manual_seed(2))
    margin = found.footprint.halo + (-found.footprint.halo % 8)
    answers = found.encoder(batch, LAYERS)
    rebuilt = found.decoder(*(answers[name] for name in LAYERS), batch)[..., margin:-margin, margin:-margin]
    assert rebuilt.std() > 0.01 and torch.allclose(found(batch), rebuilt, atol=1e-4)


def test_a_large_style_is_measured_in_windows_as_at_once(styles, tmp_path, monkeypatch):
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, picture(1100, 1500, 30), tile=(256, 256), photometric="rgb")
    monkeypatch.setattr(fast, "_WINDOW", 192)
    found = prepared([str(path)], picture(64, 64, 1)).wanted.moments
    small = read_rgb(path, fast.STYLE_SIZE)
    assert small.shape == (563, 768, 3)
    direct = predictor(styles).encoder(torch.from_numpy(small).permute(2, 0, 1)[None], LAYERS)
    for name in LAYERS:
        whole = statistics(direct[name])
        assert torch.allclose(found[name].mean, whole.mean, rtol=2e-3, atol=1e-4)
        assert torch.allclose(found[name].deviation, whole.deviation, rtol=2e-3, atol=1e-4)


def test_styles_are_mixed_by_their_weights(styles):
    pixels = picture(80, 96, 2)
    first, second = (prepared([style], pixels).wanted.moments for style in styles)
    mixed = prepared([styles[0] + ":3", styles[1]], pixels).wanted.moments
    for name in LAYERS:
        assert torch.allclose(mixed[name].deviation, 0.75 * first[name].deviation + 0.25 * second[name].deviation, rtol=1e-5)


@pytest.mark.parametrize("colors", ["none", "luminance", "histogram"])
def test_frozen_statistics_go_through_json(styles, colors):
    pixels = picture(72, 80, 4)
    found = prepared(styles, pixels, keep_colors=colors)
    again = predictor(styles, keep_colors=colors).with_statistics(json.loads(json.dumps(found.statistics())))
    batch = torch.rand((1, 3, 200, 200), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found(batch), again(batch), atol=1e-5)


def test_luminance_keeps_the_contents_colours(styles):
    pixels = picture(96, 96, 5)
    found = prepared(styles, pixels, keep_colors="luminance")
    margin = 64
    batch = torch.rand((1, 3, 160, 160), generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    given, made = batch[..., margin:-margin, margin:-margin], found(batch)
    kept = (made > 0.001).all(1) & (made < 0.999).all(1)
    difference = (made - given)[0].permute(1, 2, 0)[kept[0]]
    assert kept.float().mean() > 0.5 and torch.allclose(difference[:, 0], difference[:, 1], atol=1e-5)


def test_the_style_is_measured_once_for_all_images(styles, monkeypatch):
    calls = []
    measured = FastPredictor._measured
    monkeypatch.setattr(FastPredictor, "_measured", lambda self, style: calls.append(style) or measured(self, style))
    shared = predictor(styles[:1])
    for seed in range(3):
        source = ArraySource(picture(64, 72, seed))
        shared.fitted(source.spec).prepare(source, 0)
    assert len(calls) == 1


def test_large_pictures_are_measured_in_some_windows(styles, monkeypatch):
    monkeypatch.setattr(fast, "_MOST_WINDOWS", 2)
    monkeypatch.setattr(fast, "_WINDOW", 128)
    pixels = picture(400, 420, 6)
    one, same = prepared(styles, pixels), prepared(styles, pixels)
    assert one.statistics() == same.statistics()
    monkeypatch.setattr(fast, "_MOST_WINDOWS", 999)
    every = prepared(styles, pixels)
    assert every.statistics() != one.statistics()  # it was a part, and a fair one
    part, whole = (each.content.moments["conv4_1"].mean for each in (one, every))
    assert float((part - whole).norm() / whole.norm()) < 0.2


def test_wrong_strength_and_wrong_files(styles, tmp_path):
    with pytest.raises(UsageError, match="--strength 2: expected 0 to 1"):
        predictor(styles, strength=2.0)
    encoder = Model("enc", tmp_path / "enc", "abc", {}, dict)
    decoder = Decoder(DECODER)
    good = {"task": "stylize", "kind": "decoder", "decoder": DECODER.as_mapping(), "encoder": "abc"}

    def saved(**change):
        save_model(tmp_path / "d.safetensors", decoder.state_dict(), good | change)
        return open_model(tmp_path / "d.safetensors")

    assert read_decoder(saved(), encoder).config == DECODER
    for change, text in (
        ({"encoder": "xyz"}, "another encoder"),
        ({"decoder": {}}, "header"),
        ({"decoder": DecoderConfig().as_mapping()}, "shape"),
    ):
        with pytest.raises(ModelError, match=text):
            read_decoder(saved(**change), encoder)
