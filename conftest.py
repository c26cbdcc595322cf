"""Loads stagebench's pytest plugin for tests and benchmarks alike."""

import os

import torch

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter; read when transformers imports triton, which the plugin has it do.
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ("stagebench.suite.plugin",)
