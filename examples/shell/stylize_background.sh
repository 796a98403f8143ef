#!/bin/sh
# A chain: find the objects of an image, then give a style to the background alone.
#
#   sh stylize_background.sh IMAGE STYLE OUT [more options of i2i stylize]
#
# FIND: what finds the objects (default: segment). For a photograph: FIND="instances --model coco --classes person", whose weights
# are downloaded once (i2i models get coco).
set -eu
image=$1
style=$2
out=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086
i2i ${FIND:-segment} "$image" -o "$work/objects.tif"
i2i stylize "$image" --style "$style" --mask "not:$work/objects.tif" -o "$out" "$@"
