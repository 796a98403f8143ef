#!/bin/sh
# Aerial photograph -> map, or with BtoA map -> aerial photograph.
#
#   sh aerial_to_map.sh DATA MODEL.safetensors [AtoB|BtoA]
#
# DATA/train/pairs and DATA/test/pairs: photographs at the left, maps at the right, as pix2pix has them.
. "$(dirname "$0")/recipe.sh"
from_pairs "$1" "$2" "${3:-AtoB}"
