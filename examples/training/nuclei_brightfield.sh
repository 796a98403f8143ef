#!/bin/sh
# Trains the bundled model nuclei-brightfield: nuclei in stained tissue and in bright transmitted light, from the 2018 Data Science
# Bowl (CC0). Most images are RGB; the few gray ones are repeated to three channels, so that the model takes both.
#
#   sh examples/training/nuclei_brightfield.sh DATA OUTPUT.safetensors
#
# DATA holds train/images, train/masks (object ids, 16-bit PNG) and test/images, test/masks. The images are few and small: crops of
# 192 pixels, all of the augmentation.
# 2 cores, AVX-512 BF16: about 15 minutes when nothing else runs. Killed? The same line with RESUME=--resume before it goes on.
set -eu
data=$1
model=$2

i2i train segment --images "$data/train/images" --masks "$data/train/masks" -o "$model" \
    --filters 24 --depth 4 --steps 1800 --batch 8 --crop 192 --gray 0.2 --validate-every 200 --seed 0 ${RESUME:-}

predictions=$(mktemp -d)
trap 'rm -rf "$predictions"' EXIT
i2i segment "$data/test/images" -o "$predictions" --model "$model" -q
i2i eval segment "$predictions" "$data/test/masks"
