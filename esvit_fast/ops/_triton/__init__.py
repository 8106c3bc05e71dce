"""Backends that launch Triton kernels, one operator a file."""
