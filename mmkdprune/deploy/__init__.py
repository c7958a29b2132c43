"""What leaves training: the deployable network, as a file, a compact folder, ONNX, or in another config."""
