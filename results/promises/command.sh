python tools/results.py promises "shapes, equal steps=compare_shapes" \
    "shapes, equal compute=compare_shapes_compute:independent_full" \
    "facades, equal steps=compare_facade" > output/promises.md
