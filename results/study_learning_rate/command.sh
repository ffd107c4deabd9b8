mutualnet compare configs/lab/study_learning_rate.yaml
