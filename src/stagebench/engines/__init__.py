"""Engines that serve a model, timed on the same path as transformers."""
