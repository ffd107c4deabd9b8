mutualnet compare configs/lab/compare_shapes.yaml
