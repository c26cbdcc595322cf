"""The five stages, one file each, in reading order: load, preprocess, encode, prefill, decode."""
