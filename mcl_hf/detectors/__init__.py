"""Detectors: configuration, torchvision's parts around our backbone, transformers' own classes, starts."""
