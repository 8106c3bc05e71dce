"""Backends in plain torch whose memory is bounded, one operator a file: for any device, and what kernels refuse."""
