#!/bin/sh
# One machine with many cores and images that are small: several i2i side by side with GNU parallel, and a log to go on with.
#
#   sh gnu_parallel.sh IMAGES OUT [JOBS]
#
# i2i's own --jobs does the same in one process, which loads the model once; this is for other machines too: add --sshlogin to parallel.
set -eu
images=$1
out=$2
jobs=${3:-4}
mkdir -p "$out"

cores=$(nproc)
export OMP_NUM_THREADS=$(((cores + jobs - 1) / jobs))
# {} is an image below the folder, {//} its own folder there: the structure is kept, and equal names are no collision
(cd "$images" && find . -name '*.tif' -o -name '*.png') |
    parallel --quote --jobs "$jobs" --joblog "$out/parallel.log" --resume-failed --halt soon,fail=10% \
        i2i segment "$images/{}" -o "$out/{//}/" --skip-existing --resume -q
