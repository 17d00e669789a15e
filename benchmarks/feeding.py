"""How much of the machine reaches the model: embed and distill against the model's forward or
training step alone on ready tensors, and against the older scripts' way of feeding.

    python benchmarks/feeding.py --images PHOTOS --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reporting import interleaved, ratios, write_report
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from clipdistill import distill, embed
from clipdistill.distillation.losses import LossContext, distillation_loss
from clipdistill.distillation.optimizer import make_optimizer
from clipdistill.distillation.options import DistillOptions as Options
from clipdistill.images.loading import load_pixels, stack
from clipdistill.images.sources import list_images
from clipdistill.models.student import build_student
from clipdistill.models.teacher import load_teacher
from clipdistill.models.torch_embedder import memory_layout

BATCH = 64


class OlderDataset(Dataset):
    """The older scripts' way: every picture opened and decoded whole, in every epoch."""

    def __init__(self, paths: list[Path], transform: Callable) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def older_loader(paths: list[Path], size: int, workers: int, transform: Callable | None = None):
    """The older scripts' DataLoader."""
    transform = transform or transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return DataLoader(OlderDataset(paths, transform), BATCH, shuffle=True, num_workers=workers)


def embed_candidates(images: Path, teacher_name: str, scratch: Path) -> dict[str, Callable]:
    """Forward alone, `embed`, and the older script's loop, over the same pictures."""
    import open_clip

    teacher = load_teacher(teacher_name, device="cpu")
    items = list_images(images)
    loaded = [
        one for one in load_pixels(items, teacher.card.preprocess, workers=2) if not one.reason
    ]
    ready = torch.from_numpy(teacher.card.preprocess.normalize(stack(loaded)))
    batches = [b.contiguous(memory_format=teacher.images.layout) for b in ready.split(BATCH)]
    model, _, preprocess = open_clip.create_model_and_transforms(teacher_name)
    model.eval()
    loader = older_loader([item.path for item in items], 0, 2, preprocess)

    def forward() -> None:
        for batch in batches:
            teacher.images.raw(batch)

    def ours() -> float:
        out = scratch / "emb"
        shutil.rmtree(out, ignore_errors=True)
        return embed(images, out, model_name=teacher_name, device="cpu", batch_size=BATCH).seconds

    def older() -> None:
        with torch.no_grad():
            for batch in loader:
                model.encode_image(batch)

    return {"forward alone": forward, "ours": ours, "older": older}


def epoch_candidates(
    arch: str, images: Path, embeddings: Path, size: int, scratch: Path
) -> dict[str, Callable]:
    """One epoch: the training step alone, `distill`, and the older scripts' feeding."""
    options = Options(image_size=size, batch_size=BATCH, device="cpu")
    paths = [item.path for item in list_images(images)]
    network, step = training_step(arch, size, options)
    random = np.random.default_rng(0)
    ready = [
        torch.from_numpy(
            random.standard_normal((BATCH, 3, size, size), dtype=np.float32)
        ).contiguous(memory_format=memory_layout(network))
        for _ in range(4)
    ]
    targets = torch.from_numpy(random.standard_normal((BATCH, 512), dtype=np.float32))

    def alone() -> None:
        for start in range(0, len(paths), BATCH):
            count = min(BATCH, len(paths) - start)
            step(ready[start // BATCH % 4][:count], targets[:count])

    def ours() -> float:
        """Two epochs more, halved: what an epoch costs, validation and saving included."""
        return (timed(3) - timed(1)) / 2

    def timed(epochs: int) -> float:
        out = scratch / "student"
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        distill(
            arch,
            images,
            embeddings,
            out,
            image_size=size,
            batch_size=BATCH,
            device="cpu",
            num_epochs=epochs,
            val_fraction=0.0,
            cache_dir=scratch / "pixels",
        )
        return time.perf_counter() - start

    loader = older_loader(paths, size, 2)

    def older() -> None:
        for batch in loader:
            step(batch, targets[: len(batch)])

    return {"training step alone": alone, "ours": ours, "older": older}


def training_step(arch: str, size: int, options: Options):
    """The network and a function that takes one optimiser step on ready tensors."""
    network = build_student(arch, 512, image_size=size).train()
    network = network.to(memory_format=memory_layout(network))
    optimizer = make_optimizer(network, options)

    def step(pixels: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        context = LossContext(torch.ones(len(pixels)))
        loss = distillation_loss("cosine", network(pixels), targets, context)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.grad_clip)
        optimizer.step()

    return network, step


def enlarge(images: Path, folder: Path, count: int) -> Path:
    """Write `count` of the pictures as 12-megapixel JPEGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in list_images(images)[:count]:
        Image.open(item.path).convert("RGB").resize((4000, 3000)).save(
            folder / item.path.name, quality=90
        )
    return folder


def main() -> None:
    """Measure everything and write the report."""
    parser = argparse.ArgumentParser(description="feeding against ready tensors")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=512, help="pictures used")
    parser.add_argument("--large", type=int, default=128, help="12-megapixel pictures made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        images = scratch / "images"
        images.mkdir()
        for item in list_images(arguments.images)[: arguments.count]:
            shutil.copy(item.path, images)
        rows = measure(arguments, images, scratch)
    write_report(
        "feeding",
        "Feeding: how much of the machine reaches the model",
        [
            "Medians over interleaved rounds. `against the limit` is time(model alone on ready "
            "tensors) / time(this): 1 means that reading pictures costs nothing. An epoch of ours "
            "includes saving; pictures are decoded once, before the epochs; `older` decodes whole "
            "in every epoch (DataLoader, 2 workers)."
        ],
        ["what", "limit s", "ours s", "older s", "ours against the limit", "ours against older"],
        rows,
    )


def measure(arguments: argparse.Namespace, images: Path, scratch: Path) -> list[list[str]]:
    """One row a measurement."""
    rows = []
    small = scratch / "emb-small"
    embed(images, small, model_name=arguments.teacher, device="cpu")
    times = interleaved(embed_candidates(images, arguments.teacher, scratch), arguments.repeats)
    rows.append(row("embed (teacher's own size)", times, "forward alone"))
    for size in (64, 224):
        times = interleaved(
            epoch_candidates(arguments.arch, images, small, size, scratch), arguments.repeats
        )
        rows.append(
            row(f"distill epoch, {arguments.arch}, {size} px", times, "training step alone")
        )
    large = enlarge(images, scratch / "large", arguments.large)
    embed(large, scratch / "emb-large", model_name=arguments.teacher, device="cpu")
    times = interleaved(
        epoch_candidates(arguments.arch, large, scratch / "emb-large", 224, scratch),
        arguments.repeats,
    )
    rows.append(
        row(
            f"the same with {arguments.large} photos of 12 megapixels, 224 px",
            times,
            "training step alone",
        )
    )
    return rows


def row(name: str, times: dict[str, list[float]], limit: str) -> list[str]:
    """Format one measurement."""
    medians = {key: float(np.median(values)) for key, values in times.items()}
    return [
        name,
        f"{medians[limit]:.2f}",
        f"{medians['ours']:.2f}",
        f"{medians['older']:.2f}",
        f"{ratios(times, 'ours', limit):.2f}",
        f"{ratios(times, 'ours', 'older'):.2f}x faster",
    ]


if __name__ == "__main__":
    main()
