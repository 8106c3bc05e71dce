"""Device code in Triton and its launch configurations: knows no torch, and triton only where a kernel is imported."""

if __name__ != "esvit_fast.kernels":
    # not an ImportError: other libraries look for a package of this name, and this folder may be on the path
    __path__ = []

    def __getattr__(name: str):
        raise AttributeError(f"a second copy of every kernel has no {name}; import esvit_fast.kernels")
