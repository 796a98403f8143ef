#!/bin/sh
# Trains the bundled model nuclei-fluo: nuclei in fluorescence, from the 2018 Data Science Bowl (CC0).
#
#   sh examples/training/nuclei_fluo.sh DATA OUTPUT.safetensors
#
# DATA holds train/images, train/masks (object ids, 16-bit PNG) and test/images, test/masks.
# 2 cores, AVX-512 BF16: about 30 minutes when nothing else runs. Killed? The same line with RESUME=--resume before it goes on.
set -eu
data=$1
model=$2

i2i train segment --images "$data/train/images" --masks "$data/train/masks" -o "$model" \
    --filters 24 --depth 4 --steps 2000 --batch 8 --crop 256 --validate-every 250 --seed 0 ${RESUME:-}

predictions=$(mktemp -d)
trap 'rm -rf "$predictions"' EXIT
i2i segment "$data/test/images" -o "$predictions" --model "$model" -q
i2i eval segment "$predictions" "$data/test/masks"
