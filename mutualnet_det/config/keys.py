"""Every config key of the project, with its unit, default and meaning."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..family import Family, family


def add_mutualnet_config(cfg: CfgNode) -> None:
    """Add the project's keys to a Detectron2 config."""
    # COCO-format data sets of the user: [name, JSON file, image folder] each. The names can then be
    # used in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO_FORMAT = []

    # Image classification: folders with one subfolder of images per class: [name, folder] each.
    cfg.DATASETS.IMAGE_FOLDERS = []

    # Classes of the backbone's own classifier. 0: none, as under a detector.
    cfg.MODEL.BACKBONE.NUM_CLASSES = 0
    # The backbone under the slimmable FPN, by its registered name.
    cfg.MODEL.FPN.BOTTOM_UP = "build_slimmable_mobilenet_v2_backbone"

    # "SGD", or "ADAMW" (arXiv 1711.05101), of which SOLVER.MOMENTUM is the first beta.
    cfg.SOLVER.OPTIMIZER = "SGD"

    cfg.MUTUALNET = CfgNode()
    # "mutual": sub-networks learn beside the full network, each at a resolution of its own.
    # "us_net": all at the largest (arXiv 1903.05134). "us_net_multi_scale": all, the full network
    # too, at one resolution drawn per iteration. "independent": the largest width at the largest
    # resolution is trained alone, the usual way. "independent_multi_scale": it alone, at one
    # resolution drawn per iteration.
    cfg.MUTUALNET.METHOD = "mutual"
    # Smallest and largest width. The largest is the full network; it may be above 1.
    cfg.MUTUALNET.WIDTH_RANGE = (0.25, 1.0)
    # Whether training may start from weights that were not trained at the smaller widths, as those
    # of an ordinary network are not. If not, it is an error.
    cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = False
    # Short sides in pixels, largest first. The full network sees the first, sub-networks any.
    cfg.MUTUALNET.RESOLUTIONS = (600, 480, 360, 240)
    # How far the network slims: "backbone", "neck" or "heads".
    cfg.MUTUALNET.SCOPE = "heads"
    # Sub-networks of random width per iteration, beside the full and the narrowest one.
    cfg.MUTUALNET.NUM_RANDOM = 2
    # Micro-batches that each process divides its images of a step into. It trains on one after the
    # other, at the step's operating points, and steps once with the mean of their gradients: a step
    # takes the memory of a micro-batch. SOLVER.IMS_PER_BATCH stays the images of a step. Batch
    # statistics are those of a micro-batch, and so are the numbers of objects that losses are
    # divided by.
    cfg.MUTUALNET.MICRO_BATCHES = 1
    # Weight of each sub-network's gradient beside the full network's, which counts once.
    cfg.MUTUALNET.SUBNETWORK_WEIGHT = 1.0
    # Whose proposals the heads of sub-networks learn on: "teacher", or "own".
    cfg.MUTUALNET.PROPOSALS = "teacher"
    # Temperature of the class distributions that are distilled.
    cfg.MUTUALNET.TEMPERATURE = 1.0
    # Weights of a sub-network's losses. From the ground truth: RPN, and GROUND_TRUTH for what gives
    # the final answer (ROI heads, a dense head, a classifier). From the teacher: distributions over
    # the classes, box deltas, masks, keypoint heatmaps, the pixels' distributions over the classes;
    # OBJECTNESS, the scores that the RPN gives all anchors: see modeling/rpn.py; and FEATURE, the
    # pyramid's features, between levels of the same size: see modeling/features.py. It takes the
    # memory of the teacher's pyramid; 0: none.
    cfg.MUTUALNET.LOSS_WEIGHTS = CfgNode()
    cfg.MUTUALNET.LOSS_WEIGHTS.RPN = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.GROUND_TRUTH = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.CLASS = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.BOX = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.MASK = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.KEYPOINT = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.SEGMENTATION = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.OBJECTNESS = 0.0
    cfg.MUTUALNET.LOSS_WEIGHTS.FEATURE = 0.0
    # What slimmable layers are normalised by: "BN", batch normalisation, whose statistics are
    # calibrated at each operating point, or "GN", group normalisation (arXiv 1803.08494), which has
    # none. Detectron2's keys, such as MODEL.FPN.NORM, say where there is a norm, by "BN" for both.
    # Under Detectron2's own meta-architectures "GN" is for the pyramid and what is below it alone.
    cfg.MUTUALNET.NORM = "BN"
    # What batch normalisation uses in training: "batch" statistics, or "frozen" calibrated ones,
    # with widths drawn from GRID.WIDTHS only.
    cfg.MUTUALNET.STATISTICS = "batch"
    # What SOLVER.AMP.ENABLED computes in: "float16", which needs a GPU; "bfloat16"; or "auto":
    # bfloat16 on a GPU that computes in it itself, and float32 everywhere else.
    cfg.MUTUALNET.AMP_DTYPE = "auto"
    # What a GPU multiplies float32 matrices in, as torch.set_float32_matmul_precision has it:
    # "highest", float32; "high", TF32; "medium", bfloat16. Convolutions take TF32 in any case.
    cfg.MUTUALNET.MATMUL_PRECISION = "highest"
    # Whether backward computes the backbone's activations anew instead of keeping them: less
    # memory, more time.
    cfg.MUTUALNET.RECOMPUTE_ACTIVATIONS = False
    # With several processes: whether batch statistics are those of all their images together, as in
    # one process with the whole batch. If not, each normalises by its own share of the batch, which
    # is quicker and does harm with few images on each.
    cfg.MUTUALNET.SYNC_STATISTICS = True

    cfg.MUTUALNET.CALIBRATION = CfgNode()
    # Training images that statistics are computed on, and how many at most form a batch.
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = 128
    cfg.MUTUALNET.CALIBRATION.BATCH_SIZE = 8
    # With STATISTICS "frozen": iterations after which the statistics are computed anew.
    cfg.MUTUALNET.CALIBRATION.REFRESH_PERIOD = 500

    # Operating points that are calibrated at the end of training and evaluated by
    # `mutualnet evaluate`: widths in ascending order (empty: 4, evenly over what METHOD trains of
    # WIDTH_RANGE) and short sides in pixels, descending (empty: RESOLUTIONS).
    cfg.MUTUALNET.GRID = CfgNode()
    cfg.MUTUALNET.GRID.WIDTHS = ()
    cfg.MUTUALNET.GRID.RESOLUTIONS = ()

    # Operating point of `mutualnet train --eval-only`, such as "0.50x360". Empty: the full network
    # at the largest resolution.
    cfg.MUTUALNET.TEST_POINT = ""
    # Operating points, such as ("0.25x240", "1.00x600"), that TEST.EVAL_PERIOD evaluates. Where the
    # mean of their main metric is the best so far, the weights are kept as model_best.pth. Empty:
    # TEST_POINT alone.
    cfg.MUTUALNET.EVAL_POINTS = ()
    # Evaluations in a row without a better one, after which training ends as if SOLVER.MAX_ITER
    # were reached. 0: it never does.
    cfg.MUTUALNET.PATIENCE = 0
    # Decay per iteration of the moving average of the weights, which is what is evaluated during
    # training, kept as the best and at the end; 0.999 averages over about the last 1000 iterations.
    # It begins with the weights that training starts from, which it forgets in a few times as many.
    # Statistics are not averaged but calibrated for the average. 0: the weights themselves.
    cfg.MUTUALNET.EMA_DECAY = 0.0

    # For the meta-architecture MutualClassifier.
    cfg.MUTUALNET.CLASSIFICATION = CfgNode()
    # Area of the random training crop, as a fraction of the image's.
    cfg.MUTUALNET.CLASSIFICATION.CROP_SCALE = (0.25, 1.0)
    # Pixels that an image of the largest resolution is padded by before a random crop of that
    # resolution. Above 0 it replaces CROP_SCALE, as is usual on CIFAR.
    cfg.MUTUALNET.CLASSIFICATION.PADDING = 0
    # Strength of the random changes of brightness, contrast and saturation, and of the random
    # shifts along the principal components of ImageNet's colours. 0: none.
    cfg.MUTUALNET.CLASSIFICATION.COLOR_JITTER = 0.0
    cfg.MUTUALNET.CLASSIFICATION.LIGHTING = 0.0
    # Share of the target that is spread evenly over all classes. 0: none.
    cfg.MUTUALNET.CLASSIFICATION.LABEL_SMOOTHING = 0.0
    # In the classifier, of MobileNetV2 and VGG alone. The published recipes have none: it would
    # make the teacher noisy.
    cfg.MUTUALNET.CLASSIFICATION.DROPOUT = 0.0
    # An older name of MUTUALNET.EMA_DECAY, for classifiers.
    cfg.MUTUALNET.CLASSIFICATION.EMA_DECAY = 0.0
    # Fraction of the short side that the centre crop of evaluation keeps (224 of 256 px: 0.875).
    cfg.MUTUALNET.CLASSIFICATION.TEST_CROP = 0.875
    # Images per forward in evaluation. Time is measured on single images.
    cfg.MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE = 64

    # Augmentations of a detector's or segmentor's training images, beside INPUT.RANDOM_FLIP and
    # INPUT.CROP. All passes of an iteration see the same augmented image.
    cfg.MUTUALNET.AUGMENTATION = CfgNode()
    # Random changes of colours: factors from 1 - x to 1 + x. 0: none.
    cfg.MUTUALNET.AUGMENTATION.BRIGHTNESS = 0.0
    cfg.MUTUALNET.AUGMENTATION.CONTRAST = 0.0
    cfg.MUTUALNET.AUGMENTATION.SATURATION = 0.0
    # Standard deviation of the random shifts along the principal components of ImageNet's colours;
    # 0.1 is usual. 0: none.
    cfg.MUTUALNET.AUGMENTATION.LIGHTING = 0.0
    # Degrees that an image is turned by at most, either way, in a frame that holds all of it. Boxes
    # become those around their turned masks; without masks, around their turned corners, which is
    # more than the object where the angle is large. 0: none.
    cfg.MUTUALNET.AUGMENTATION.ROTATION = 0
    # Large-scale jitter (arXiv 2012.07177): smallest and largest factor, such as (0.1, 2.0), of the
    # size at which an image is seen, in a frame of the usual size. Empty: none.
    cfg.MUTUALNET.AUGMENTATION.SCALE = ()

    # Loggers that a training writes its scalars to, beside metrics.json and TensorBoard: "wandb"
    # (Weights & Biases), "mlflow". Both keep them on disk, unless their environment variables name
    # a server.
    cfg.MUTUALNET.LOGGERS = ()
    # Checkpoints of a training that are kept, the newest ones, model_final.pth among them: at least
    # 2, so that there is one before the last. 0: all, one every SOLVER.CHECKPOINT_PERIOD.
    cfg.MUTUALNET.CHECKPOINTS_KEPT = 0
    # Iterations in a row that are left out, and counted, because a loss or the gradient is not
    # finite: the weights stay what they were. One more stops the training; 0: the first one does.
    # Where float16's scaler looks for the scale that fits, a few are normal: it has 30 at least.
    # Proposals that are not finite always stop it, as in Detectron2.
    cfg.MUTUALNET.SKIPPED_STEPS = 0
    # What becomes of an annotation or image that cannot be used: "error" names it and stops, "skip"
    # leaves it out and counts it.
    cfg.MUTUALNET.BAD_RECORDS = "error"


def ema_decay(cfg: CfgNode) -> float:
    """Decay of the moving average of the weights; 0: there is none."""
    older = cfg.MUTUALNET.CLASSIFICATION.EMA_DECAY if family(cfg) is Family.CLASSIFIER else 0.0
    return cfg.MUTUALNET.EMA_DECAY or older
