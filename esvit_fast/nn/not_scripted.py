"""Modules that TorchScript cannot compile, and say so."""

from __future__ import annotations


class NotScripted:
    """A base of modules whose code is not in the subset of Python that `torch.jit.script` compiles."""

    def __prepare_scriptable__(self):
        """What `torch.jit.script` calls first.

        Raises:
            NotImplementedError: always, with what works instead.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot be scripted; torch.jit.trace(model, images) and "
            "torch.export.export(model, (images,)) record it in plain torch"
        )
