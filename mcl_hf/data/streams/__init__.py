"""Images read once in shuffled shards, and tiles cut from pictures, both exactly resumable."""
