"""Your own photos to a classifier, step by step in Python.

    python examples/own_photos.py photos prompts.txt TEACHER runs/pets

TEACHER is an OpenCLIP model: hf-hub:ORG/REPO, such as hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K,
is downloaded once; local-dir:FOLDER, with `open_clip_config.json` and
`open_clip_model.safetensors`, needs no network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import clipdistill


def main(arguments: Sequence[str] | None = None) -> None:
    """Make OUT/classifier.onnx and classify a few photos with it."""
    parser = argparse.ArgumentParser(description="Your own photos to a classifier.")
    parser.add_argument("photos", type=Path, help="folder of photos, without labels")
    parser.add_argument("prompts", type=Path, help="text file, `label<TAB>prompt` per line")
    parser.add_argument("teacher", help="hf-hub:ORG/REPO or local-dir:FOLDER")
    parser.add_argument("out", type=Path, help="folder for everything that is made")
    parser.add_argument("--student", default="resnet18", help="a model name of timm")
    parser.add_argument("--image-size", type=int, help="side of the student's input, in pixels")
    parser.add_argument("--epochs", type=int, default=50)
    given = parser.parse_args(arguments)
    photos, out = given.photos, given.out

    clipdistill.progress("plain")

    # The teacher embeds every photo and every prompt.
    print(clipdistill.embed(photos, out / "embeddings", model_name=given.teacher))
    print(clipdistill.embed_text(given.prompts, out / "text.npy", model_name=given.teacher))

    # The student is trained to give the same embeddings; no label is used.
    trained = clipdistill.distill(
        given.student,
        photos,
        out / "embeddings",
        out / "student",
        image_size=given.image_size,
        num_epochs=given.epochs,
    )
    print(trained)

    # How often do student and teacher choose the same label?
    measured = clipdistill.evaluate(
        out / "student", images=photos, embeddings=out / "embeddings", text=out / "text.npy"
    )
    print(f"agreement with the teacher: {measured.rows[0].agreement:.1%}")

    # One file holds the network, its preprocessing and the labels.
    classifier = out / "classifier.onnx"
    print(clipdistill.export(out / "student", classifier, text=out / "text.npy"))
    for one in clipdistill.predict(classifier, photos).predictions[:5]:
        label, probability = one.ranked[0] if one.ranked else ("not read", 0.0)
        print(f"{one.image}: {label} ({probability:.0%})")


if __name__ == "__main__":
    main()
