"""One file a family; `registry.py` names them, `protocol.py` says what a stage may ask of one."""
