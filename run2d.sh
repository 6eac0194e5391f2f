#!/usr/bin/env bash
# 2D pre-training on chest X-rays.
#
#   bash run2d.sh                            a demonstration on made-up images, about 3 minutes on 2 CPU cores
#   bash run2d.sh NIH_DIR OUT [OPTIONS]      the published settings; OPTIONS go to main.py
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
if [ $# -eq 1 ] || [[ "${1:-}" == -* || "${2:-}" == -* ]]; then
    echo "usage: bash run2d.sh [NIH_DIR OUT [OPTIONS]]" >&2
    exit 2
fi
here="$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
source "$here/env.sh"

if [ $# -gt 0 ]; then
    nih="$1" out="$2"
    shift 2
    exec "$PYTHON" "$here/main.py" --data "$nih" --model pcrlv2 --b 64 --epochs 240 --lr 1e-2 --output "$out" \
        --n chest --d 2 --ratio 1.0 --amp --resume auto "$@"
fi

out="$PWD/runs/demo2d"
echo "No data set given: a demonstration on made-up images in $out, with views smaller than the published ones,"
echo "random first weights and few epochs. The weights show that everything works; they are not worth keeping."
rm -rf "$out"
(cd "$here" && "$PYTHON" -m data.phantoms --d 2 --out "$out/phantoms" --count 140)
"$PYTHON" "$here/main.py" --data "$out/phantoms" --output "$out" --n chest --d 2 \
    --b 12 --epochs 9 --lr 1e-2 --ratio 1.0 --workers 1 --global_size 96 --local_size 32 \
    --encoder_weights none --picture_every 2 --log_every 1
cat <<END

Look at  $out/restorations.png   a row an image: input, target, restoration, those of each stage, deepest first
$([ ! -e "$out/curves.png" ] || echo "         $out/curves.png         the losses, epoch by epoch")
Weights  $out/pcrlv2_chest_pretask_1.0_9.pt
With your own images:  bash "$here/run2d.sh" NIH_DIR OUT
END
