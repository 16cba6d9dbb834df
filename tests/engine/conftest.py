"""What the tests of the engine share."""

from labs.engines import engine, images_type, make_engine, qcow2_content, qcow2_image, raw_content, raw_image
from labs.glance import glance_of_my_own

__all__ = [
    "engine",
    "glance_of_my_own",
    "images_type",
    "make_engine",
    "qcow2_content",
    "qcow2_image",
    "raw_content",
    "raw_image",
]
