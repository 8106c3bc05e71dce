"""What compilers make of kernels: manifests, launch tables, and compute-sanitizer."""
