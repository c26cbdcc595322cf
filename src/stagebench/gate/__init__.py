"""Slower or not: verdicts, limits, history, and both sides measured in turns. Importable without torch."""
