"""Fixtures of the tests of instances."""

from labs.engines import engine, images_type, make_engine

__all__ = ["engine", "images_type", "make_engine"]
