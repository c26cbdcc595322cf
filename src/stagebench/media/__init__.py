"""Turn clips, recordings and event images into uint8 RGB, and write the synthetic clip."""
