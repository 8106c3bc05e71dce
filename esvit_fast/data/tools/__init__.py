"""What `esvit-fast data` does: check, preview and pack a set of images."""
