"""Fresh processes that measure: of one side, or of two by turns."""
