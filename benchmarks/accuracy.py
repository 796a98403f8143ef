"""The bundled models on the test split of their data.

    python benchmarks/accuracy.py --data DIR [--model nuclei-fluo] [--precision auto]

DIR holds test/images and test/masks (object ids). Without --data: the two bundled samples, which prove little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from machine import machine

from i2i import api

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="nuclei-fluo")
    asked = parser.parse_args()
    images = asked.data / "test/images" if asked.data else ROOT / "plugins/i2i_unet/samples"
    truth = asked.data / "test/masks" if asked.data else ROOT / "examples/data/nuclei-truth"
    print(f"{machine()}; {asked.model}\n")
    print("| precision | images | AP at IoU 0.5, mean | pooled | AP over IoU 0.5-0.95, mean | F1 at 0.5, mean | seconds |")
    print("|---|---|---|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            reports = api.run_many("segment", [images], folder, model=asked.model, precision=precision)
            failed = [report.error for report in reports if report.error]
            if failed:
                raise SystemExit(failed[0])
            seconds = time.monotonic() - started
            found = api.evaluate("segment", folder, truth).pooled
        row = [f"{found[name]:.3f}" for name in ("mean_ap50", "ap50", "mean_ap", "mean_f1_50")]
        print(f"| {precision} | {found['images']:.0f} | {' | '.join(row)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
