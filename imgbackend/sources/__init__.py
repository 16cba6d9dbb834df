"""Where images come from: the contract, and the sources that imgbackend brings."""
