"""Train the toy teacher: a real, tiny OpenCLIP model of the toy world (no GPU needed).

    python tools/train_toy_teacher.py --minutes 16      # train, store, evaluate
    python tools/train_toy_teacher.py --evaluate        # only measure what is stored

The image tower is a timm network, the text tower open_clip's transformer with CLIP's own tokenizer.
Both are trained from scratch with open_clip's contrastive loss on pictures and captions of
`clipdistill.pipeline.toy.world` (seed 1); at first the image tower is also taught to tell the facts
(kind, colour, background, ...) that the captions are made of. The teacher is measured on pictures
of another seed (2), stored as fp16 and loaded again by open_clip like any of its models.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save

from clipdistill.core.files import write_bytes, write_json
from clipdistill.pipeline.toy import world

STORED = Path(__file__).parents[1] / "src/clipdistill/pipeline/toy/toy_teacher"
PIXELS = 96
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {
            # 0.4M parameters. Its plain convolutions learn the backgrounds much faster than the
            # depthwise ones of mobilenetv4_conv_small_050: 62% against 36% of the training batch
            # right after a minute of reading facts (one run each, 2 cores, 2026-11).
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": PIXELS,
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 49408,
            "width": 64,
            "heads": 4,
            "layers": 3,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
LIMIT_MB = 12.0  # what the package can afford to carry


Facts = tuple[str, str, str, str, str]  # kind, colour, background, its colour, size
FACTS: tuple[tuple[str, ...], ...] = (
    world.KINDS,
    tuple(world.COLOURS),
    world.BACKGROUNDS,
    tuple(world.COLOURS),
    tuple(world.SIZES),
)


def main() -> None:
    """Train and store, or only evaluate; the figures go to the screen and evaluation.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STORED, help="folder of the teacher")
    parser.add_argument("--evaluate", action="store_true", help="only measure the stored teacher")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=16.0, help="time for training alone")
    length.add_argument("--steps", type=int, help="train this many steps instead")
    parser.add_argument("--pictures", type=int, default=30_000, help="drawn before training")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batches")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    figures: dict[str, Any] = {}
    if not options.evaluate:
        model, used_tokens, figures = train(options)
        store(model, used_tokens, options.out)
    figures |= evaluate(options.out)
    print(json.dumps(figures, indent=2))
    if not options.evaluate:
        write_json(options.out / "evaluation.json", figures)


def _draw(index: int) -> tuple[np.ndarray, Facts]:
    picture = world.draw(world.TEACHER_TRAINING_SEED, index, pixels=PIXELS)
    # Through JPEG, because that is how the quickstart's pictures reach the teacher.
    pixels = np.asarray(Image.open(io.BytesIO(world.jpeg(picture.image))))
    facts = (picture.kind, picture.colour, picture.background, picture.background_colour)
    return pixels, (*facts, picture.size)


def draw_all(count: int, processes: int) -> tuple[np.ndarray, list[Facts]]:
    """Draw the training set: (N, 96, 96, 3) uint8, and the facts that `world.caption` takes."""
    images = np.empty((count, PIXELS, PIXELS, 3), dtype=np.uint8)
    facts: list[Facts] = []
    with multiprocessing.Pool(processes) as pool:
        for index, (pixels, fact) in enumerate(pool.imap(_draw, range(count), chunksize=200)):
            images[index] = pixels
            facts.append(fact)
    return images, facts


class Batches:
    """Endless batches of the drawn pictures, each with a fresh caption.

    Three quarters of a batch come from anywhere, one from a corner of the world: two kinds in two
    colours. Among random pictures kind and colour alone tell nearly all pairs apart; within a
    corner the background is what decides.
    """

    def __init__(self, images: np.ndarray, facts: list[Facts], size: int, seed: int) -> None:
        """`images` (N, 96, 96, 3) uint8, in the order of `facts`."""
        self._images = images
        self._facts = facts
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._answers = np.array(
            [[names.index(fact) for names, fact in zip(FACTS, row, strict=True)] for row in facts]
        )

    def draw(self) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """Pictures (B, 3, 96, 96) float32 in [-1, 1], channels last; captions; facts (B, 5)."""
        rng, few = self._rng, self._size // 4
        corner = np.flatnonzero(
            np.isin(self._answers[:, 0], rng.choice(len(FACTS[0]), 2, replace=False))
            & np.isin(self._answers[:, 1], rng.choice(len(FACTS[1]), 2, replace=False))
        )
        anywhere = rng.choice(len(self._facts), self._size - few, replace=False)
        near = rng.choice(corner, few, replace=len(corner) < few)
        captions = [world.caption(*self._facts[index], rng) for index in anywhere]
        captions += [self._whole_caption(index) for index in near]

        shift = rng.integers(-5, 6, size=2)
        rows, columns = (np.clip(np.arange(PIXELS) + by, 0, PIXELS - 1) for by in shift)
        chosen = np.concatenate((anywhere, near))
        pixels = self._images[chosen][:, rows][:, :, columns]
        if rng.random() < 0.5:  # no caption tells left from right
            pixels = pixels[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        answers = torch.from_numpy(self._answers[chosen])
        return tensor.float().div_(127.5).sub_(1.0), captions, answers

    def _whole_caption(self, index: int) -> str:
        while True:
            caption = world.caption(*self._facts[index], self._rng)
            if "background" in caption:
                return caption


class FactHeads(torch.nn.Module):
    """Linear readers of the facts from image embeddings; they only help early training.

    Left to contrast alone, both towers settled on kind and colour and stayed blind to backgrounds
    (15% after 100,000 pictures, chance being 17%; a MobileNetV4 tower, 2026-11): neither side gains
    by naming what the other does not show. Reading the facts makes the image tower show them. The
    weight of this loss falls to zero over the training, and the heads are thrown away.
    """

    def __init__(self, width: int) -> None:
        """`width`: of the embeddings."""
        super().__init__()
        self.readers = torch.nn.ModuleList(torch.nn.Linear(width, len(names)) for names in FACTS)

    def forward(self, embeddings: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Summed cross entropy of the facts; L2-normalised (B, D) and indices (B, 5)."""
        losses = [
            torch.nn.functional.cross_entropy(reader(10 * embeddings), answers[:, i])
            for i, reader in enumerate(self.readers)
        ]
        return torch.stack(losses).sum()


def make_optimizer(modules: list[torch.nn.Module], rate: float) -> torch.optim.AdamW:
    """AdamW that does not decay gains, biases, embeddings and the temperature."""
    named = [item for module in modules for item in module.named_parameters()]
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(options: argparse.Namespace) -> tuple[CLIP, torch.Tensor, dict[str, Any]]:
    """Train from scratch; gives the model, which tokens it has met (vocab,) bool, and figures."""
    began = time.perf_counter()
    images, facts = draw_all(options.pictures, options.threads)
    drawing = time.perf_counter() - began
    print(f"drew {len(images)} pictures in {drawing:.0f} s", flush=True)

    torch.manual_seed(options.seed)
    batches = Batches(images, facts, options.batch, options.seed)
    model = CLIP(**CONFIG["model_cfg"]).to(memory_format=torch.channels_last).train()
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    used = torch.zeros(model.vocab_size, dtype=torch.bool)
    contrast, heads = ClipLoss(), FactHeads(CONFIG["model_cfg"]["embed_dim"])
    optimizer = make_optimizer([model, heads], options.rate)

    began, step = time.perf_counter(), 0
    while True:
        elapsed = time.perf_counter() - began
        done = step / options.steps if options.steps else elapsed / (60 * options.minutes)
        if done >= 1:
            break
        rate = options.rate * min(1.0, done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, captions, answers = batches.draw()
        tokens = tokenizer(captions)
        used[tokens.flatten()] = True
        image_embeddings, text_embeddings, scale = model(pixels, tokens)
        contrastive = contrast(image_embeddings, text_embeddings, scale)
        reading = heads(image_embeddings, answers)
        optimizer.zero_grad()
        (contrastive + (1 - done) * reading).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 50 == 0:
            losses = f"contrast {contrastive.item():.3f}  facts {reading.item():.3f}"
            print(f"{done:4.0%}  step {step}  {losses}  {elapsed:.0f} s", flush=True)
        step += 1
    figures = {
        "pictures": len(images),
        "steps": step,
        "batch": options.batch,
        "drawing_seconds": round(drawing, 1),
        "training_minutes": round((time.perf_counter() - began) / 60, 2),
    }
    return model, used, figures


def store(model: CLIP, used_tokens: torch.Tensor, folder: Path) -> None:
    """Write open_clip's config and weights; floating tensors as fp16."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "token_embedding.weight":
            # A word that was never trained carries noise, not meaning; as zeros it says nothing
            # and the packed file is half the size.
            tensor = tensor * used_tokens[:, None]
        if tensor.is_floating_point():
            tensor = tensor.half()
            if not tensor.isfinite().all():
                raise SystemExit(f"{name} does not fit fp16; nothing was stored.")
        tensors[name] = tensor.contiguous()
    write_bytes(folder / "open_clip_model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(folder / "open_clip_config.json", CONFIG)


ASPECTS: dict[str, tuple[str, ...]] = {
    "colour": tuple(world.COLOURS),
    "kind": world.KINDS,
    "background": world.BACKGROUNDS,
}


def _describe(colour: str, kind: str, background: str) -> str:
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {kind} on a {background} background"


def composition_accuracies(
    pictures: list[world.Picture], images: torch.Tensor, embed: Callable[[list[str]], torch.Tensor]
) -> dict[str, float]:
    """How often the true description beats all that differ from it in one aspect only.

    `images` (N, D) and what `embed` gives (M, D) are L2-normalised.
    """
    every = [_describe(*facts) for facts in itertools.product(*ASPECTS.values())]
    vectors = dict(zip(every, embed(every), strict=True))
    accuracies = {}
    for aspect, values in ASPECTS.items():
        hits = 0
        for image, picture in zip(images, pictures, strict=True):
            facts = {name: getattr(picture, name) for name in ASPECTS}
            choices = [vectors[_describe(**(facts | {aspect: value}))] for value in values]
            hits += values[int((torch.stack(choices) @ image).argmax())] == facts[aspect]
        accuracies[aspect] = hits / len(pictures)
    return accuracies


@torch.inference_mode()
def evaluate(folder: Path, count: int = 1000) -> dict[str, Any]:
    """Measure the stored teacher on `count` held-out pictures; all accuracies in [0, 1]."""
    began = time.perf_counter()
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()

    def embed(texts: list[str]) -> torch.Tensor:
        return model.encode_text(tokenizer(texts), normalize=True)

    pictures = [world.draw(world.TEACHER_EVALUATION_SEED, i, pixels=PIXELS) for i in range(count)]
    files = [Image.open(io.BytesIO(world.jpeg(picture.image))) for picture in pictures]
    pixels = torch.stack([preprocess(file) for file in files])
    images = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(100)])

    best = (images @ embed(world.prompts()).T).argmax(dim=1).tolist()
    right = sum(world.KINDS[b] == p.kind for b, p in zip(best, pictures, strict=True))
    size = sum(path.stat().st_size for path in folder.glob("open_clip*")) / 1e6
    if size > LIMIT_MB:
        raise SystemExit(f"The stored teacher has {size:.1f} MB; at most {LIMIT_MB} MB can ship.")
    return {
        "held_out_pictures": count,
        "zero_shot_accuracy": right / count,
        "composition": composition_accuracies(pictures, images, embed),
        "size_mb": round(size, 2),
        "seconds": round(time.perf_counter() - began, 1),
    }


if __name__ == "__main__":
    main()
