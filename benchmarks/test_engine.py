"""Of the package, under the names that results have."""

from stagebench.benchmarks.test_engine import *
