"""Stage-by-stage benchmarks for vision-language models.

The path, in reading order: a Sample goes through `pipeline/load.py`, `preprocess.py`, `encode.py`, `prefill.py` and
`decode.py`; `pipeline/run_stages.py` runs them in a row; `gate/baseline.py` keeps what they took.
"""

__version__ = "0.1.0"
