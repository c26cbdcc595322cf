"""Read event recordings of many formats into four columns, and draw them as images."""
