#!/usr/bin/env python3
"""
Train a classification network that runs at any width and resolution: a detector's backbone.

Used like train_net.py: --config-file, --resume, --eval-only, --num-gpus and KEY VALUE overrides.
"""

from mutualnet_det.engine import run

if __name__ == "__main__":
    run(classification=True)
