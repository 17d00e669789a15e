"""Known facts about students: pretrained networks of timm by size and accuracy (no heavy imports).

Accuracies (top-1 on ImageNet at a network's own input size, percent) are timm's own measurements of
the weights that `timm.create_model(name, pretrained=True)` loads: results/results-imagenet.csv of
timm, read 2026-11-28.  They rank networks by how much their pretrained weights recognise; the
accuracy on a user's classes is another number.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
"""As a student's name: choose one of `KNOWN` by size and latency."""
DEFAULT_STUDENT = "tf_efficientnet_lite0"
"""Of `run`: the best of benchmarks/recipes.py; its layers run in INT8 on every runtime."""


@dataclass(frozen=True)
class KnownStudent:
    """Facts about one student.

    Attributes:
        arch: timm's name.
        imagenet: top-1 accuracy of its pretrained weights on ImageNet, percent.
        parameters: number of its parameters with 1,000 outputs, 10^6.
    """

    arch: str
    imagenet: float
    parameters: float


KNOWN = (
    KnownStudent("resnet50", 80.4, 25.6),
    KnownStudent("mobilenetv4_conv_medium", 79.9, 9.7),
    KnownStudent("resnet34", 76.4, 21.8),
    KnownStudent("mobilenetv3_large_100", 75.8, 5.5),
    KnownStudent("efficientnet_lite0", 75.5, 4.7),
    KnownStudent("tf_efficientnet_lite0", 74.8, 4.7),
    KnownStudent("mobilenetv4_conv_small", 73.8, 3.8),
    KnownStudent("lcnet_100", 72.1, 3.0),
    KnownStudent("resnet18", 71.5, 11.7),
    KnownStudent("lcnet_075", 68.8, 2.4),
    KnownStudent("mobilenetv3_small_100", 67.6, 2.5),
    KnownStudent("lcnet_050", 63.1, 1.9),
    KnownStudent("mobilenetv3_small_050", 57.9, 1.6),
)
"""The most accurate first.  All are plain convolutional networks that can be exported, and made
INT8; timm has some 1,300 more."""
