#!/usr/bin/env bash
# 3D pre-training on chest CT.
#
#   bash run3d.sh                            a demonstration on made-up scans, about 3 minutes on 2 CPU cores
#   bash run3d.sh LUNA16_DIR OUT [OPTIONS]   the published settings; OPTIONS go to main.py
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
if [ $# -eq 1 ] || [[ "${1:-}" == -* || "${2:-}" == -* ]]; then
    echo "usage: bash run3d.sh [LUNA16_DIR OUT [OPTIONS]]" >&2
    exit 2
fi
here="$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$here/env.sh"

if [ $# -gt 0 ]; then
    luna="$1" out="$2"
    shift 2
    set -- --data "$out/crops" --model pcrlv2 --b 32 --epochs 240 --lr 1e-3 --output "$out" \
        --n luna --d 3 --ratio 1.0 --amp --resume auto "$@"
    # A mistyped option is told now, not after the preprocessing.
    (cd "$here" && "$PYTHON" -c "from utils.options import parse_options; parse_options()" "$@")
    "$PYTHON" "$here/luna_preprocess.py" --input_rows 64 --input_cols 64 --input_deps 32 \
        --data "$luna" --save "$out/crops"
    exec "$PYTHON" "$here/main.py" "$@"
fi

out="$PWD/runs/demo3d"
echo "No data set given: a demonstration on made-up scans in $out, with crops an eighth of the published size and"
echo "few epochs. The weights show that everything works; they are not worth keeping."
rm -rf "$out"
(cd "$here" && "$PYTHON" -m data.phantoms --d 3 --out "$out/phantoms" --count 4)
"$PYTHON" "$here/luna_preprocess.py" --data "$out/phantoms" --save "$out/crops" --scale 8 \
    --input_rows 32 --input_cols 32 --input_deps 16 --workers 2
# Settings with which 64 steps show body and lungs: 100 swaps would scramble so small a crop, and the restoration of CT,
# a mean square of some 0.05, weighs little beside similarities of 1.
"$PYTHON" "$here/main.py" --data "$out/crops" --output "$out" --n luna --d 3 --swaps 12 --loss_weights 10 10 1 1 \
    --optimizer adamw --lr 5e-4 --weight_decay 0.05 --b 4 --epochs 7 --ratio 1.0 --amp --workers 1 \
    --picture_every 7 --log_every 4
cat <<END

Look at  $out/restorations.png   a row a crop: input, target, restoration, those of each stage, deepest first
$([ ! -e "$out/curves.png" ] || echo "         $out/curves.png         the losses, epoch by epoch")
Weights  $out/pcrlv2_luna_pretask_1.0_7.pt
With your own scans:  bash "$here/run3d.sh" LUNA16_DIR OUT
END
