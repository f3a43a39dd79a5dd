"""A detector on images without annotations: tiles, merged detections, files that training reads back."""
