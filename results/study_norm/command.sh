mutualnet compare configs/lab/study_norm.yaml --num-processes 1
python tools/results.py effects output/study_norm/comparison.csv --kind box \
    > output/study_norm/effects_box.md
python tools/results.py effects output/study_norm/comparison.csv --kind mask \
    > output/study_norm/effects_mask.md
