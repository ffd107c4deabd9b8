mutualnet compare configs/lab/study_shapes.yaml
python tools/results.py effects output/study_shapes/comparison.csv --kind box \
    > output/study_shapes/effects_box.md
python tools/results.py effects output/study_shapes/comparison.csv --kind mask \
    > output/study_shapes/effects_mask.md
