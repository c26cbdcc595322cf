"""How clips, recordings and event images become uint8 RGB, and the synthetic clip."""
