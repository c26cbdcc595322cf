"""Models, one file per family. `registry.py` names them, `protocol.py` is what a stage may ask of a model."""
