"""Inner loops: arrays in, arrays out."""
