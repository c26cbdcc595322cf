"""The machine and its processes: what times depend on beside the code, locks, what ends with whom, GPU telemetry."""
