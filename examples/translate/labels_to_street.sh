#!/bin/sh
# Labels -> street scene.
#
#   sh labels_to_street.sh DATA MODEL.safetensors
#
# DATA/train/pairs and DATA/test/pairs: photographs at the left, labels at the right, as pix2pix has Cityscapes.
. "$(dirname "$0")/recipe.sh"
from_pairs "$1" "$2" BtoA
