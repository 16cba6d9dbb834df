"""What an author of a driver derives from and calls."""
