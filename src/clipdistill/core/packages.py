"""The packages that clipdistill imports: who brings each, and what the extras are for."""

from __future__ import annotations

BASE_PACKAGES = {"numpy": "numpy", "PIL": "pillow", "onnxruntime": "onnxruntime"}
"""Module -> its package, of those that every installation has and that may fail to load."""

EXTRA_PACKAGES = {
    "accelerate": ("accelerate", "train"),
    "ai_edge_litert": ("ai-edge-litert", "litert"),
    "aiohttp": ("aiohttp", "web"),
    "cuda": ("cuda-bindings", "tensorrt"),
    "cv2": ("opencv-python", "demo"),
    "fsspec": ("fsspec", "web"),
    "gcsfs": ("gcsfs", "storage"),
    "huggingface_hub": ("huggingface_hub", "storage"),
    "jinja2": ("jinja2", "report"),
    "litert_torch": ("litert-torch", "litert-convert"),
    "matplotlib": ("matplotlib", "plots"),
    "modelopt": ("nvidia-modelopt", "compress"),
    "onnx": ("onnx", "train"),
    "onnxscript": ("onnxscript", "train"),
    "open_clip": ("open_clip_torch", "train"),
    "openvino": ("openvino", "openvino"),
    "pyarrow": ("pyarrow", "web"),
    "ray": ("ray", "ray"),
    "requests": ("requests", "compress"),
    "s3fs": ("s3fs", "storage"),
    "safetensors": ("safetensors", "train"),
    "starlette": ("starlette", "web"),
    "tensorboard": ("tensorboard", "train"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "timm": ("timm", "train"),
    "torch": ("torch", "train"),
    "torchvision": ("torchvision", "train"),
    "transformers": ("transformers", "siglip"),
    "urllib3": ("urllib3", "web"),
    "uvicorn": ("uvicorn", "web"),
}
"""Module -> its package, and the extra that brings it."""

EXTRAS = {
    "web": "search and download images, serve a pool",
    "train": "embed, distill, export, evaluate teachers and students",
    "compress": "students in INT8 (--qat, quantize)",
    "siglip": "SigLIP teachers, and others whose tokenizer is on the model hub",
    "openvino": "run .onnx files in OpenVINO, which is fast for INT8 on x86",
    "litert": "run .tflite files in LiteRT, the runtime of phones and boards",
    "litert-convert": "make .tflite files (export --target litert)",
    "tensorrt": "build and run engines for NVIDIA GPUs (engine)",
    "plots": "charts (benchmark --plot)",
    "report": "the report of a run and its model card",
    "ray": "embed many images on several machines",
    "storage": "images and embeddings in object storage (s3://, gs://, hf://)",
    "demo": "cameras and videos (demo), and the page of demo --web",
}
"""Extra -> what it is for."""
