# What the recipes share; they read it with ". recipe.sh". STEPS: of the training. OPTIONS: more of i2i train translate.
# Killed? The same line with OPTIONS=--resume before it goes on from the last checkpoint.
set -eu
here=$(dirname "$0")
steps=${STEPS:-14000}

# from_pairs DATA MODEL AtoB|BtoA: DATA/train/pairs and DATA/test/pairs hold A at the left and B at the right.
from_pairs() {
    i2i train translate --pairs "$1/train/pairs" --direction "$3" -o "$2" --filters 32 --steps "$steps" ${OPTIONS:-}
    halves=$(mktemp -d)
    python3 "$here/make_pairs.py" split "$1/test/pairs" "$halves"
    case $3 in AtoB) judge "$halves/A" "$halves/B" "$2" ;; *) judge "$halves/B" "$halves/A" "$2" ;; esac
    rm -r "$halves"
}

# from_photos DATA MODEL: DATA/train and DATA/test, each with source and target, as make_pairs.py writes them.
from_photos() {
    i2i train translate --source "$1/train/source" --target "$1/train/target" -o "$2" --filters 32 --steps "$steps" ${OPTIONS:-}
    judge "$1/test/source" "$1/test/target" "$2"
}

# judge SOURCES TARGETS MODEL: the results go beside the model, and are compared with the targets.
judge() {
    i2i translate "$1" -o "${3%.safetensors}-test" --model "$3" --overwrite -q
    i2i eval translate "${3%.safetensors}-test" "$2"
}
