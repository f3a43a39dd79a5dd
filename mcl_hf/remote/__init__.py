"""The Hub as a place that may be away for a while: checkpoints fetched whole."""
