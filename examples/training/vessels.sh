#!/bin/sh
# Trains a model of the vessels in photographs of the retina, from DRIVE. Its data are for research only, and so is the model: it is
# not bundled.
#
#   sh examples/training/vessels.sh DRIVE OUTPUT.safetensors [CHASE]
#
# DRIVE holds train/images, train/masks (0, 255 vessel), test/images, test/masks and test/fov (255 inside the camera's field of view:
# only there it is judged). Vessels are thin and few: Dice beside cross entropy, little depth, little blur.
# CHASE: images of another camera, never trained on, with the masks of two observers. Their vessels are 1.7 times as wide in pixels:
# hence the large changes of scale. The last table is the second observer against the first: what a human reaches.
# 2 cores, AVX-512 BF16: about 8 minutes when nothing else runs. Killed? The same line with RESUME=--resume before it goes on.
set -eu
data=$1
model=$2

i2i train segment --images "$data/train/images" --masks "$data/train/masks" -o "$model" --target classes --loss cross-entropy+dice \
    --filters 24 --depth 3 --scale 1.8 --blur 0.5 \
    --steps 1200 --batch 8 --crop 192 --validate-every 200 --seed 0 ${RESUME:-}

predictions=$(mktemp -d)
trap 'rm -rf "$predictions"' EXIT
i2i segment "$data/test/images" -o "$predictions/drive" --model "$model" -q
i2i eval segment "$predictions/drive" "$data/test/masks" --kind classes --inside "$data/test/fov"

if [ $# -gt 2 ]; then
    echo "CHASE: the model, then the second observer"
    i2i segment "$3/test/images" -o "$predictions/chase" --model "$model" -q
    i2i eval segment "$predictions/chase" "$3/test/masks" --kind classes
    i2i eval segment "$3/test/masks-observer2" "$3/test/masks" --kind classes
fi
