"""Images packed once into shards of the size that training needs."""
