"""The benchmarks of models, for `pytest --pyargs stagebench.benchmarks` in any folder."""
