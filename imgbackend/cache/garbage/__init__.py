"""What killed calls left behind, in folders and in stores: found, and removed where it is surely dead."""
