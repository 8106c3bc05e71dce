"""Losses, each a module of its own."""
