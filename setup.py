"""Nothing to compile: all metadata is in pyproject.toml, and every operator runs on its oracle."""

from setuptools import setup

setup()
