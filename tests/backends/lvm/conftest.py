"""What the tests of the driver lvm share."""

from labs.volumes import changes, looks, stop_at, thick, thin

__all__ = ["changes", "looks", "stop_at", "thick", "thin"]
