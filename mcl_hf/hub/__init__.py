"""Cards from what was recorded, and publishing on the Hub."""
