"""The checks, a file for each part of the protocol. Each has GROUP, whose checks run in the order they are written."""
