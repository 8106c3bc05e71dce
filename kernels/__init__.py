"""Device code in Triton and its launch configurations: knows no torch, and triton only where a kernel is imported."""

if __name__ != "esvit_fast.kernels":
    raise ImportError(f"{__name__!r} would be a second copy of every kernel; import esvit_fast.kernels")
