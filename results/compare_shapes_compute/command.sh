mutualnet compare configs/lab/compare_shapes_compute.yaml
