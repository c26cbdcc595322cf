"""Slower or not: verdicts, limits, trends, and both sides measured in turns. Importable without torch."""
