#!/bin/sh
# Labels -> facade: a photograph of a building for a drawing of its windows, doors and balconies.
#
#   sh labels_to_facade.sh DATA MODEL.safetensors
#
# DATA/train/pairs and DATA/test/pairs: photographs at the left, labels at the right, as the CMP facades of pix2pix are.
. "$(dirname "$0")/recipe.sh"
from_pairs "$1" "$2" BtoA
