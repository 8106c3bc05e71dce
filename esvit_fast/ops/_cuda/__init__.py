"""Backends that call the compiled library of CUDA C++ kernels, one operator a file."""
