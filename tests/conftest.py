"""Hypothesis profiles: `ci` is the default; HYPOTHESIS_PROFILE=thorough takes the many examples of a release."""

import os

from hypothesis import HealthCheck, settings

# Models are built inside the examples: slow to generate is what they are.
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, suppress_health_check=QUIET)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
