mutualnet compare configs/lab/compare_facade.yaml
