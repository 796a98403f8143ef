#!/bin/sh
# Trains a model of cell membranes in electron microscopy, from the ISBI 2012 challenge. Its data are for research only, and so is
# the model: it is not bundled.
#
#   sh examples/training/em_membrane.sh DATA OUTPUT.safetensors
#
# DATA holds train/images, train/masks (0 membrane, 255 cell) and test/images, test/masks. 21 sections to learn from: turned,
# mirrored, and deformed as strongly as in the paper; drop-out.
# 2 cores, AVX-512 BF16: about 10 minutes when nothing else runs. Killed? The same line with RESUME=--resume before it goes on.
set -eu
data=$1
model=$2

i2i train segment --images "$data/train/images" --masks "$data/train/masks" -o "$model" --target classes --loss cross-entropy \
    --filters 24 --depth 4 --dropout 0.2 --elastic 10 --gray 0.2 --scale 1.25 \
    --steps 1400 --batch 4 --crop 256 --validate-every 250 --seed 0 ${RESUME:-}

predictions=$(mktemp -d)
trap 'rm -rf "$predictions"' EXIT
for tta in "" --tta; do
    echo "${tta:-plain}"
    i2i segment "$data/test/images" -o "$predictions/${tta:-plain}" --model "$model" --as probabilities $tta -q
    i2i eval segment "$predictions/${tta:-plain}" "$data/test/masks" --kind regions
done
