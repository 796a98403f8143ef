"""``--fast``: what a window gives is what the whole gives, once the content's statistics are frozen."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from i2i import frozen
from i2i.contracts import Model, Runtime
from i2i.errors import ModelError, UsageError
from i2i.formats import ArraySource
from i2i.geometry import mirror, round_up
from i2i.models import open_model, save_model
from i2i.testing import assert_predictor_contract
from i2i_style import fast
from i2i_style.colours import Colours, change_of, luminance
from i2i_style.decoder import LAYER, Decoder, DecoderConfig
from i2i_style.encoder import COMPACT, Encoder, EncoderConfig
from i2i_style.encoders import SAMPLES
from i2i_style.fast import FastPredictor, read_decoder
from i2i_style.losses import gram, style_loss
from i2i_style.options import StylizeOptions
from i2i_style.styles import read_rgb
from i2i_style.swap import Moments, Patches

ENCODER = EncoderConfig(((6, 6), (8, 8), (10,) * 4))
DECODER = DecoderConfig(10, (12, 8, 6))


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
    encoder, decoder = Encoder(ENCODER), Decoder(DECODER)
    decoder.leave.weight.data *= 60  # so that what it makes has some contrast
    return FastPredictor(encoder, decoder, StylizeOptions(style=styles, fast=True, **options), Runtime())


def prepared(styles, pixels, **options):
    source = ArraySource(pixels)
    return predictor(styles, **options).fitted(source.spec).prepare(source, 0)


def test_it_keeps_the_contract(styles):
    pixels = picture(150, 210, 1)
    assert_predictor_contract(predictor(styles), images=[pixels])


def test_what_lies_beyond_the_window_has_no_influence(styles):
    """Pixels beyond the halo are changed: a core stays as it is; at the halo's edge they are seen, by the parts that can be told
    without a choice of patches."""
    found = prepared(styles, picture(64, 64, 1))
    found.encoder.double(), found.decoder.double()
    margin = round_up(found.footprint.halo, 4)
    x = torch.rand((1, 3, 2 * margin + 8 + 64, 2 * margin + 8 + 64), dtype=torch.float64, requires_grad=True)
    start = margin + 32
    core = (..., slice(start, start + 8), slice(start, start + 8))
    found.decoder(found._answers(x))[core].sum().backward()
    seen = torch.nonzero(x.grad.abs().sum((0, 1, 2)))[:, 0]
    swap = 4 * 2  # two positions of the layer
    assert start - margin + swap <= seen.min() < start - margin + swap + 8 and seen.max() < start + 8 + margin - swap


def test_a_core_is_the_same_whatever_lies_beyond_the_halo(styles):
    found = prepared(styles, picture(64, 64, 1))
    margin = round_up(found.footprint.halo, 4)
    random = torch.Generator().manual_seed(0)
    x = torch.rand((1, 3, 2 * margin + 48, 2 * margin + 48), generator=random)
    other = torch.rand(x.shape, generator=random)
    other[..., 16:-16, 16:-16] = x[..., 16:-16, 16:-16]
    first, second = (found(each)[..., 16:-16, 16:-16] for each in (x, other))
    assert first.shape[2:] == (16, 16) and first.std() > 1e-3
    assert torch.allclose(first, second, atol=1e-5)


def mirrored(pixels, margin):
    """What a window of the whole picture sees, (1, 3, h, w), up to a multiple of 4."""
    height, width = pixels.shape[:2]
    rows, columns = ([mirror(number, side) for number in range(-margin, round_up(side, 4) + margin)] for side in (height, width))
    scaled = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
    return torch.from_numpy(scaled[rows][:, columns].transpose(2, 0, 1))[None].contiguous()


def laid(found, answers):
    (mix,) = found.mixes
    return fast._laid(found._nearest(answers, mix.looks), mix.looks)


def whole(found, pixels):
    """The result of one window, (H, W, 3)."""
    return found(mirrored(pixels, found.margin))[0].permute(1, 2, 0).numpy()[: pixels.shape[0], : pixels.shape[1]]


def test_what_is_measured_in_windows_is_the_wholes_as_a_run_sees_it(styles, monkeypatch):
    """The content's answers, what they are swapped for, and the colours of what is made."""
    pixels = picture(90, 131, 3)
    monkeypatch.setattr(fast, "_CORE", 44)
    found = prepared(styles, pixels)
    monkeypatch.setattr(fast, "_CORE", 4096)
    once = prepared(styles, pixels)
    answers = found._answers(mirrored(pixels, found.margin))
    rim = found.margin // 4
    inner = (0, slice(None), slice(rim, -rim), slice(rim, -rim))
    content, swapped = (Moments.of(values[inner]) for values in (answers, laid(found, answers)))
    for measured in (found, once):
        assert torch.allclose(measured.content.mean, content.mean, rtol=1e-4)
        assert torch.allclose(
            measured.content.covariance, content.covariance, rtol=1e-3, atol=1e-4 * float(content.covariance.max())
        )
        assert torch.allclose(measured.mixes[0].found.mean, swapped.mean, rtol=1e-3)
        assert torch.allclose(measured.mixes[0].found.deviation, swapped.deviation, rtol=1e-3)
        assert np.allclose(measured.mixes[0].made.mean, once.mixes[0].made.mean, atol=1e-4)


def test_without_strength_the_content_goes_through_the_decoder_as_it_is(styles):
    found = prepared(styles[:1], picture(80, 96, 2), strength=0.0)
    batch = torch.rand((1, 3, 176, 184), generator=torch.Generator().manual_seed(2))
    margin = round_up(found.footprint.halo, 4)
    rebuilt = found.decoder(found._answers(batch))[0, :, margin:-margin, margin:-margin].permute(1, 2, 0).numpy()
    matrix, shift = change_of(found.mixes[0].made, found.colours)
    wanted = rebuilt @ matrix.T + shift
    assert rebuilt.std() > 0.005 and np.allclose(found(batch)[0].permute(1, 2, 0).numpy(), wanted, atol=1e-4)
    assert not np.allclose(prepared(styles[:1], picture(80, 96, 2))(batch)[0].permute(1, 2, 0).numpy(), wanted, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (9, 150), (160, 177)])
@pytest.mark.parametrize(("colors", "strength"), [("none", 1.0), ("none", 0.5), ("histogram", 1.0)])
def test_the_result_has_the_colours_that_are_wanted(styles, colors, strength, height, width):
    pixels = picture(height, width, 2)
    made = Colours.together([whole(prepared(styles, pixels, keep_colors=colors, strength=strength), pixels)])
    own = [Colours.together([np.asarray(Image.open(style)) / np.float32(255)]) for style in styles]
    content = Colours.together([pixels / np.float32(255)])
    parts, weights = ([content], [1]) if colors == "histogram" else ([content, *own], [1 - strength, strength / 2, strength / 2])
    wanted = Colours.mixed(parts, weights)
    assert np.allclose(made.mean, wanted.mean, atol=0.002)
    assert np.allclose(np.sqrt(np.diag(made.covariance)), np.sqrt(np.diag(wanted.covariance)), atol=0.01)


def test_an_even_picture_has_the_styles_mean_colour(styles):
    pixels = np.full((61, 70, 3), (200, 40, 90), np.uint8)
    made = whole(prepared(styles[:1], pixels), pixels)
    assert np.allclose(
        made.mean((0, 1)), Colours.together([np.asarray(Image.open(styles[0])) / np.float32(255)]).mean, atol=0.005
    )


def test_in_bf16_colours_are_not_rounded_to_its_steps(styles):
    """A step of bf16 is a grey level around 0.6, two around 0.9: smooth skies would be flights of stairs."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(ENCODER), Decoder(DECODER)
    decoder.leave.weight.data *= 60
    pixels = picture(96, 120, 2)
    options, runtime = StylizeOptions(style=styles, fast=True), Runtime(precision="bf16")
    source = ArraySource(pixels)
    found = FastPredictor(encoder, decoder, options, runtime).fitted(source.spec).prepare(source, 0)
    with torch.autocast("cpu", torch.bfloat16):
        made = found(mirrored(pixels, found.margin))
    assert made.dtype == torch.float32 and len(made[:, 0].unique()) > 3000


def test_threads_that_prepare_at_once_share_one_measurement_of_the_styles(styles):
    shared = predictor(styles)
    sources = [ArraySource(picture(64, 72, seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda source: shared.fitted(source.spec).prepare(source, 0), sources))
    assert all([look.weight for look in one.mixes[0].looks] == [0.5, 0.5] for one in found)
    assert len({id(look) for one in found for look in one.mixes[0].looks}) == 2


def test_a_picture_in_its_own_style_is_decoded_as_it_is(tmp_path):
    pixels = picture(96, 112, 8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    found = prepared([str(tmp_path / "own.png")], pixels)
    batch = torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))[None]
    answers = found._answers(batch)
    inner = (..., slice(8, -8), slice(8, -8))
    assert torch.allclose(laid(found, answers)[inner], answers[inner], atol=1e-4)


def test_a_large_style_is_seen_in_windows_as_at_once(styles, tmp_path, monkeypatch):
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, picture(1100, 1500, 30), tile=(256, 256), photometric="rgb")
    monkeypatch.setattr(fast, "_CORE", 100)
    found = prepared([str(path)], picture(64, 64, 1)).mixes[0].looks[0].patches
    small = read_rgb(path, fast.STYLE_SIZE)
    assert small.shape == (375, 512, 3)
    one = predictor(styles)
    direct = Patches.of(one._core_of(one._answers(mirrored(small, one.margin))))
    assert torch.allclose(found.moments.mean, direct.moments.mean, rtol=1e-4)
    assert torch.allclose(found.values, direct.values, atol=1e-4 * float(direct.values.max()))


def test_style_scale_makes_the_style_larger(styles, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(picture(300, 400, 30)).save(path)
    counts = [
        len(prepared([str(path)], picture(64, 64, 1), style_scale=scale).mixes[0].looks[0].patches.keys)
        for scale in (0.125, 0.25)
    ]
    assert counts == [12 * 16, 24 * 32]


def test_styles_are_mixed_by_their_weights(styles):
    pixels = picture(80, 96, 2)
    batch = torch.rand((1, 3, 176, 184), generator=torch.Generator().manual_seed(2))
    alone = [prepared([style], pixels) for style in styles]
    mixed = prepared([styles[0] + ":3", styles[1]], pixels)
    answers = mixed._answers(batch)
    first, second = (laid(each, answers) for each in alone)
    assert torch.allclose(laid(mixed, answers), 0.75 * first + 0.25 * second, atol=1e-5)


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
    margin = round_up(found.footprint.halo, 4)
    batch = torch.rand((1, 3, 2 * margin + 32, 2 * margin + 32), generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
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
    """Of all parts of the picture: it is red above, blue below."""
    pixels = picture(400, 420, 6)
    pixels[:200, :, 0], pixels[200:, :, 2] = 250, 250
    every = prepared(styles, pixels)
    monkeypatch.setattr(frozen, "WHOLE", 2**16)
    monkeypatch.setattr(fast, "sample_regions", lambda spec, seed, side: frozen.sample_regions(spec, seed, 48, 2**16))
    one, same = prepared(styles, pixels), prepared(styles, pixels)
    assert one.statistics() == same.statistics() != every.statistics()
    assert float((one.content.covariance - every.content.covariance).norm() / every.content.covariance.norm()) < 0.2
    assert np.allclose(one.mixes[0].made.mean, every.mixes[0].made.mean, atol=0.03)


def test_a_plan_holds_what_the_styles_take():
    count, channels = 2048, 128
    one, six = (fast._held_bytes(COMPACT.layer(LAYER), 1.0, number) for number in (1, 6))
    assert six - one == 5 * count * 9 * (channels + 32) * 4


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


def test_the_bundled_networks_make_what_the_photograph_shows_in_the_styles_hand():
    """Of bundled pictures, none of which was used in training: at conv2_1 the result's Gram matrix is far nearer to the style's
    than the photograph's is; and where much changes in the photograph, much does in the result."""
    photo, style = (read_rgb(SAMPLES[number], 320) for number in (0, 1))
    options = StylizeOptions(style=[str(SAMPLES[1])], fast=True)
    source = ArraySource(np.rint(255 * photo).astype(np.uint8))
    found = fast.load(options, None, Runtime()).fitted(source.spec).prepare(source, 0)
    margin = round_up(found.footprint.halo, 4)
    batch = np.pad(
        photo[: photo.shape[0] // 4 * 4, : photo.shape[1] // 4 * 4], ((margin, margin), (margin, margin), (0, 0)), "reflect"
    )
    made = found(torch.from_numpy(batch.transpose(2, 0, 1))[None]).clamp(0, 1)
    given = torch.from_numpy(photo.transpose(2, 0, 1))[None, :, : made.shape[2], : made.shape[3]]
    wanted = torch.from_numpy(style.transpose(2, 0, 1))[None]
    grams = [gram(found.encoder(each.contiguous(), ["conv2_1"])["conv2_1"])[0] for each in (made, given, wanted)]
    assert style_loss(grams[0], grams[2]) < 0.2 * style_loss(grams[1], grams[2])
    lines = torch.corrcoef(torch.stack([edges(each) for each in (made, given)]))
    assert float(lines[0, 1]) > 0.5, float(lines[0, 1])


def edges(picture):
    """How much the luminance changes, at an eighth of the size."""
    gray = torch.nn.functional.avg_pool2d(luminance(picture), 2)
    down, right = gray[..., 1:, :-1] - gray[..., :-1, :-1], gray[..., :-1, 1:] - gray[..., :-1, :-1]
    return torch.nn.functional.avg_pool2d((down.square() + right.square()).sqrt(), 4).flatten()
