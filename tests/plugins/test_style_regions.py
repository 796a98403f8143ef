"""Masks: what counts as inside, at every size, and on the grids of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from i2i.errors import InputError, UsageError
from i2i_style import regions
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.regions import Mask, check_mask, parse_masks, pooled, read_mask, read_shares
from i2i_style.styles import parse_styles

SIZE = (60, 90)


def saved(path: Path, pixels, **options) -> Mask:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return Mask(path)


def disc(size=SIZE):
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (size[0] / 3) ** 2


def inside(mask, size=SIZE):
    found = read_mask(mask, size)
    assert found.shape == (1, 1, *size) and found.dtype == torch.float32
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    return found[0, 0].numpy()


def test_one_mask_for_each_style_in_their_order():
    styles = parse_styles(["a.jpg:2", "b.jpg"])
    assert parse_masks(["sky.png", "not:sky.png"], styles) == (Mask(Path("sky.png")), Mask(Path("sky.png"), opposite=True))
    assert parse_masks([], styles) == ()
    with pytest.raises(UsageError, match="1 for 2 of --style"):
        parse_masks(["sky.png"], styles)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_any_label_above_zero_is_inside(tmp_path, dtype):
    numbers = np.where(disc(), 1 + np.arange(SIZE[1]) % 200, 0).astype(dtype)
    assert np.array_equal(inside(saved(tmp_path / "labels.tif", numbers)), disc())
    classes = disc().astype(dtype)
    assert np.array_equal(inside(saved(tmp_path / "classes.tif", classes)), disc())


def test_a_drawing_has_soft_edges(tmp_path):
    soft = np.round(255 * np.clip((np.arange(SIZE[1]) - 30) / 20, 0, 1)).astype(np.uint8)
    gray = np.tile(soft, (SIZE[0], 1))
    expected = gray / 255
    assert np.allclose(inside(saved(tmp_path / "soft.png", gray)), expected, atol=1e-6)
    assert np.allclose(inside(saved(tmp_path / "rgb.png", gray[..., None].repeat(3, 2))), expected, atol=1e-6)
    alpha = np.concatenate([gray[..., None].repeat(3, 2), np.full((*SIZE, 1), 255, np.uint8)], 2)
    assert np.allclose(inside(saved(tmp_path / "rgba.png", alpha)), expected, atol=1e-6)
    deep = (gray.astype(np.uint16) * 257).astype(np.uint16)
    assert np.allclose(inside(saved(tmp_path / "deep.png", deep)), expected, atol=1e-6)
    assert np.allclose(inside(saved(tmp_path / "drawn.jpg", gray, quality=90)), expected, atol=0.05)
    assert np.array_equal(inside(saved(tmp_path / "bits.png", Image.fromarray(disc()))), disc())


def test_colours_are_inside_where_they_are_not_black(tmp_path):
    painted = np.zeros((*SIZE, 3), np.uint8)
    painted[disc()] = (0, 128, 64)
    painted[5:10, 5:10] = (255, 0, 0)
    expected = disc().copy()
    expected[5:10, 5:10] = True
    assert np.array_equal(inside(saved(tmp_path / "painted.png", painted)), expected)
    indexed = Image.fromarray(expected.astype(np.uint8) * 2)
    indexed.putpalette([0, 0, 0, 9, 9, 9, 0, 128, 0])
    assert np.array_equal(inside(saved(tmp_path / "palette.png", indexed)), expected)


def test_probabilities_are_weights(tmp_path):
    shares = np.linspace(0, 0.4, 60 * 90, dtype=np.float32).reshape(SIZE)
    assert np.allclose(inside(saved(tmp_path / "shares.tif", shares)), shares, atol=1e-6)


def test_the_opposite_is_one_less_the_mask(tmp_path):
    mask = saved(tmp_path / "m.png", (disc() * 255).astype(np.uint8))
    assert np.array_equal(inside(Mask(mask.path, opposite=True), (30, 45)), 1 - inside(mask, (30, 45)))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_mask_is_averaged_to_the_size_of_the_picture(tmp_path, factor):
    """Numbers of labels must not be averaged, only whether they are inside: then the total stays."""
    large = disc((SIZE[0] * factor, SIZE[1] * factor))
    found = inside(saved(tmp_path / "m.tif", np.where(large, 1000, 0).astype(np.uint16)))
    assert found.mean() == pytest.approx(large.mean(), abs=2e-3)
    assert 0 < np.mean((found > 0) & (found < 1)) < 0.12, "soft at its border alone"
    enlarged = inside(saved(tmp_path / "s.png", (disc() * 255).astype(np.uint8)), (SIZE[0] * factor, SIZE[1] * factor))
    assert np.abs(enlarged - large).mean() < 0.03


def test_a_mask_is_read_in_pieces(tmp_path, monkeypatch):
    numbers = np.where(disc(), 7, 0).astype(np.uint8)
    numbers[-1, -1] = 255
    mask = saved(tmp_path / "m.tif", numbers)
    whole = inside(mask)
    monkeypatch.setattr(regions, "_STRIP", 200)
    assert np.array_equal(inside(mask), whole)
    assert whole[-1, -1] == 1 and whole.max() == 1 and whole[30, 45] == pytest.approx(7 / 255)


@pytest.mark.parametrize("size", [(90, 60), (60, 60), (60, 95)])
def test_another_aspect_is_refused(tmp_path, size):
    mask = saved(tmp_path / "m.png", (disc() * 255).astype(np.uint8))
    for look in (check_mask, read_mask):
        with pytest.raises(UsageError, match=r"m\.png.*90 x 60.*draw the mask"):
            look(mask, size)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 512))
def test_every_size_of_the_same_picture_has_its_aspect(height, width, longest):
    """The mask has the input's size; the picture is made at any other, rounded."""
    factor = longest / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    regions._check(Path("m.png"), regions.ImageSpec(height, width), size)


def test_what_pictures_give_sums_to_how_far_it_is_inside(tmp_path):
    """Where both masks are, the styles share by their weights."""
    y = np.arange(SIZE[0])[:, None] + np.zeros(SIZE[1])
    top = saved(tmp_path / "top.png", np.where(y < 40, 255, 0).astype(np.uint8))
    middle = saved(tmp_path / "middle.png", np.where((y >= 20) & (y < 50), 255, 0).astype(np.uint8))
    found = read_shares((top, middle), parse_styles(["a.jpg:3", "b.jpg"]), SIZE)[:, :, 0].T
    wanted = {0: (1, 0), 30: (0.75, 0.25), 45: (0, 1), 55: (0, 0)}
    for row, shares in wanted.items():
        assert np.allclose(found[row], shares, atol=1e-6)
    assert read_shares((), (), SIZE) is None


def test_a_mask_without_an_inside_is_refused(tmp_path):
    empty = saved(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(UsageError, match=r"empty\.png.*nothing in it is inside"):
        read_mask(empty, SIZE)
    full = saved(tmp_path / "full.png", np.full(SIZE, 255, np.uint8))
    with pytest.raises(UsageError, match=r"full\.png.*its opposite is empty"):
        read_mask(Mask(full.path, opposite=True), SIZE)


def test_what_is_no_image(tmp_path):
    (tmp_path / "m.png").write_text("a list")
    for look in (check_mask, read_mask):
        with pytest.raises(InputError, match=r"m\.png"):
            look(Mask(tmp_path / "m.png"), SIZE)
        with pytest.raises(InputError, match="no such file"):
            look(Mask(tmp_path / "none.png"), SIZE)


# ------------------------------------------------------------------------------------------------ the grids of layers


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 4))
def test_a_pooled_mask_is_on_the_grid_of_the_layer(height, width, halvings):
    """The size is that of the encoder's own answers, and the values are the means of squares of ``stride`` pixels."""
    stride = 2**halvings
    config = EncoderConfig(((2,),) * (halvings + 1))
    mask = torch.rand((1, 1, height, width), generator=torch.Generator().manual_seed(height))
    found = pooled(mask, stride)
    name = config.layers[-1].name
    with torch.no_grad():
        assert found.shape[2:] == Encoder(config)(torch.zeros((1, 3, height, width)), [name])[name].shape[2:]
    if min(height, width) >= stride:
        rows, columns = height // stride, width // stride
        squares = mask[0, 0, : rows * stride, : columns * stride].reshape(rows, stride, columns, stride)
        assert torch.allclose(found[0, 0], squares.mean((1, 3)), atol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data(), st.integers(0, 4))
def test_the_mask_of_a_window_is_the_window_of_the_mask(data, halvings):
    stride = 2**halvings
    sizes = st.integers(2 * stride, 2 * stride + 60)
    height, width = data.draw(sizes), data.draw(sizes)
    mask = torch.rand((1, 1, height, width), generator=torch.Generator().manual_seed(width))
    top, left = (data.draw(st.integers(0, length // stride - 1)) for length in (height, width))
    bottom = data.draw(st.sampled_from([height, stride * data.draw(st.integers(top + 1, height // stride))]))
    right = data.draw(st.sampled_from([width, stride * data.draw(st.integers(left + 1, width // stride))]))
    window = pooled(mask[..., top * stride : bottom, left * stride : right], stride)
    whole = pooled(mask, stride)[..., top : bottom // stride, left : right // stride]
    assert torch.equal(window, whole)
