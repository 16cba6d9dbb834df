"""What the tests of the driver lvm share."""

from labs.volumes import changes, stop_at, thick, thin

__all__ = ["changes", "stop_at", "thick", "thin"]
