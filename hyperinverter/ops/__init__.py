"""Tensor operations the networks are built from: resampling, modulated convolution, bias with activation."""
