#!/usr/bin/env python3
"""
Train a classification network that runs at any width and resolution: a detector's backbone.

The same as train_net.py, under the name of what a detector's training starts from: the config says
what is trained.
"""

from mutualnet_det.engine import run

if __name__ == "__main__":
    run()
