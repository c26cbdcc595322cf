"""Fresh processes that measure: of one side, or of two by turns."""

# Of the environment of each: the repository whose copy it measures, and the folder of all copies; "" for no copy.
COPY_OF = "STAGEBENCH_COPY_OF"
