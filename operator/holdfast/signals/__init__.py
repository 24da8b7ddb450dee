"""What running models say: read over HTTP, believed only as far as it can be."""
