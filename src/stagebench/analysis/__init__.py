"""Analyse measured seconds: attribution, summaries, fits. Importable without torch, except for experiments."""
