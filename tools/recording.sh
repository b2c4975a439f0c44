#!/bin/sh
# The terminal recording of README.md: a real run of `potstill demo`, shortened to 60 seconds. Not part of `make`; wants termtosvg:
#
#     uv venv runs/recording && uv pip install --python runs/recording termtosvg setuptools
#     sh tools/recording.sh runs/recording/bin/termtosvg
#
# The run is captured in a terminal and kept as runs/recording.cast; where that is there, it is only drawn. Nothing is left out, and
# nothing added but the line that asks: all time is shortened evenly.
set -eu

termtosvg=$1
here=$(cd "$(dirname "$0")/.." && pwd)
python=$here/.venv/bin/python
cast=$here/runs/recording.cast
picture=$here/docs/pictures/demo.svg

mkdir -p "$here/runs" "$(dirname "$picture")"
if [ ! -f "$cast" ]; then
    place=$(mktemp -d)
    (cd "$place" && PATH="$here/.venv/bin:$PATH" "$python" "$here/tools/recording.py" capture "$cast.part" -- potstill demo)
    rm -r "$place"
    mv "$cast.part" "$cast"
fi
"$python" "$here/tools/recording.py" shorten "$cast" "$cast.short" --seconds 60
"$termtosvg" render "$cast.short" "$cast.svg" -t window_frame -D 1
# The frame's bright colours are base16's, of which some can't be seen on its ground: bold green is to be green.
sed -e '/color10 {/s/#383830/#a6e22e/' -e '/color12 {/s/#a59f85/#66d9ef/' -e '/color14 {/s/#cc6633/#a1efe4/' \
    -e '/color9 {/s/#fd971f/#f92672/' -e '/color11 {/s/#49483e/#f4bf75/' -e '/color13 {/s/#f5f4f1/#ae81ff/' "$cast.svg" > "$picture"
rm "$cast.short" "$cast.svg"
ls -l "$picture"
