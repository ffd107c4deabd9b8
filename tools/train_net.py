#!/usr/bin/env python3
"""
Train a network that runs at any width and resolution, or evaluate one operating point of it: what
the config describes, a detector, a segmentor or a classifier.

Used like Detectron2's own train_net.py: --config-file, --resume, --eval-only, --num-gpus and
KEY VALUE overrides.
"""

from mutualnet_det.engine import run

if __name__ == "__main__":
    run()
