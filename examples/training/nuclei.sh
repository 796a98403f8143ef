#!/bin/sh
# Trains the bundled model nuclei of i2i instances: nuclei in fluorescence and in stained tissue, from the 2018 Data Science Bowl (CC0).
#
#   sh examples/training/nuclei.sh FLUO BRIGHTFIELD OUTPUT.safetensors
#
# FLUO and BRIGHTFIELD hold train/images, train/masks (object ids, 16-bit PNG) and test/images, test/masks.
# 2 cores, AVX-512 BF16: 80 minutes with other work on the cores. Killed? The same line with RESUME=--resume before it goes on.
set -eu
fluo=$1
brightfield=$2
model=$3

both="${model%.safetensors}-data"
for kind in images masks; do
    mkdir -p "$both/$kind"
    cp "$fluo/train/$kind"/* "$brightfield/train/$kind"/* "$both/$kind/"
done
i2i train instances --images "$both/images" --masks "$both/masks" --name nucleus -o "$model" \
    --stem-stride 2 --stages 3 --width 96 --mask-width 96 --box-width 256 \
    --steps 3000 --batch 4 --crop 256 --rate 1e-3 --elastic 3 --validate-every 500 --seed 0 ${RESUME:-}

for data in "$fluo" "$brightfield"; do
    predictions=$(mktemp -d)
    i2i instances "$data/test/images" -o "$predictions" --model "$model" -q
    i2i eval instances "$predictions" "$data/test/masks"
    rm -rf "$predictions"
done
