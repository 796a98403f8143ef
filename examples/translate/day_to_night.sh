#!/bin/sh
# Day -> night.
#
#   sh day_to_night.sh DATA MODEL.safetensors
#
# DATA/train/pairs and DATA/test/pairs: a place by day at the left, the same place by night at the right.
. "$(dirname "$0")/recipe.sh"
from_pairs "$1" "$2" AtoB
