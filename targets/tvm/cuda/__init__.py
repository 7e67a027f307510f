"""The pipeline and the compiler for NVIDIA GPUs."""
