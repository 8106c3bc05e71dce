"""Backends that call the compiled library of CPU kernels, one operator a file."""
