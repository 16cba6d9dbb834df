"""Whether the bytes of bases are still those that were published."""
