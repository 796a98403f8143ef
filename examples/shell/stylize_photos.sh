#!/bin/sh
# Every photograph of a folder in the style of a picture, at its own size, in seconds each.
#
#   sh stylize_photos.sh PHOTOS STYLE OUT [more options of i2i stylize]
#
# Without --fast it is the paper's optimisation, half a minute for 512 pixels: METHOD= sh stylize_photos.sh ...
set -eu
photos=$1
style=$2
out=$3
shift 3

i2i stylize "$photos" --style "$style" -o "$out" ${METHOD---fast} --skip-existing --resume "$@"
