"""``i2i eval translate``: distances of images, and classes that a scorer finds in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from i2i.contracts import Compared
from i2i.testing import blobs
from i2i_pix2pix.evaluate import fcn_score, measure, perceptual
from i2i_pix2pix.options import EvalOptions
from tests.cli.kit import done, refused, save


def noisy(pixels: np.ndarray, amount: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, amount, pixels.shape)
    return np.clip(pixels + noise, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def test_the_figures_are_those_of_their_formulas(i2i, folder):
    for number in range(2):
        truth = blobs(40, 50, 3, number)
        save(folder / f"truth/{number}.png", truth)
        save(folder / f"made/{number}.png", noisy(truth, 10, number))
    found = done(i2i("eval", "translate", "made", "truth", "--json")).json
    truth, made = blobs(40, 50, 3, 0).astype(float), noisy(blobs(40, 50, 3, 0), 10, 0).astype(float)
    one = measure(Compared(noisy(blobs(40, 50, 3, 0), 10, 0), blobs(40, 50, 3, 0)), EvalOptions())
    assert one["l1"] == pytest.approx(np.abs(truth - made).mean() / 255)
    assert one["psnr"] == pytest.approx(10 * math.log10(255**2 / np.square(truth - made).mean()))
    wanted = structural_similarity(
        truth, made, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert one["ssim"] == pytest.approx(wanted, abs=0.03)  # theirs leaves the border out
    other = measure(Compared(noisy(blobs(40, 50, 3, 1), 10, 1), blobs(40, 50, 3, 1)), EvalOptions())
    pooled = found["pooled"]
    assert pooled["images"] == 2 and pooled["psnr"] == pytest.approx((one["psnr"] + other["psnr"]) / 2)


def test_of_deep_images_the_range_is_that_of_the_truth_unless_told():
    truth = (blobs(30, 30, 1).astype(np.uint16) * 40) + 500
    made = noisy(truth, 100)
    span = float(truth.max()) - float(truth.min())
    apart = np.abs(made.astype(float) - truth).mean()
    assert measure(Compared(made, truth), EvalOptions())["l1"] == pytest.approx(apart / span)
    assert measure(Compared(made, truth), EvalOptions(range=65535.0))["l1"] == pytest.approx(apart / 65535)


def test_equal_images_small_images_gray_images_and_the_inside():
    truth = blobs(30, 30, 3)
    same = measure(Compared(truth, truth), EvalOptions())
    assert (same["l1"], same["psnr"]) == (0, 100) and same["ssim"] == pytest.approx(1)
    assert "ssim" not in measure(Compared(truth[:5], truth[:5]), EvalOptions())
    gray = truth[..., :1]
    assert measure(Compared(np.repeat(gray, 3, 2), gray), EvalOptions())["l1"] == 0
    inside = np.zeros((30, 30), bool)
    inside[:10] = True
    wrong = truth.copy()
    wrong[15:] = 0
    assert measure(Compared(wrong, truth, inside), EvalOptions())["l1"] == 0


def test_what_looks_alike_is_nearer_to_the_encoder():
    truth = blobs(64, 64, 3).astype(float) / 255
    shifted, noise = np.roll(truth, 1, 0), np.random.default_rng(0).random(truth.shape)
    assert perceptual(truth, truth) == pytest.approx(0, abs=1e-6)
    assert 0 < perceptual(shifted, truth) < perceptual(noise, truth)
    assert perceptual(truth[:1, :3, :1], truth[:1, :3, :1]) == pytest.approx(0, abs=1e-6)


def test_the_fcn_score_is_that_of_its_counts():
    counts = {"shared_0": 6, "predicted_0": 8, "true_0": 8, "shared_1": 2, "predicted_1": 4, "true_1": 4,
              "shared_2": 0, "predicted_2": 1, "true_2": 0}  # fmt: skip
    found = fcn_score(counts)
    assert found["pixel_accuracy"] == pytest.approx(8 / 12)
    assert found["class_accuracy"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert found["class_iou"] == pytest.approx((6 / 10 + 2 / 6) / 2)


def test_a_scorer_finds_in_good_predictions_what_their_labels_say(i2i, folder):
    """Bright and dark: a scorer that has learnt to tell them scores the truth high, and its negative low."""
    for number in range(4):
        pixels = blobs(48, 48, 1, number)[..., 0]
        save(folder / f"truth/{number}.png", pixels)
        save(folder / f"labels/{number}.png", (pixels > 60).astype(np.uint8))
        save(folder / f"wrong/{number}.png", 255 - pixels)
    tiny = ["--target", "classes", "--depth", "1", "--filters", "4", "--crop", "32", "--steps", "40", "--rate", "0.01",
            "--warmup", "0", "--average", "0", "--precision", "fp32"]  # fmt: skip
    done(i2i("train", "segment", "--images", "truth", "--masks", "labels", "-o", "scorer.safetensors", *tiny))
    scored = ("--scorer", "scorer.safetensors", "--labels", "labels", "--json")
    good, bad = (done(i2i("eval", "translate", made, "truth", *scored)).json["pooled"] for made in ("truth", "wrong"))
    assert good["pixel_accuracy"] > 0.9 and good["class_iou"] > 0.6
    assert bad["pixel_accuracy"] < good["pixel_accuracy"] - 0.2
    assert {"l1", "psnr", "ssim", "class_accuracy"} <= good.keys()


def test_what_cannot_be_compared_is_told_in_a_line(i2i, folder):
    save(folder / "truth/a.png", blobs(20, 20, 3))
    save(folder / "made/a.png", blobs(20, 20, 3)[..., 0])
    refused(i2i("eval", "translate", "made", "truth"), 1, "1 channels", "3")
    refused(i2i("eval", "translate", "truth", "truth", "--scorer", "x.safetensors"), 2, "--labels")
    refused(i2i("eval", "translate", "truth", "truth", "--scorer", "x", "--labels", str(folder / "made")), 1, "x")
    refused(i2i("eval", "translate", "truth", "truth", "--range", "-1"), 2, "--range")
