"""From a student to a device: ONNX files, their checks, engines."""
