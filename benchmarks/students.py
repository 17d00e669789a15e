"""What each family of timm supports: dense export, 2:4, INT8.  Writes docs/students_support.md.

One child process per network, with a limit of time, so that a network that hangs or needs too much
memory is a row and not the end.  Random weights, small images: what is measured is whether it can
be exported, pruned and quantised, and how near INT8 stays to floating point, not an accuracy.

    python benchmarks/students.py [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs/students_support.md"
ROWS = ROOT / "benchmarks/students.json"
LIMIT_SECONDS = 240
"""Most processor seconds for one network."""
DIM = 64
IMAGES = 16
SIZES = (64, 96, 128, 160, 192, 224, 240, 256)
"""Sides of the input that are tried, the smallest first."""

FAMILIES = {
    "ResNet and its kin": [
        "resnet18",
        "resnet50d",
        "resnext50_32x4d",
        "seresnet18",
        "ecaresnet26t",
        "res2net50_14w_8s",
        "resnest14d",
        "skresnet18",
        "resnetv2_50",
        "resnetv2_50x1_bit",
        "nf_resnet26",
        "dm_nfnet_f0",
        "wide_resnet50_2",
        "botnet26t_256",
        "resnet32ts",
    ],
    "EfficientNet, MobileNet": [
        "efficientnet_b0",
        "efficientnet_lite0",
        "tf_efficientnet_lite0",
        "tf_efficientnet_b0",
        "efficientnetv2_rw_t",
        "tf_efficientnetv2_b0",
        "mobilenetv2_100",
        "mobilenetv3_small_100",
        "mobilenetv3_large_100",
        "tf_mobilenetv3_small_minimal_100",
        "mobilenetv4_conv_small",
        "mobilenetv4_hybrid_medium",
        "mnasnet_100",
        "fbnetc_100",
        "spnasnet_100",
        "mixnet_s",
        "tf_mixnet_s",
        "tinynet_a",
        "lcnet_050",
        "hardcorenas_a",
        "semnasnet_100",
    ],
    "Merged branches": [
        "mobileone_s0",
        "repvgg_a0",
        "repghostnet_050",
        "repvit_m0_9",
        "fastvit_t8",
        "ghostnetv3_050",
    ],
    "Other convolutional networks": [
        "regnetx_002",
        "regnety_002",
        "convnext_atto",
        "convnextv2_atto",
        "hgnet_tiny",
        "hgnetv2_b0",
        "ghostnet_100",
        "starnet_s1",
        "edgenext_xx_small",
        "densenet121",
        "vgg11",
        "vgg11_bn",
        "dla34",
        "cspresnet50",
        "cspdarknet53",
        "vovnet39a",
        "ese_vovnet19b_dw",
        "hrnet_w18_small",
        "inception_v3",
        "inception_next_atto",
        "selecsls42b",
        "xception41",
        "dpn48b",
        "rexnet_100",
        "focalnet_tiny_srf",
        "gernet_s",
        "tresnet_m",
        "mambaout_femto",
        "shvit_s1",
    ],
    "Transformers and hybrids": [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "deit3_small_patch16_224",
        "vit_relpos_small_patch16_224",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "mixer_s32_224",
        "resmlp_12_224",
        "gmlp_ti16_224",
        "mobilevit_xxs",
        "mobilevitv2_050",
        "efficientvit_b0",
        "efficientvit_m0",
        "efficientformer_l1",
        "efficientformerv2_s0",
        "levit_128s",
        "tiny_vit_5m_224",
        "pvt_v2_b0",
        "poolformer_s12",
        "poolformerv2_s12",
        "caformer_s18",
        "convit_tiny",
        "crossvit_9_240",
        "xcit_nano_12_p16_224",
        "cait_xxs24_224",
        "coat_tiny",
        "coatnet_nano_rw_224",
        "maxvit_tiny_tf_224",
        "mvitv2_tiny",
        "pit_ti_224",
        "tnt_s_patch16_224",
        "twins_svt_small",
        "visformer_tiny",
        "nest_tiny",
        "sequencer2d_s",
        "davit_tiny",
        "gcvit_xxtiny",
        "nextvit_small",
        "hiera_tiny_224",
        "vit_base_r26_s32_224",
    ],
}


def main() -> None:
    """Measure the networks that are named, or all that have no row yet, and write the table."""
    import onnxruntime  # noqa: F401
    import torch

    from clipdistill.models.compression.quantization import modelopt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="timm's names; all unless given")
    given = parser.parse_args()
    torch.set_num_threads(1)
    modelopt()  # the children are forked, and need not import it again
    rows = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    for name in given.names or [name for names in FAMILIES.values() for name in names]:
        if name not in rows or given.names:
            rows[name] = in_child(name)
            print(name, json.dumps(rows[name]), flush=True)
            ROWS.write_text(json.dumps(rows, indent=1) + "\n")
            TABLE.write_text(table(rows))


def in_child(name: str) -> dict[str, object]:
    """Measure one network in a process of its own."""
    started = time.monotonic()
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=answer, args=(name, there))
    child.start()
    there.close()
    try:
        row = here.recv()
    except EOFError:
        row = {"failed": f"took more than {LIMIT_SECONDS} s, or too much memory"}
    child.join()
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def answer(name: str, there: Any) -> None:
    """Send the row of one network, or why there is none."""
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
    try:
        row = measure(name)
    except Exception as error:
        row = {"failed": f"{type(error).__name__}: {error}"[:200]}
    there.send(row)


def measure(name: str) -> dict[str, object]:
    """Export a random student, prune it, quantise it and export that."""
    import copy

    from clipdistill.core.errors import ClipDistillError, first_line
    from clipdistill.models.compression import Compressed, add_int8, add_sparsity

    row: dict[str, object] = {}
    size, network = build(name)
    row["size"] = size
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        try:
            row["dense"] = exported(name, size, Compressed(copy.deepcopy(network)), here / "dense")
        except ClipDistillError as error:
            row["dense"] = {"failed": first_line(error)}
        try:
            done = add_sparsity(Compressed(copy.deepcopy(network)), size)
            assert done.compression.sparse is not None
            row["sparse"] = {"share": round(done.compression.sparse.macs_share, 3)}
        except ClipDistillError as error:
            row["sparse"] = {"failed": first_line(error)}
        try:
            done = add_int8(
                Compressed(copy.deepcopy(network)), size, name, [noise(size)], IMAGES, "max"
            )
            int8 = done.compression.int8
            assert int8 is not None
            row["int8"] = {
                "cosine": round(cosine(network, done.network, size), 4),
                "layers": len(int8.layers),
                "adds": len(int8.residuals),
                "float_adds": int8.float_adds,
            }
            row["int8"] |= exported(name, size, done, here / "int8")
        except ClipDistillError as error:
            row["int8"] = {**row.get("int8", {}), "failed": first_line(error)}
    return row


def build(name: str):
    """Build a network at the smallest side that it can have, with statistics of noise."""
    import torch

    from clipdistill.core.errors import ClipDistillError
    from clipdistill.models.student import build_student, check_size

    for size in SIZES:
        torch.manual_seed(0)
        try:
            network = build_student(name, DIM, image_size=size)
            check_size(network, name, size)
        except ClipDistillError:
            continue
        settle(network, size)
        return size, network.eval()
    raise ValueError(f"runs at none of {SIZES} px")


def noise(size: int, seed: int = 0):
    """Smooth random images, normalised: float32 (IMAGES, 3, S, S)."""
    import torch

    from clipdistill.images.synthetic import smooth_pixels

    pixels = smooth_pixels(IMAGES + 4, size)[seed : seed + IMAGES].astype(np.float32)
    return torch.from_numpy(pixels / 64 - 2).permute(0, 3, 1, 2).contiguous()


def settle(network, size: int) -> None:
    """Give norms statistics, and weights that start at zero values, as a training does."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d) and layer.affine:
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.uniform_(-0.3, 0.3, generator=generator)
            layer.momentum = None
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.02, generator=generator)
    network.train()
    with torch.no_grad():
        network(noise(size))
    network.eval()


def cosine(network, other, size: int) -> float:
    """Mean cosine between two networks' embeddings of images that they were not calibrated on."""
    import torch

    with torch.inference_mode():
        first, second = network(noise(size, 4)), other.eval()(noise(size, 4))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=-1).mean())


def exported(name: str, size: int, compressed, folder: Path) -> dict[str, object]:
    """Save a student, export it for both targets and lint the files."""
    from clipdistill.deploy.export import export
    from clipdistill.deploy.lint import lint
    from clipdistill.formats.cards import StudentCard
    from clipdistill.formats.student import save_card, save_samples, save_weights
    from clipdistill.images.synthetic import smooth_pixels
    from clipdistill.models.student import default_preprocess

    folder.mkdir()
    save_weights(folder, compressed.network.state_dict())
    save_samples(folder, smooth_pixels(IMAGES, size))
    done = compressed.compression
    card = StudentCard(
        name,
        DIM,
        default_preprocess(name, size, None),
        None,
        compression=None if done.int8 is None else done,
    )
    save_card(folder, card)
    found: dict[str, object] = {}
    for target in ("onnxruntime", "tensorrt"):
        result = export(str(folder), folder / f"{target}.onnx", target=target)
        found[target] = round(result.mean_cosine, 5)
    report = lint(folder / "tensorrt.onnx", target="tensorrt")
    found["uncounted"] = report.uncounted
    found["int8_share"] = round(report.int8_share, 3)
    found["macs"] = report.macs
    return found


def table(rows: dict[str, dict]) -> str:
    """The page."""
    lines = [
        "# What each family supports",
        "",
        "Written by `benchmarks/students.py`, with random weights and small images on a processor.",
        "",
        "- *dense*: `export` writes files for both targets that compute what PyTorch computes.",
        "- *2:4*: share of the multiplications in layers that sparse kernels take.",
        "- *INT8 cosine*: calibrated network against the one in floating point. Random weights",
        "  amplify rounding; trained networks are nearer. (For the same reason the FP32 file of",
        "  efficientnetv2_rw_t differs here.)",
        "- *INT8 share*: share of the multiplications with INT8 weights, in the file for TensorRT.",
        "- *adds*: residual adds that are INT8, and that stay in floating point.",
        "",
    ]
    for family, names in FAMILIES.items():
        lines += [
            f"## {family}",
            "",
            "| student | px | dense | 2:4 | INT8 cosine | INT8 share | adds INT8 / float | |",
            "|---|--:|---|--:|--:|--:|--:|---|",
        ]
        lines += [line(name, rows[name]) for name in names if name in rows]
        lines.append("")
    return "\n".join(lines)


def line(name: str, row: dict) -> str:
    """One row of the table."""
    if "size" not in row:
        return f"| {name} | | | | | | | {row.get('failed', '')} |"
    dense, sparse, int8 = row["dense"], row["sparse"], row["int8"]
    failed = "; ".join(
        f"{kind}: {part['failed']}"
        for kind, part in (("dense", dense), ("2:4", sparse), ("INT8", int8))
        if "failed" in part
    )
    share = f"{100 * sparse['share']:.0f}%" if "share" in sparse else "no"
    return " | ".join(
        [
            f"| {name}",
            str(row["size"]),
            "no" if "failed" in dense else "yes",
            share,
            f"{int8['cosine']:.3f}" if "cosine" in int8 else "no",
            f"{100 * int8['int8_share']:.0f}%" if "int8_share" in int8 else "",
            f"{int8['adds']} / {int8['float_adds']}" if "adds" in int8 else "",
            f"{failed} |",
        ]
    )


if __name__ == "__main__":
    main()
