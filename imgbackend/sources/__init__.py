"""Where images come from: the contract of sources, and those that imgbackend brings."""
