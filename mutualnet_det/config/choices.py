"""The values that the project's keys choose among."""

# Of these, the ones that train the largest width alone.
ALONE = ("independent", "independent_multi_scale")
METHODS = ("mutual", "us_net", "us_net_multi_scale", *ALONE)
SCOPES = ("backbone", "neck", "heads")
PROPOSALS = ("teacher", "own")
NORMS = ("BN", "GN")
STATISTICS = ("batch", "frozen")
AMP_DTYPES = ("auto", "float16", "bfloat16")
MATMUL_PRECISIONS = ("highest", "high", "medium")
OPTIMIZERS = ("SGD", "ADAMW")
TRAINING_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
LOGGERS = ("wandb", "mlflow")
BAD_RECORDS = ("error", "skip")
