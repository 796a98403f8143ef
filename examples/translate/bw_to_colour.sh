#!/bin/sh
# Black and white -> colour, learnt from any folder of colour photographs; every tenth is for the test.
#
#   sh bw_to_colour.sh PHOTOS MODEL.safetensors
. "$(dirname "$0")/recipe.sh"
pairs=${2%.safetensors}-pairs
python3 "$here/make_pairs.py" gray "$1" "$pairs"
from_photos "$pairs" "$2"
