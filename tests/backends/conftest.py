"""What the tests of the drivers share."""

from labs.engines import engine, images_type, make_engine, qcow2_content, qcow2_image, raw_content, raw_image

__all__ = ["engine", "images_type", "make_engine", "qcow2_content", "qcow2_image", "raw_content", "raw_image"]
