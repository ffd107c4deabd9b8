mutualnet compare configs/lab/study_methods.yaml
python tools/results.py effects output/study_methods/comparison.csv --kind box \
    > output/study_methods/effects_box.md
python tools/results.py effects output/study_methods/comparison.csv --kind mask \
    > output/study_methods/effects_mask.md
