"""What imgbackend writes to remember: each format of a file that lies on disk has one module."""
