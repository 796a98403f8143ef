#!/bin/sh
# Trains the bundled model denoise-fluo: noisy fluorescence to clean, from the 2018 Data Science Bowl (CC0).
#
#   sh examples/training/denoise_fluo.sh DATA OUTPUT.safetensors
#
# DATA holds train/images and test/images, grey images of 8 bits. Each gets noise of five strengths (fluo_noise.py).
# 2 cores, AVX-512 BF16: about 15 minutes when little else runs. Killed? The same line with RESUME=--resume before it goes on.
set -eu
here=$(dirname "$0")
data=$1
model=$2
pairs=${model%.safetensors}-pairs

python3 "$here/fluo_noise.py" "$data/train/images" "$pairs" --draws 5
i2i train translate --source "$pairs/noisy" --target "$pairs/clean" -o "$model" \
    --units input --normalize percentile --head linear --norm batch --dropout 0 --up resize --depth 4 --filters 32 \
    --loss l1 --jitter 1 --crop 192 --batch 8 --steps 4500 --rate 1e-3 --schedule cosine --warmup 100 --average 0.995 \
    --validate-every 500 ${RESUME:-}
python3 "$here/../../benchmarks/translate_denoise.py" --images "$data/test/images" --out "${model%.safetensors}-test" --model "$model"
