"""The parts of `tools/quantization_accuracy.py`: the networks and images, the quantizers, and the table."""
