"""What segmentation makes of its networks: the mean over flips and rotations, several models together, float probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.canvas import MemoryCanvas
from i2i.contracts import Output, Runtime
from i2i.engine import Job, compute_region, run_job
from i2i.errors import ModelError
from i2i.formats.views import ArraySource
from i2i.models import open_model
from i2i.planner import Plan
from i2i.testing import assert_predictor_contract, assert_task_contract, blobs
from i2i_unet import i2i_tasks, predictor
from i2i_unet.architectures import build
from i2i_unet.network import UNet, UNetConfig
from i2i_unet.options import SegmentOptions
from i2i_unet.patch import PatchConfig
from tests.plugins.test_unet import SMALL, settle, write_model

PLAIN, TTA = SegmentOptions(), SegmentOptions(tta=True)
VALID = replace(SMALL, padding="valid", norm="none")


def member(folder: Path, name: str, config: UNetConfig, options: SegmentOptions = PLAIN, **header: object):
    """The predictor of a model file of that name."""
    path = write_model(folder / f"{name}.safetensors", config, **header)
    return predictor.load(open_model(path), Runtime(), options)


def plan(tile: tuple[int, int], batch: int = 1) -> Plan:
    return Plan(tile, 1, batch, 1, "cpu", "fp32", "torch", "memory", 0, True)


def raw(found, pixels: np.ndarray, tile: tuple[int, int], batch: int = 1) -> np.ndarray:
    """The raw output of the whole image under windows of ``tile``."""
    source, how = ArraySource(pixels), plan(tile, batch)
    return compute_region(source, found, how.grid(source.spec, found.footprint), source.spec.region, how)


def softmax(raw: np.ndarray) -> np.ndarray:
    return torch.from_numpy(raw).double().softmax(2).numpy()


# ------------------------------------------------------------------------------------------------------------------ tta


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, up="resize"),
        VALID,
        replace(VALID, up="resize"),
        replace(VALID, depth=3),
        replace(SMALL, norm="instance"),
    ],
    ids=["same", "resize", "valid", "valid resize", "valid deep", "instance"],
)
def test_the_mean_over_flips_and_rotations_keeps_the_contract(config, tmp_path):
    (task,) = i2i_tasks()
    assert_task_contract(task, model=write_model(tmp_path / "m.safetensors", config), options=TTA, images=[blobs(61, 90, 1)])


def test_a_patch_classifier_keeps_the_contract_with_tta(tmp_path):
    config = PatchConfig(1, classes=3, patch_size=9, filters=2)
    torch.manual_seed(0)
    found = predictor.UNetPredictor(
        build(config).eval().requires_grad_(False), predictor.Normalization(), ("a", "b", "c"), None, TTA
    )
    assert_predictor_contract(found, images=[blobs(29, 40, 1)])


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    rows=st.integers(0, 3),
    columns=st.integers(0, 3),
    valid=st.booleans(),
    depth=st.integers(1, 3),
    batch=st.integers(1, 3),
)
@settings(derandomize=True, deadline=None, max_examples=10)
def test_rectangular_windows_give_the_whole_image(height, width, rows, columns, valid, depth, batch):
    torch.manual_seed(depth)
    config = UNetConfig(2, 3, depth, 3, padding="valid" if valid else "same", norm="none")
    network = UNet(config).eval().requires_grad_(False)
    found = predictor.UNetPredictor(network, predictor.Normalization("range"), ("a", "b", "c"), None, TTA)
    needs, pixels = found.footprint, blobs(height, width, 2)
    found = found.prepare(ArraySource(pixels), 0)
    least = 2 * needs.halo + needs.multiple_of
    tiled = raw(found, pixels, (least + rows * needs.multiple_of, least + columns * needs.multiple_of), batch)
    whole = raw(found, pixels, (2048, 2048))
    assert np.abs(tiled - whole).max() <= 1e-4 * (whole.max() - whole.min())


@pytest.mark.parametrize("config", [SMALL, VALID], ids=["same", "valid"])
def test_tta_is_the_mean_over_the_eight_images_flipped_and_turned(config, tmp_path):
    """Of an image whose sides are multiples of the stride: with others, what fills them up lies elsewhere in a turned image."""
    pixels = blobs(48, 64, 1)
    plain, averaged = (member(tmp_path, "m", config, options).prepare(ArraySource(pixels), 0) for options in (PLAIN, TTA))
    seen = []
    for flip in (False, True):
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(pixels[:, ::-1] if flip else pixels, turns))
            upright = np.rot90(softmax(raw(plain, turned, (512, 512))), -turns)
            seen.append(upright[:, ::-1] if flip else upright)
    found = raw(averaged, pixels, (512, 512))
    np.testing.assert_allclose(softmax(found), np.mean(seen, 0), atol=2e-6)
    assert np.abs(softmax(found) - seen[0]).max() > 1e-3, "the views differ, so a mean that leaves some out is found"
    np.testing.assert_allclose(np.exp(found), softmax(found), atol=1e-6)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_flipped_or_turned_image_gives_the_flipped_or_turned_result(turns, tmp_path):
    pixels = blobs(32, 48, 1)
    other = np.ascontiguousarray(np.rot90(pixels[::-1], turns))
    found = member(tmp_path, "m", SMALL, TTA).prepare(ArraySource(pixels), 0)
    upright, turned = raw(found, pixels, (256, 256)), raw(found, other, (256, 256))
    np.testing.assert_allclose(np.rot90(upright[::-1], turns), turned, atol=1e-4)


def test_no_probability_is_too_small_for_its_logarithm(tmp_path):
    found = member(tmp_path, "m", SMALL, TTA)
    network = found.network
    network.head.weight.data.zero_()
    network.head.bias.data = torch.tensor([0.0, 500.0, -500.0])
    logs = found(torch.zeros(1, 1, 32, 32))
    assert torch.isfinite(logs).all() and (logs.argmax(1) == 1).all()


# ------------------------------------------------------------------------------------------------------------- ensembles


@pytest.mark.parametrize(
    "configs",
    [(SMALL, replace(SMALL, filters=6)), (SMALL, replace(SMALL, depth=3)), (VALID, replace(VALID, depth=3))],
    ids=["same", "deeper", "valid"],
)
def test_two_models_give_the_mean_of_their_probabilities(configs, tmp_path):
    """Also where the network that sees less is given less of each window."""
    pixels = blobs(40, 56, 1)
    first, second = (member(tmp_path, name, config) for name, config in zip("ab", configs, strict=True))
    joined = predictor.join([first, second])
    alone = [softmax(raw(one.prepare(ArraySource(pixels), 0), pixels, (256, 256))) for one in (first, second)]
    found = raw(joined.prepare(ArraySource(pixels), 0), pixels, (256, 256))
    np.testing.assert_allclose(softmax(found), (alone[0] + alone[1]) / 2, atol=2e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


@pytest.mark.parametrize("options", [PLAIN, TTA], ids=["plain", "tta"])
@pytest.mark.parametrize(
    "configs",
    [
        (SMALL, replace(SMALL, depth=3), replace(SMALL, depth=1, up="resize")),
        (VALID, replace(VALID, depth=3), replace(VALID, depth=1)),
        (SMALL, replace(SMALL, norm="group", filters=8)),
    ],
    ids=["same", "valid", "group"],
)
def test_models_of_other_depths_keep_the_contract_together(configs, options, tmp_path):
    members = [member(tmp_path, f"m{number}", config, options) for number, config in enumerate(configs)]
    joined = predictor.join(members)
    assert joined.footprint.halo == max(one.footprint.halo for one in members)
    assert joined.footprint.multiple_of == max(one.footprint.multiple_of for one in members)
    assert_predictor_contract(joined, images=[blobs(61, 90, 1)])


def test_a_valid_network_and_a_patch_classifier_keep_the_contract_together(tmp_path):
    torch.manual_seed(0)
    patch = build(PatchConfig(1, classes=3, patch_size=9, filters=2)).eval().requires_grad_(False)
    deep = settle(UNet(replace(VALID, depth=1))).requires_grad_(False)
    normal, names = predictor.Normalization(), ("a", "b", "c")
    joined = predictor.join([predictor.UNetPredictor(one, normal, names, None) for one in (patch, deep)])
    assert_predictor_contract(joined, images=[blobs(29, 40, 1)])


def test_the_labels_are_made_by_the_first_models_rule(tmp_path):
    far = {"interior": 1, "border": 2, "dilate": 5, "min_area": 9}
    first, second = member(tmp_path, "a", SMALL, label_rule=far), member(tmp_path, "b", SMALL)
    assert predictor.join([first, second]).label_rule == first.label_rule != second.label_rule
    assert predictor.join([second, first]).label_rule == second.label_rule


@pytest.mark.parametrize(
    ("config", "header", "told"),
    [
        (replace(SMALL, channels=3), {}, "channels: 1, and 3"),
        (SMALL, {"class_names": ["a", "b", "c"]}, "classes: class 0, class 1, class 2, and a, b, c"),
        (SMALL, {"normalization": {"method": "range"}}, "normalisation: percentile 1 to 99.8, and range"),
        (SMALL, {"normalization": {"method": "percentile", "low": 2}}, "percentile 1 to 99.8, and percentile 2 to 99.8"),
        (
            SMALL,
            {"label_rule": {"interior": 2, "border": 1}},
            "objects: of class 1 within border 2, and of class 2 within border 1",
        ),
        (SMALL, {"label_rule": None}, "objects: of class 1 within border 2, and none"),
        (VALID, {}, "convolutions: same, and valid"),
    ],
    ids=["channels", "classes", "method", "percentiles", "rule", "no rule", "padding"],
)
def test_models_that_do_not_go_together_are_named_with_what_differs(config, header, told, tmp_path):
    members = [member(tmp_path, "one", SMALL), member(tmp_path, "two", SMALL), member(tmp_path, "three", config, **header)]
    with pytest.raises(ModelError, match="one and three do not go together") as caught:
        predictor.join(members)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_statistics_are_measured_once_and_resume_all_models(tmp_path, monkeypatch):
    from i2i import normalize

    asked = []
    measure = normalize.sample_pixels
    monkeypatch.setattr(normalize, "sample_pixels", lambda *given: asked.append(given) or measure(*given))
    joined = predictor.join([member(tmp_path, name, SMALL) for name in "abc"])
    prepared = joined.prepare(ArraySource(blobs(30, 30, 1)), 0)
    assert len(asked) == 1 and set(prepared.statistics()) == {"normalization"}


# --------------------------------------------------------------------------------------------- float, gray images, header


def test_float_probabilities_are_what_the_bytes_are_rounded_from(tmp_path):
    source = ArraySource(blobs(40, 40, 1))
    results = []
    for float_ in (False, True):
        found = member(tmp_path, "m", SMALL, SegmentOptions(float_=float_)).prepare(source, 0)
        output: Output = next(one for one in found.outputs if one.name == "probabilities")
        layer = run_job(Job(source, found, output, plan((64, 64)), MemoryCanvas())).result
        results.append(layer.read(layer.spec.region))
    small, exact = results
    assert (small.dtype, exact.dtype) == ("uint8", "float32")
    np.testing.assert_allclose(exact.sum(2), 1, atol=1e-5)
    np.testing.assert_array_equal(np.rint(255 * exact), small)


@pytest.mark.parametrize(("value", "channels"), [("yes", 3), (1, 3), (True, 1), (None, 3)])
def test_gray_as_rgb_is_a_truth_value_of_a_network_of_three_channels(value, channels, tmp_path):
    with pytest.raises(ModelError, match="gray_as_rgb"):
        member(tmp_path, "m", replace(SMALL, channels=channels), gray_as_rgb=value)


def test_models_together_take_gray_images_where_all_do(tmp_path):
    gray, plain = (member(tmp_path, name, replace(SMALL, channels=3), gray_as_rgb=name == "gray") for name in ("gray", "plain"))
    assert gray.gray_as_rgb and not plain.gray_as_rgb
    assert predictor.join([gray, gray]).gray_as_rgb and not predictor.join([gray, plain]).gray_as_rgb


def test_only_one_network_seen_once_is_traced(tmp_path):
    one, other = member(tmp_path, "a", SMALL), member(tmp_path, "b", SMALL)
    assert one.traceable and not member(tmp_path, "c", SMALL, TTA).traceable
    assert not predictor.join([one, other]).traceable and one.traceable
