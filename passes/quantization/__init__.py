"""Passes that quantize: floats become integers with scales, as QuantizeLinear and DequantizeLinear in standard ONNX."""
