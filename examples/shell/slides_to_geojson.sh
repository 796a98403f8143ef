#!/bin/sh
# The nuclei of every slide in a folder: labels, outlines as GeoJSON (QuPath opens it), and a table of their sizes.
#
#   sh slides_to_geojson.sh SLIDES OUT [more options of i2i segment]
#
# Killed, or some slides failed? The same line again: finished slides are skipped, one that was begun goes on where it was.
# Ends with i2i's exit code: 0 all done, 3 some slides failed (they are listed), 130 interrupted.
set -eu
slides=$1
out=${2%/}
shift 2

i2i segment "$slides" -o "$out/labels" --geojson "$out/outlines" --csv "$out/tables" \
    --memory "${MEMORY:-4GB}" --skip-existing --resume --json "$@" > "$out.json.part" || code=$?
mv "$out.json.part" "$out.json"
exit "${code:-0}"
