"""From pixels to views: what is drawn for each image, then crop, resize, colour and blur."""
