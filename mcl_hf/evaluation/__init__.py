"""From a detector to COCO AP: predictions on annotated images, results files, metrics."""
