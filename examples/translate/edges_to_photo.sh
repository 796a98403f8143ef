#!/bin/sh
# Edges -> photograph, learnt from any folder of photographs of one kind of thing; every tenth is for the test. Then it colours
# drawings: i2i translate drawing.png --model MODEL.safetensors
#
#   sh edges_to_photo.sh PHOTOS MODEL.safetensors
. "$(dirname "$0")/recipe.sh"
pairs=${2%.safetensors}-pairs
python3 "$here/make_pairs.py" edges "$1" "$pairs" --sigma "${SIGMA:-2}"
from_photos "$pairs" "$2"
