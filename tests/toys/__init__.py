"""What a stranger adds in one file outside of the package; ESVIT_FAST_PLUGINS names it."""
