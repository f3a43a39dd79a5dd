"""From a start and annotated images to a detector: arguments, data, step, evaluation on the way, the run."""
