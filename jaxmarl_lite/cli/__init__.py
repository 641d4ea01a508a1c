"""The commands of the command line: options made from typed records, and what they call."""
