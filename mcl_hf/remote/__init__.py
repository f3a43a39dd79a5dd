"""The Hub as a place that may be away for a while: the one retry, the one redaction, and checkpoints fetched whole."""
