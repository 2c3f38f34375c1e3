"""From ONNX to the build directory: import, quantise, schedule, emit."""
