"""Deployment of students: ONNX files, checks of them, TensorRT engines."""
