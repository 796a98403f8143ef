#!/bin/sh
# A cluster with Slurm: the images of a list are shared out among the tasks of an array.
#
#   find slides -name '*.tif' | sort > slides.txt
#   sbatch slurm_array.sh slides.txt masks               # slides/a/b.tif becomes masks/slides/a/b.tif
#
# Task K of N takes lines K, K + N, K + 2 N ... A task that is killed (time limit, preemption) is queued again by Slurm with the same
# number, and goes on: what is complete is skipped, what was begun is resumed. Two tasks never write one output: i2i holds a lock.
#
#SBATCH --job-name=i2i
#SBATCH --array=0-9
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -eu
list=$1
out=$2

export I2I_OFFLINE=1 # compute nodes seldom reach the network: i2i models get NAME on the login node first
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-4}"
memory=$((${SLURM_MEM_PER_NODE:-8192} * 3 / 4))MB

failed=0
line=0
while IFS= read -r image; do
    if [ $((line % ${SLURM_ARRAY_TASK_COUNT:-10})) -eq "${SLURM_ARRAY_TASK_ID:-0}" ]; then
        i2i segment "$image" -o "$out/$(dirname "$image")/" --memory "$memory" --skip-existing --resume < /dev/null || failed=3
    fi
    line=$((line + 1))
done < "$list"
exit "$failed"
